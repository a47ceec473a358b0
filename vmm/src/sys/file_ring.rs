//! The io_uring of one disk queue: reads and writes between a file and guest memory, flush and discard, and the poll of
//! the descriptors that wake the queue's worker. One system call submits what is new and waits for what is done.
//!
//! Invariant: the kernel may use a slot's vectors, its bounce buffer and the guest memory they name until the slot's
//! completion was taken. `GuestRam` is held, slots are not touched while busy, and Drop waits for all of them.

use crate::ram::GuestRam;
use crate::virtio::queue::Segment;
use io_uring::{IoUring, opcode, squeue, types};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// Largest bounce buffer. Requests that a file refuses for their alignment and that are larger than this are split by
/// no driver we know of; they are answered with an error.
pub const MAX_BOUNCE: usize = 4 << 20;
/// Alignment of bounce buffers: the strictest that direct I/O asks for.
const BOUNCE_ALIGN: usize = 4096;
const WATCH: u64 = 1 << 63;

/// What finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A descriptor given to [`FileRing::watch`] became readable.
    Ready(u32),
    /// The request of a slot: bytes or the error number.
    Slot(usize, Result<u32, i32>),
}

/// Direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file into guest memory.
    Read,
    /// From guest memory into the file.
    Write,
}

#[derive(Default)]
struct Slot {
    busy: bool,
    vectors: Vec<libc::iovec>,
    bounce: Option<Bounce>,
}

/// A request that goes through memory of our own.
struct Bounce {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    /// Where a read's bytes belong.
    into: Vec<Segment>,
}

/// See the module's head.
pub struct FileRing {
    ring: IoUring,
    file: File,
    ram: Arc<GuestRam>,
    slots: Vec<Slot>,
    busy: usize,
    watched: Vec<RawFd>,
    /// Submitted and not yet seen by the kernel.
    pending: bool,
}

// SAFETY: the raw pointers are those of iovecs, which name guest memory and bounce buffers that the value owns or holds.
unsafe impl Send for FileRing {}

impl std::fmt::Debug for FileRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileRing")
            .field("slots", &self.slots.len())
            .field("busy", &self.busy)
            .finish_non_exhaustive()
    }
}

impl FileRing {
    /// A ring with `slots` requests in flight at most, for the thread that calls this.
    pub fn new(file: File, ram: Arc<GuestRam>, slots: usize) -> io::Result<Self> {
        // Room for every slot and the polls at once, so that pushing cannot fail.
        let entries = (slots as u32 + 8).next_power_of_two();
        // One thread makes and uses the ring, so completions run only when it waits (Linux 6.1).
        let mut lean = IoUring::builder();
        lean.setup_clamp().setup_single_issuer().setup_defer_taskrun();
        let ring = lean.build(entries).or_else(|_| IoUring::builder().setup_clamp().build(entries))?;
        Ok(Self {
            ring,
            file,
            ram,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            busy: 0,
            watched: Vec::new(),
            pending: false,
        })
    }

