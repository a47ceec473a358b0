//! The memory of the RAM store: one memfd, mapped once, cut into blobs.
//!
//! Owns the mapping, the map of taken units and the count of bytes in use. Shared by all workers of a process;
//! the allocator's lock is taken when a blob is made, grown, trimmed or dropped, never to read one.
//!
//! What must stay true:
//! * A unit of the arena belongs to at most one live [`Blob`]. Bytes below [`Blob::len`] never change while the
//!   blob lives, so any number of threads may read them while one appends above.
//! * Bytes charged ([`Arena::used`]) never exceed [`Arena::capacity`].
//! * **Sent by copy** (`send`, `write`): the kernel has copied the bytes when the call, or its CQE, says so; the
//!   holder of the `Arc<Blob>` keeps it until then. **Sent by reference** (`sendfile`, `splice` from
//!   [`Arena::fd`]): socket buffers hold the *pages* until the peer has acknowledged them, long after the call
//!   returned and perhaps after the blob is gone. Therefore [`Blob::file_range`] is the only way to learn a file
//!   offset; it gives out whole pages that belong to one blob alone and marks the blob; a marked blob's pages
//!   are punched out of the memfd *before* the allocator may give them away again. A page in flight is thereby
//!   cut loose from the file and freed by the last socket buffer; the next owner gets fresh pages. If punching
//!   fails the pages are never used again ([`ArenaStats::lost_bytes`]).
//! * The mapping is `MADV_NOHUGEPAGE`: punching part of a huge page held by a socket would zero it in place.
//! * The memfd cannot shrink (`F_SEAL_SHRINK`), so reading the mapping cannot fault.
//! * Memory held by socket buffers of punched pages is bounded by the sockets' send buffers, and not charged here.

mod tlsf;

use crate::payload::{Slice, StableBytes};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tlsf::Tlsf;

/// Granularity of blobs: one cache line.
pub const UNIT_BYTES: u64 = 64;
/// Page size assumed for exclusive ownership of pages.
pub const PAGE_BYTES: u64 = 4096;
/// Blobs at least this long take whole pages, so that they may be sent by reference. Below it a copy costs less
/// than the bookkeeping of pages, and rounding to pages would waste more than 6 %.
pub const PAGED_MIN_BYTES: u64 = 64 << 10;
/// Longest piece of a blob made of several.
pub const PIECE_MAX_BYTES: u64 = 1 << 20;
/// Shortest piece taken when free space is in fragments: shorter ones cost more in bookkeeping than they hold.
pub const PIECE_MIN_BYTES: u64 = 1 << 10;
/// A reservation takes no pieces shorter than this part of it (at most [`PIECE_MIN_LONG_BYTES`]): a body is sent in
/// few parts.
const PIECES_AIM: u64 = 64;
/// See [`PIECES_AIM`].
const PIECE_MIN_LONG_BYTES: u64 = 16 << 10;
/// Largest arena: unit numbers are 32 bits wide, and one is reserved.
pub const CAPACITY_MAX_BYTES: u64 = (u32::MAX as u64 - 1) * UNIT_BYTES;

/// Pieces in the first block of the list of further pieces; each further block is twice as long.
const BUCKET_FIRST: usize = 8;
/// 8 + 16 + ... pieces: enough for [`CAPACITY_MAX_BYTES`] in pieces of [`PAGED_MIN_BYTES`].
const BUCKETS: usize = 20;
/// Set in a piece's block number when the piece owns whole pages.
const PAGED_BIT: u32 = 1 << 31;

/// Why a reservation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveError {
    /// The charge would exceed the capacity: something must be freed first.
    OverCapacity,
    /// Enough is free, but not in pieces that would do.
    Fragmented,
    /// More than the arena could ever hold.
    TooLarge,
}

/// Figures of an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaStats {
    /// Bytes punched out because they had been sent by reference.
    pub punched_bytes: u64,
    /// Bytes out of use because punching failed.
    pub lost_bytes: u64,
}

/// The arena.
pub struct Arena {
    base: NonNull<u8>,
    map_len: usize,
    file: File,
    capacity: u64,
    used: AtomicU64,
    punched: AtomicU64,
    lost: AtomicU64,
    space: Mutex<Tlsf>,
}

// SAFETY: `base` points to a mapping that lives as long as the arena; all access to it goes through `Blob`s, which
// own disjoint ranges and publish their bytes with release/acquire ordering.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`; the only interior state is behind atomics and a mutex.
unsafe impl Sync for Arena {}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("capacity", &self.capacity).field("used", &self.used()).finish()
    }
}

