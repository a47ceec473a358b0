//! A ring of receive buffers shared with the kernel (`IORING_REGISTER_PBUF_RING`).
//!
//! Owned by the ring's thread. A buffer is either in the ring (the kernel may write it) or out, named by the
//! one [`RecvBuf`](crate::io::RecvBuf) that carries its id (only the holder reads it).

use io_uring::types::BufRingEntry;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Buffers of one size.
pub(crate) struct BufRing {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    size: u32,
    tail: u16,
    group: u16,
    /// Buffers handed out now.
    pub(crate) out: u32,
}

impl BufRing {
    /// Maps `count` buffers (a power of two) of `size` bytes and registers them as `group`.
    pub(crate) fn new(ring: &io_uring::IoUring, group: u16, count: u16, size: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && size > 0);
        let entries = map(ring_bytes(count))?.cast::<BufRingEntry>();
        let memory = map(usize::from(count) * size as usize)?;
        // SAFETY: the entry array is page-aligned, `count` entries long, and unmapped only in `drop`, which
        // the owner runs after the ring is gone.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, group, 0) }?;
        let mut this = Self { entries, memory, count, size, tail: 0, group, out: 0 };
        for id in 0..count {
            this.push(id);
        }
        this.publish();
        Ok(this)
    }

    pub(crate) fn group(&self) -> u16 {
        self.group
    }

    /// The first `len` bytes of a buffer that is out.
    pub(crate) fn bytes(&self, id: u16, len: u32) -> &[u8] {
        assert!(id < self.count && len <= self.size);
        // SAFETY: `id` is inside the mapping by the assertion.
        let start = unsafe { self.memory.as_ptr().add(usize::from(id) * self.size as usize) };
        // SAFETY: the range is mapped and was zeroed or written by the kernel; the caller holds the
        // buffer's RecvBuf, so it is out of the ring and nobody writes it while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(start, len as usize) }
    }

    /// Puts a buffer back; visible to the kernel at once.
    pub(crate) fn give_back(&mut self, id: u16) {
        assert!(id < self.count);
        self.out -= 1;
        self.push(id);
        self.publish();
    }

    fn push(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: `slot` is below `count`, the number of mapped entries.
        let entry = unsafe { self.entries.as_ptr().add(slot) };
        // SAFETY: inside the mapping and aligned; the kernel does not read this entry before `publish`.
        let entry = unsafe { &mut *entry };
        // SAFETY: `id` is below `count`, so the address is inside the mapping.
        let start = unsafe { self.memory.as_ptr().add(usize::from(id) * self.size as usize) };
        entry.set_addr(start as u64);
        entry.set_len(self.size);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the ring's tail lives in the first entry of the mapping, for the mapping's lifetime.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the pointer is aligned and valid; the kernel reads it with acquire semantics.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; the ring that knew it is dropped before.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), ring_bytes(self.count)) };
        // SAFETY: as above.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), usize::from(self.count) * self.size as usize) };
    }
}

fn ring_bytes(count: u16) -> usize {
    usize::from(count) * size_of::<BufRingEntry>()
}

fn map(len: usize) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh anonymous mapping; no existing memory is touched.
    let addr =
        unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if addr == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(addr.cast()).ok_or_else(|| io::Error::other("mmap returned null"))
}