    /// Reports when `fd` becomes readable, as `Ready(n)` with the number of the call. The descriptor must stay open as
    /// long as the ring; a closed one is an error of the caller that the kernel answers with EBADF.
    pub fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        self.watched.push(fd);
        self.arm(self.watched.len() - 1)
    }

    /// Watches again after a report.
    pub fn rearm(&mut self, n: u32) -> io::Result<()> {
        self.arm(n as usize)
    }

    fn arm(&mut self, n: usize) -> io::Result<()> {
        let poll = opcode::PollAdd::new(types::Fd(self.watched[n]), libc::POLLIN as u32).build();
        self.submit(poll.user_data(WATCH | n as u64))
    }

    /// Starts a transfer at `offset`. With `bounce` it goes through memory of our own.
    pub fn transfer(
        &mut self,
        slot: usize,
        direction: Direction,
        segments: &[Segment],
        offset: u64,
        bounce: bool,
    ) -> io::Result<()> {
        assert!(!self.slots[slot].busy, "slot {slot} is busy");
        let mut vectors = std::mem::take(&mut self.slots[slot].vectors);
        vectors.clear();
        if bounce {
            self.slots[slot].bounce = Some(self.make_bounce(direction, segments, &mut vectors)?);
        } else {
            for s in segments {
                let slice = self.ram.slice(s.addr, s.len as usize).map_err(io::Error::other)?;
                vectors.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            }
        }
        let fd = types::Fd(self.file.as_raw_fd());
        let (at, n) = (vectors.as_ptr(), vectors.len() as u32);
        // The heap part of `vectors` does not move with the Vec; the slot keeps it until completion.
        self.slots[slot].vectors = vectors;
        let entry = match direction {
            Direction::Read => opcode::Readv::new(fd, at, n).offset(offset).build(),
            Direction::Write => opcode::Writev::new(fd, at, n).offset(offset).build(),
        };
        self.start(slot, entry)
    }

    fn make_bounce(
        &self,
        direction: Direction,
        segments: &[Segment],
        vectors: &mut Vec<libc::iovec>,
    ) -> io::Result<Bounce> {
        let len: usize = segments.iter().map(|s| s.len as usize).sum();
        if len > MAX_BOUNCE {
            return Err(io::Error::other("too large for a bounce buffer"));
        }
        let mut memory = vec![0; len + BOUNCE_ALIGN];
        let start = memory.as_ptr().align_offset(BOUNCE_ALIGN);
        let part = &mut memory[start..start + len];
        if direction == Direction::Write {
            let mut at = 0;
            for s in segments {
                self.ram.read(s.addr, &mut part[at..at + s.len as usize]).map_err(io::Error::other)?;
                at += s.len as usize;
            }
        }
        vectors.push(libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: len });
        let into = if direction == Direction::Read { segments.to_vec() } else { Vec::new() };
        Ok(Bounce { memory, start, len, into })
    }

    /// Makes everything written so far durable (fdatasync).
    pub fn flush(&mut self, slot: usize) -> io::Result<()> {
        let fd = types::Fd(self.file.as_raw_fd());
        self.start(slot, opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build())
    }

    /// Frees or zeroes a range (`fallocate` with `mode`).
    pub fn fallocate(&mut self, slot: usize, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        let fd = types::Fd(self.file.as_raw_fd());
        self.start(slot, opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build())
    }

    fn start(&mut self, slot: usize, entry: squeue::Entry) -> io::Result<()> {
        assert!(!self.slots[slot].busy, "slot {slot} is busy");
        self.submit(entry.user_data(slot as u64))?;
        self.slots[slot].busy = true;
        self.busy += 1;
        Ok(())
    }

    fn submit(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: what the entry points at stays as it is until the completion: see the module's head.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        self.pending = true;
        pushed.map_err(|_| io::Error::other("the ring is full"))
    }

    /// Hands over what is new without waiting, if anything is.
    pub fn kick(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.pending) {
            self.enter(0)?;
        }
        Ok(())
    }

    /// Hands over what is new and waits for at least one completion.
    pub fn wait(&mut self) -> io::Result<()> {
        self.pending = false;
        self.enter(1)
    }

    fn enter(&mut self, want: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(want) {
                Ok(_) => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                // Completions overflow: take them first.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes one completion.
    pub fn take_done(&mut self) -> Option<Done> {
        let entry = self.ring.completion().next()?;
        let token = entry.user_data();
        if token & WATCH != 0 {
            return Some(Done::Ready((token & !WATCH) as u32));
        }
        let slot = token as usize;
        self.slots[slot].busy = false;
        self.busy -= 1;
        let result = if entry.result() < 0 { Err(-entry.result()) } else { Ok(entry.result() as u32) };
        if let Some(bounce) = self.slots[slot].bounce.take()
            && let Ok(n) = result
        {
            self.deliver(&bounce, n as usize);
        }
        Some(Done::Slot(slot, result))
    }

    /// Copies a bounced read to where it belongs.
    fn deliver(&self, bounce: &Bounce, n: usize) {
        let mut rest = &bounce.memory[bounce.start..bounce.start + bounce.len.min(n)];
        for s in &bounce.into {
            let (now, later) = rest.split_at(rest.len().min(s.len as usize));
            // The segment was checked to be memory, and memory does not go away.
            let _ = self.ram.write(s.addr, now);
            rest = later;
        }
    }

    /// The file, for what needs no ring.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Requests in flight.
    pub fn busy(&self) -> usize {
        self.busy
    }
}

impl Drop for FileRing {
    fn drop(&mut self) {
        while self.busy > 0 {
            if self.wait().is_err() {
                // The ring is broken while the kernel may still write to guest memory: going on would corrupt it.
                std::process::abort();
            }
            while self.take_done().is_some() {}
        }
    }
}
