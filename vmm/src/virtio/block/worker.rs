//! The loop of a disk's thread.

use super::DiskFile;
use super::request::{Action, ID_LEN, Limits, Status, parse};
use crate::ram::GuestRam;
use crate::sys::file_ring::{Direction, Done, FileRing};
use crate::virtio::device::Line;
use crate::virtio::fault::{Counters, Fault};
use crate::virtio::queue::{Chain, Segment, scatter};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// Order of the watched descriptors.
const STOP: u32 = 0;

#[derive(Clone, Copy, Debug)]
struct Pending {
    head: u16,
    status_at: u64,
    action: Action,
    /// Bytes of the transfer.
    bytes: u32,
}

/// What the thread owns.
#[derive(Debug)]
pub struct Run {
    id: [u8; ID_LEN],
    disk: Arc<DiskFile>,
    limits: Limits,
    line: Line,
    counters: Arc<Counters>,
    chain: Chain,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
}

impl Run {
    pub fn new(name: &str, disk: Arc<DiskFile>, line: Line, counters: Arc<Counters>) -> Self {
        let mut id = [0; ID_LEN];
        let n = name.len().min(ID_LEN);
        id[..n].copy_from_slice(&name.as_bytes()[..n]);
        let limits = Limits {
            size: disk.size(),
            read_only: disk.read_only(),
            discard: disk.can_discard(),
            zero: disk.can_zero(),
        };
        let slots = usize::from(line.queue.size());
        let (pending, free) = (vec![None; slots], (0..slots).collect());
        Self { id, disk, limits, line, counters, chain: Chain::default(), pending, free }
    }

    /// Serves the queue until `stop` is readable. What is in flight then is finished before the return.
    pub fn until(&mut self, stop: &EventFd, ram: Arc<GuestRam>) -> Result<(), Fault> {
        let mut ring = FileRing::new(self.disk.handle()?, ram, self.pending.len())?;
        ring.watch(stop.as_raw_fd())?;
        ring.watch(self.line.kick.as_raw_fd())?;
        loop {
            self.serve(&mut ring)?;
            ring.wait()?;
            while let Some(done) = ring.take_done() {
                match done {
                    Done::Ready(STOP) => return Ok(()),
                    Done::Ready(n) => {
                        self.line.take_kick(&self.counters);
                        ring.rearm(n)?;
                    }
                    Done::Slot(slot, result) => self.complete(slot, result)?,
                }
            }
            self.line.interrupt_if_wanted(&self.counters)?;
        }
    }

    /// Starts everything that the guest offers.
    fn serve(&mut self, ring: &mut FileRing) -> Result<(), Fault> {
        self.line.queue.disable_kicks()?;
        loop {
            // There are as many slots as descriptors, so a driver can offer no more chains than there are slots;
            // one that does, by giving a descriptor twice, waits.
            while let Some(&slot) = self.free.last() {
                if !self.line.queue.pop(&mut self.chain)? {
                    break;
                }
                self.start(ring, slot)?;
            }
            self.line.interrupt_if_wanted(&self.counters)?;
            if self.free.is_empty() || !self.line.queue.enable_kicks()? {
                return Ok(());
            }
            self.line.queue.disable_kicks()?;
        }
    }

    fn start(&mut self, ring: &mut FileRing, slot: usize) -> Result<(), Fault> {
        let (action, status_at) = parse(ring_ram(&self.line), &mut self.chain, &self.limits)?;
        let mut pending = Pending { head: self.chain.head, status_at, action, bytes: 0 };
        let begun = match action {
            Action::Read(offset) => {
                pending.bytes = self.chain.writable_bytes() as u32;
                transfer(ring, slot, Direction::Read, &self.chain.writable, offset, &self.disk)
            }
            Action::Write(offset) => {
                pending.bytes = self.chain.readable_bytes() as u32;
                transfer(ring, slot, Direction::Write, &self.chain.readable, offset, &self.disk)
            }
            Action::Flush => ring.flush(slot).is_ok(),
            Action::Discard(offset, len) => ring.fallocate(slot, punch(), offset, len).is_ok(),
            Action::WriteZeroes(offset, len, true) if self.limits.discard => {
                ring.fallocate(slot, punch(), offset, len).is_ok()
            }
            Action::WriteZeroes(offset, len, _) => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                ring.fallocate(slot, mode, offset, len).is_ok()
            }
            Action::GetId => {
                let written = scatter(ring_ram(&self.line), &self.chain.writable, &self.id);
                return self.finish(&pending, Status::Ok, written as u32);
            }
            Action::Refuse(status) => return self.finish(&pending, status, 0),
        };
        if !begun {
            return self.finish(&pending, Status::IoError, 0);
        }
        self.free.pop();
        self.pending[slot] = Some(pending);
        Ok(())
    }

    fn complete(&mut self, slot: usize, result: Result<u32, i32>) -> Result<(), Fault> {
        let Some(pending) = self.pending[slot].take() else { return Err(Fault::Backend) };
        self.free.push(slot);
        let (status, written) = match (pending.action, result) {
            (Action::Read(_), Ok(n)) if n == pending.bytes => (Status::Ok, n),
            (Action::Write(_), Ok(n)) if n == pending.bytes => (Status::Ok, 0),
            (Action::Read(_) | Action::Write(_), _) => (Status::IoError, 0),
            (_, Ok(_)) => (Status::Ok, 0),
            // A hint that was not taken.
            (Action::Discard(..), Err(libc::EOPNOTSUPP)) => (Status::Ok, 0),
            (Action::WriteZeroes(..), Err(libc::EOPNOTSUPP)) => (Status::Unsupported, 0),
            (_, Err(_)) => (Status::IoError, 0),
        };
        if status == Status::Ok {
            Counters::add(&self.counters.bytes, u64::from(pending.bytes));
        }
        self.finish(&pending, status, written)
    }

    fn finish(&mut self, pending: &Pending, status: Status, written: u32) -> Result<(), Fault> {
        Counters::add(&self.counters.requests, 1);
        if status != Status::Ok {
            Counters::add(&self.counters.errors, 1);
        }
        ring_ram(&self.line)
            .write(pending.status_at, &[status as u8])
            .map_err(|_| Fault::BufferOutsideMemory)?;
        self.line.queue.push(pending.head, written + 1)
    }
}

fn ring_ram(line: &Line) -> &GuestRam {
    line.queue.ram()
}

fn punch() -> i32 {
    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE
}

/// Starts a transfer, by way of a bounce buffer where direct I/O would refuse the guest's alignment.
fn transfer(
    ring: &mut FileRing,
    slot: usize,
    way: Direction,
    data: &[Segment],
    offset: u64,
    disk: &DiskFile,
) -> bool {
    let block = u64::from(disk.block_size());
    let odd = |s: &Segment| !s.addr.is_multiple_of(block) || !u64::from(s.len).is_multiple_of(block);
    if disk.direct() && !offset.is_multiple_of(block) {
        return false;
    }
    ring.transfer(slot, way, data, offset, disk.direct() && data.iter().any(odd)).is_ok()
}