impl Arena {
    /// Maps an arena of `capacity` bytes, rounded down to pages. Pages are taken from the system when first
    /// written.
    pub fn new(capacity: u64) -> io::Result<Arc<Self>> {
        let capacity = capacity / PAGE_BYTES * PAGE_BYTES;
        if capacity == 0 || capacity > CAPACITY_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "arena capacity out of range"));
        }
        let file = sealed_memfd(capacity)?;
        let map_len = usize::try_from(capacity).map_err(io::Error::other)?;
        let base = map_shared(&file, map_len)?;
        Ok(Arc::new(Self {
            base,
            map_len,
            file,
            capacity,
            used: AtomicU64::new(0),
            punched: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            space: Mutex::new(Tlsf::new((capacity / UNIT_BYTES) as u32)),
        }))
    }

    /// Bytes that may be charged.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes charged now: blobs, rounded up to units, and what [`Arena::charge`] added.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counters.
    pub fn stats(&self) -> ArenaStats {
        ArenaStats {
            punched_bytes: self.punched.load(Ordering::Relaxed),
            lost_bytes: self.lost.load(Ordering::Relaxed),
        }
    }

    /// The memfd, for [`Blob::file_range`] offsets.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Charges bytes that live elsewhere (index entries) against the same capacity.
    #[must_use = "a refused charge must not be spent"]
    pub fn charge(&self, bytes: u64) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.capacity)
            })
            .is_ok()
    }

    /// Takes a charge back.
    pub fn uncharge(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "uncharged more than was charged");
    }

    /// Reserves room for `bytes` bytes, the first `together` of them in one piece; all of them in as few pieces as
    /// the free space allows, and from [`PAGED_MIN_BYTES`] on in whole pages. 0 bytes take one unit.
    pub fn reserve(self: &Arc<Self>, bytes: u64, together: u64) -> Result<Blob, ReserveError> {
        if bytes > self.capacity {
            return Err(ReserveError::TooLarge);
        }
        if self.used() + bytes > self.capacity {
            return Err(ReserveError::OverCapacity);
        }
        let bytes = bytes.max(1);
        let least = (bytes / PIECES_AIM).clamp(PIECE_MIN_BYTES, PIECE_MIN_LONG_BYTES).min(bytes);
        let first =
            self.take_piece(bytes.clamp(together, PIECE_MAX_BYTES.max(together)), least.max(together))?;
        let blob = Blob {
            arena: self.clone(),
            first_start: first.start,
            first_block: first.block,
            count: AtomicU32::new(1),
            len: AtomicU64::new(0),
            room: AtomicU64::new(first.len),
            busy: AtomicBool::new(false),
            by_reference: AtomicBool::new(false),
            more: OnceLock::new(),
        };
        while blob.room() < bytes {
            let missing = bytes - blob.room();
            blob.add_piece(missing.min(PIECE_MAX_BYTES), least.min(missing))?;
        }
        Ok(blob)
    }

    fn space(&self) -> MutexGuard<'_, Tlsf> {
        // The allocator panics only on a broken invariant, and then nothing it says can be trusted.
        self.space.lock().expect("arena allocator poisoned")
    }

    /// One piece of `bytes`, or of the next lower power of two and so on while the free space is in
    /// fragments, not below `least`.
    fn take_piece(&self, bytes: u64, least: u64) -> Result<Piece, ReserveError> {
        let mut wanted = bytes;
        loop {
            let paged = wanted >= PAGED_MIN_BYTES;
            let round = if paged { PAGE_BYTES } else { UNIT_BYTES };
            let len = wanted.next_multiple_of(round);
            if !self.charge(len) {
                return Err(ReserveError::OverCapacity);
            }
            let mut space = self.space();
            if let Some(block) = space.take((len / UNIT_BYTES) as u32, (round / UNIT_BYTES) as u32) {
                assert!(block & PAGED_BIT == 0, "block numbers stay below the flag");
                let start = u64::from(space.start(block)) * UNIT_BYTES;
                return Ok(Piece { start, len, block: if paged { block | PAGED_BIT } else { block } });
            }
            drop(space);
            self.uncharge(len);
            if wanted == least {
                return Err(ReserveError::Fragmented);
            }
            wanted = (wanted.next_power_of_two() / 2).max(least);
        }
    }

    fn free_piece(&self, block: u32, start: u64, punch: bool) {
        let id = block & !PAGED_BIT;
        let len = u64::from(self.space().len(id)) * UNIT_BYTES;
        if punch && block & PAGED_BIT != 0 {
            if let Err(error) = punch_hole(&self.file, start, len) {
                debug_assert!(false, "punching a memfd failed: {error}");
                self.lost.fetch_add(len, Ordering::Relaxed);
                return;
            }
            self.punched.fetch_add(len, Ordering::Relaxed);
        }
        self.space().free(id);
        self.uncharge(len);
    }

    /// Gives back the tail of a piece; `keep` bytes stay, rounded up to its granularity.
    fn shrink_piece(&self, block: u32, keep: u64) -> u64 {
        let round = if block & PAGED_BIT != 0 { PAGE_BYTES } else { UNIT_BYTES };
        let keep = keep.max(1).next_multiple_of(round);
        let mut space = self.space();
        let len = u64::from(space.len(block & !PAGED_BIT)) * UNIT_BYTES;
        if keep < len {
            space.shrink(block & !PAGED_BIT, (keep / UNIT_BYTES) as u32);
            drop(space);
            self.uncharge(len - keep);
        }
        keep.min(len)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `base` and `map_len` are what mmap returned and took; every blob holds an Arc of the arena, so no
        // slice of the mapping is alive.
        let rc = unsafe { libc::munmap(self.base.as_ptr().cast(), self.map_len) };
        debug_assert_eq!(rc, 0);
    }
}

struct Piece {
    start: u64,
    len: u64,
    block: u32,
}

#[derive(Default)]
struct PieceSlot {
    start: AtomicU64,
    logical: AtomicU64,
    block: AtomicU32,
}

type Bucket = OnceLock<Box<[PieceSlot]>>;

/// Bytes in the arena: written once from front to back, read by many.
///
/// Appending is for one thread at a time: two appends at once panic, they do not corrupt.
pub struct Blob {
    arena: Arc<Arena>,
    first_start: u64,
    first_block: u32,
    count: AtomicU32,
    len: AtomicU64,
    room: AtomicU64,
    busy: AtomicBool,
    by_reference: AtomicBool,
    more: OnceLock<Box<[Bucket; BUCKETS]>>,
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blob").field("len", &self.len()).field("pieces", &self.pieces()).finish()
    }
}

/// Holds the right to change a blob.
struct Busy<'a>(&'a Blob);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

impl Blob {
    /// Bytes published so far.
    #[inline]
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Nothing is published yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes reserved, published or not.
    pub fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    /// Number of pieces.
    pub fn pieces(&self) -> usize {
        self.count.load(Ordering::Acquire) as usize
    }

    /// The arena it lives in.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Copies bytes behind those published and publishes them. Returns how many fitted in the reservation.
    ///
    /// # Panics
    /// If another append, grow or trim of this blob is under way.
    pub fn append(&self, data: &[u8]) -> usize {
        let _busy = self.enter();
        let mut done = 0;
        while done < data.len() {
            let at = self.len.load(Ordering::Relaxed);
            let room = self.room();
            if at == room {
                break;
            }
            let (start, logical, end) = self.piece_holding(at, room);
            let n = ((end - at) as usize).min(data.len() - done);
            let from = &data[done..done + n];
            let target = (start + (at - logical)) as usize;
            debug_assert!(target + n <= self.arena.map_len);
            // SAFETY: `target` is inside a piece of this blob, inside the mapping.
            let to = unsafe { self.arena.base.as_ptr().add(target) };
            // SAFETY: `[target, target + n)` belongs to this blob alone and lies above `len`, so no reader has a
            // slice of it; `busy` keeps other writers out; `from` is a live slice that cannot overlap it, for
            // slices of the arena end at or below the `len` of their own blob.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
            done += n;
            self.len.store(at + n as u64, Ordering::Release);
        }
        done
    }

    /// Reserves one more piece of about `bytes` (at most [`PIECE_MAX_BYTES`]); less when space is in fragments.
    ///
    /// # Panics
    /// If another append, grow or trim of this blob is under way.
    pub fn grow(&self, bytes: u64) -> Result<(), ReserveError> {
        self.add_piece(bytes.clamp(PAGED_MIN_BYTES, PIECE_MAX_BYTES), PIECE_MIN_BYTES)
    }

    fn add_piece(&self, bytes: u64, least: u64) -> Result<(), ReserveError> {
        let _busy = self.enter();
        let index = self.pieces();
        let Some((bucket, slot)) = bucket_of(index - 1) else {
            return Err(ReserveError::TooLarge);
        };
        let piece = self.arena.take_piece(bytes, least)?;
        let buckets = self.more.get_or_init(|| Box::new([const { OnceLock::new() }; BUCKETS]));
        let slots = buckets[bucket]
            .get_or_init(|| (0..BUCKET_FIRST << bucket).map(|_| PieceSlot::default()).collect());
        let slot = &slots[slot];
        let room = self.room();
        slot.start.store(piece.start, Ordering::Relaxed);
        slot.logical.store(room, Ordering::Relaxed);
        slot.block.store(piece.block, Ordering::Relaxed);
        self.count.store(index as u32 + 1, Ordering::Release);
        self.room.store(room + piece.len, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what is reserved and not published.
    ///
    /// # Panics
    /// If another append, grow or trim of this blob is under way.
    pub fn trim(&self) {
        let _busy = self.enter();
        let len = self.len.load(Ordering::Relaxed);
        let mut count = self.pieces();
        while count > 1 {
            let (start, logical, block) = self.piece(count - 1);
            if logical < len {
                break;
            }
            count -= 1;
            self.count.store(count as u32, Ordering::Release);
            self.room.store(logical, Ordering::Relaxed);
            self.arena.free_piece(block, start, false);
        }
        let (_, logical, block) = self.piece(count - 1);
        let kept = self.arena.shrink_piece(block, len - logical);
        self.room.store(logical + kept, Ordering::Relaxed);
    }

    /// The published bytes from `offset` to the end of their piece; empty at or behind the end.
    #[inline]
    pub fn chunk_at(&self, offset: u64) -> &[u8] {
        let len = self.len();
        if offset >= len {
            return &[];
        }
        let (start, logical, end) = self.piece_holding(offset, len);
        let from = (start + (offset - logical)) as usize;
        // SAFETY: `from` is inside a piece of this blob, inside the mapping.
        let ptr = unsafe { self.arena.base.as_ptr().add(from) };
        // SAFETY: `[from, from + end - offset)` lies inside one piece owned by this blob, below `len`, which was
        // read with acquire: those bytes were written before and never change while the blob lives, and `self`
        // is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts(ptr, (end - offset) as usize) }
    }

    /// Offset in [`Arena::fd`] and length of the published bytes from `offset` to the end of their piece, for
    /// sending by reference; `None` if the piece does not own whole pages (send it by copy).
    ///
    /// Marks the blob: see the module head for what that means. Call it before each send by reference.
    pub fn file_range(&self, offset: u64) -> Option<(u64, u64)> {
        let len = self.len();
        if offset >= len {
            return None;
        }
        let index = self.index_holding(offset);
        let (start, logical, block) = self.piece(index);
        if block & PAGED_BIT == 0 {
            return None;
        }
        self.by_reference.store(true, Ordering::Relaxed);
        let end = if index + 1 < self.pieces() { self.piece(index + 1).1.min(len) } else { len };
        Some((start + (offset - logical), end - offset))
    }

    fn enter(&self) -> Busy<'_> {
        assert!(!self.busy.swap(true, Ordering::Acquire), "a blob has one writer");
        Busy(self)
    }

    /// Start in the arena, logical start, and block of a piece.
    #[inline]
    fn piece(&self, index: usize) -> (u64, u64, u32) {
        if index == 0 {
            return (self.first_start, 0, self.first_block);
        }
        let slot = bucket_of(index - 1)
            .and_then(|(bucket, slot)| self.more.get()?[bucket].get()?.get(slot))
            .expect("pieces below the count are published");
        (
            slot.start.load(Ordering::Relaxed),
            slot.logical.load(Ordering::Relaxed),
            slot.block.load(Ordering::Relaxed),
        )
    }

    #[inline]
    fn index_holding(&self, offset: u64) -> usize {
        let (mut low, mut high) = (0, self.pieces());
        while high - low > 1 {
            let mid = low.midpoint(high);
            if self.piece(mid).1 <= offset { low = mid } else { high = mid }
        }
        low
    }

    /// Start in the arena and logical start of the piece that holds `offset`, and its end, at most `limit`.
    #[inline]
    fn piece_holding(&self, offset: u64, limit: u64) -> (u64, u64, u64) {
        let count = self.pieces();
        if count == 1 {
            return (self.first_start, 0, limit);
        }
        let index = self.index_holding(offset);
        let (start, logical, _) = self.piece(index);
        let end = if index + 1 < count { self.piece(index + 1).1.min(limit) } else { limit };
        (start, logical, end)
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        let punch = *self.by_reference.get_mut();
        for index in 0..self.pieces() {
            let (start, _, block) = self.piece(index);
            self.arena.free_piece(block, start, punch);
        }
    }
}

/// Bucket and slot of the n-th further piece.
fn bucket_of(n: usize) -> Option<(usize, usize)> {
    let m = n + BUCKET_FIRST;
    let bucket = (usize::BITS - 1 - m.leading_zeros()) as usize - BUCKET_FIRST.trailing_zeros() as usize;
    (bucket < BUCKETS).then(|| (bucket, m - (BUCKET_FIRST << bucket)))
}

/// A range of a blob, kept alive: what a send holds.
#[derive(Clone, Debug)]
pub struct ArenaSlice {
    /// The blob.
    pub blob: Arc<Blob>,
    /// Offset of the next byte.
    pub offset: u64,
    /// Bytes from there on; all of them published.
    pub len: u64,
}

impl ArenaSlice {
    /// A range of published bytes, cut to those there are.
    pub fn new(blob: Arc<Blob>, offset: u64, len: u64) -> Self {
        let there = blob.len().saturating_sub(offset);
        Self { blob, offset, len: len.min(there) }
    }

    /// The first contiguous part; empty only when nothing is left.
    pub fn chunk(&self) -> &[u8] {
        let chunk = self.blob.chunk_at(self.offset);
        let n = usize::try_from(self.len).unwrap_or(usize::MAX).min(chunk.len());
        &chunk[..n]
    }

    /// Steps over bytes that were sent.
    pub fn advance(&mut self, bytes: u64) {
        let bytes = bytes.min(self.len);
        self.offset += bytes;
        self.len -= bytes;
    }

    /// For sending by reference: see [`Blob::file_range`].
    pub fn file_range(&self) -> Option<(u64, u64)> {
        let (at, len) = self.blob.file_range(self.offset)?;
        (self.len > 0).then(|| (at, len.min(self.len)))
    }
}

// SAFETY: `bytes` is the published part of the first piece: it never moves, its bytes never change, and it only gets
// longer while the blob is filled. `file` goes through `file_range`, whose marking keeps pages queued in a socket
// from being written again after the blob is dropped.
unsafe impl StableBytes for Blob {
    fn bytes(&self) -> &[u8] {
        self.chunk_at(0)
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.file_range(0).map(|(at, _)| (self.arena.fd(), at))
    }
}

// SAFETY: as for `Blob`; offset and length of a slice behind an Arc do not change.
unsafe impl StableBytes for ArenaSlice {
    fn bytes(&self) -> &[u8] {
        self.chunk()
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        ArenaSlice::file_range(self).map(|(at, _)| (self.blob.arena.fd(), at))
    }
}

/// Appends `len` published bytes of a blob from `offset` on to a payload's body; what lies in the first piece
/// without an allocation, each further piece with one. Returns how many were appended (fewer only when fewer
/// are published).
pub fn push_slices(blob: &Arc<Blob>, offset: u64, len: u64, body: &mut Vec<Slice>) -> u64 {
    let mut rest = ArenaSlice::new(blob.clone(), offset, len);
    let whole = rest.len;
    while rest.len > 0 {
        let n = rest.chunk().len();
        if rest.offset + n as u64 <= blob.chunk_at(0).len() as u64 {
            body.push(Slice::new(blob.clone(), rest.offset as usize, n));
        } else {
            let piece = ArenaSlice { blob: blob.clone(), offset: rest.offset, len: n as u64 };
            body.push(Slice::new(Arc::new(piece), 0, n));
        }
        rest.advance(n as u64);
    }
    whole
}

fn sealed_memfd(len: u64) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated literal.
    let fd =
        unsafe { libc::memfd_create(c"sluice-store".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: memfd_create just returned this descriptor, and nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len)?;
    // SAFETY: F_ADD_SEALS takes an integer and touches no memory of ours.
    let rc =
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

fn map_shared(file: &File, len: usize) -> io::Result<NonNull<u8>> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of a file we own at an address the kernel chooses; it aliases nothing.
    let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if ptr == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Kernels without transparent huge pages refuse with EINVAL, and then need no advice.
    // SAFETY: the range was just mapped; the advice changes no contents.
    let rc = unsafe { libc::madvise(ptr, len, libc::MADV_NOHUGEPAGE) };
    if rc != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
        let error = io::Error::last_os_error();
        // SAFETY: the mapping was made above and nobody has seen it.
        unsafe { libc::munmap(ptr, len) };
        return Err(error);
    }
    NonNull::new(ptr.cast()).ok_or_else(|| io::Error::other("mmap returned null"))
}

fn punch_hole(file: &File, start: u64, len: u64) -> io::Result<()> {
    debug_assert!(start.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES));
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    loop {
        // SAFETY: the range is whole pages of a blob being dropped: nobody holds a slice of it.
        let rc = unsafe { libc::fallocate(file.as_raw_fd(), mode, start as i64, len as i64) };
        if rc == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests;
