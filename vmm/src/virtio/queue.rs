//! The split virtqueue (VIRTIO 1.2, 2.7), device side.
//!
//! Pure over guest memory: no descriptors, no threads. Every index, address and length that the guest wrote is copied
//! once and then checked; the checks' failures are [`Fault`]s, after which the queue must not be used until the driver
//! resets the device. Addresses of the rings are checked when the queue is made and again by each access.
//!
//! Invariants: `next_used - next_avail` never exceeds the chains that were popped and not pushed; at most `size` of
//! those exist, since the available index may lead by `size` at most.

use super::fault::Fault;
use crate::ram::{GuestRam, OutsideMemory};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Largest queue offered. Linux takes what is offered; 256 requests in flight saturate any backend here.
pub const MAX_SIZE: u16 = 256;
/// Most bytes of a chain: lengths of used buffers are 32 bits wide, and no driver comes near.
pub const MAX_CHAIN_BYTES: u64 = 1 << 30;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// In the available ring: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;
/// In the used ring: the device wants no kicks.
const NO_NOTIFY: u16 = 1;
const DESCRIPTOR: usize = 16;

/// Where a queue lies and how it was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Number of descriptors: a power of two.
    pub size: u16,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring ("driver area").
    pub avail: u64,
    /// Used ring ("device area").
    pub used: u64,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
}

/// A piece of guest memory that a chain names. It was checked to be memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
}

/// A chain of buffers: what the device reads, then what it may write. Reused from pop to pop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Index to give back.
    pub head: u16,
    /// Buffers to read.
    pub readable: Vec<Segment>,
    /// Buffers to write.
    pub writable: Vec<Segment>,
}

impl Chain {
    /// Bytes to read.
    pub fn readable_bytes(&self) -> u64 {
        self.readable.iter().map(|s| u64::from(s.len)).sum()
    }

    /// Bytes to write.
    pub fn writable_bytes(&self) -> u64 {
        self.writable.iter().map(|s| u64::from(s.len)).sum()
    }
}

/// Takes `n` bytes off the front of `segments`. False if there are fewer.
pub fn skip(segments: &mut Vec<Segment>, mut n: u32) -> bool {
    while n > 0 {
        let Some(first) = segments.first_mut() else { return false };
        let step = first.len.min(n);
        first.addr += u64::from(step);
        first.len -= step;
        n -= step;
        if first.len == 0 {
            segments.remove(0);
        }
    }
    true
}

/// Takes the last byte off `segments` and says where it is.
pub fn take_last_byte(segments: &mut Vec<Segment>) -> Option<u64> {
    while segments.last().is_some_and(|s| s.len == 0) {
        segments.pop();
    }
    let last = segments.last_mut()?;
    last.len -= 1;
    let at = last.addr + u64::from(last.len);
    if last.len == 0 {
        segments.pop();
    }
    Some(at)
}

/// Copies from the front of `segments` until `into` is full. False if there is less.
pub fn gather(ram: &GuestRam, segments: &[Segment], into: &mut [u8]) -> bool {
    let mut done = 0;
    for segment in segments {
        if done == into.len() {
            break;
        }
        let n = (segment.len as usize).min(into.len() - done);
        if ram.read(segment.addr, &mut into[done..done + n]).is_err() {
            return false;
        }
        done += n;
    }
    done == into.len()
}

/// Copies `from` to the front of `segments`; says how much fitted.
pub fn scatter(ram: &GuestRam, segments: &[Segment], from: &[u8]) -> usize {
    let mut done = 0;
    for segment in segments {
        let n = (segment.len as usize).min(from.len() - done);
        if n == 0 || ram.write(segment.addr, &from[done..done + n]).is_err() {
            break;
        }
        done += n;
    }
    done
}

/// The device's side of one queue.
#[derive(Debug)]
pub struct Queue {
    ram: Arc<GuestRam>,
    setup: Setup,
    next_avail: u16,
    next_used: u16,
    /// `next_used` at the last decision about an interrupt.
    signalled: u16,
}

impl Queue {
    /// Takes over a queue that the driver enabled.
    pub fn new(ram: Arc<GuestRam>, setup: Setup) -> Result<Self, Fault> {
        let n = u64::from(setup.size);
        let aligned =
            setup.desc.is_multiple_of(16) && setup.avail.is_multiple_of(2) && setup.used.is_multiple_of(4);
        if !setup.size.is_power_of_two() || setup.size > MAX_SIZE || !aligned {
            return Err(Fault::QueueSetup);
        }
        let rings = [(setup.desc, 16 * n), (setup.avail, 6 + 2 * n), (setup.used, 6 + 8 * n)];
        if rings.iter().any(|&(addr, len)| !ram.holds(addr, len)) {
            return Err(Fault::RingOutsideMemory);
        }
        Ok(Self { ram, setup, next_avail: 0, next_used: 0, signalled: 0 })
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.setup.size
    }

    /// The memory it lies in.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Takes the next chain, if there is one.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Fault> {
        let avail = self.load(self.setup.avail + 2, Ordering::Acquire)?;
        let waiting = avail.wrapping_sub(self.next_avail);
        if waiting == 0 {
            return Ok(false);
        }
        if waiting > self.setup.size {
            return Err(Fault::IndexJump);
        }
        let entry = self.setup.avail + 4 + 2 * u64::from(self.next_avail % self.setup.size);
        let head = self.load(entry, Ordering::Relaxed)?;
        self.walk(head, chain)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(true)
    }

    /// Puts the last `n` chains that were popped back: they come again with the next pops.
    pub fn unpop(&mut self, n: u16) {
        self.next_avail = self.next_avail.wrapping_sub(n);
    }

    /// Gives a chain back with the number of bytes written into it.
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), Fault> {
        self.push_all(&[(head, written)])
    }

    /// Gives chains back so that the driver sees either none or all of them.
    pub fn push_all(&mut self, chains: &[(u16, u32)]) -> Result<(), Fault> {
        for (head, written) in chains {
            let mut element = [0; 8];
            element[..4].copy_from_slice(&u32::from(*head).to_le_bytes());
            element[4..].copy_from_slice(&written.to_le_bytes());
            let at = self.setup.used + 4 + 8 * u64::from(self.next_used % self.setup.size);
            self.ram.write(at, &element).map_err(ring)?;
            self.next_used = self.next_used.wrapping_add(1);
        }
        self.ram.store_u16(self.setup.used + 2, self.next_used, Ordering::Release).map_err(ring)
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call (2.7.7.2, 2.7.10).
    pub fn wants_interrupt(&mut self) -> Result<bool, Fault> {
        let (new, old) = (self.next_used, self.signalled);
        if new == old {
            return Ok(false);
        }
        // The used index must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        if self.setup.event_idx {
            let at = self.setup.avail + 4 + 2 * u64::from(self.setup.size);
            let event = self.load(at, Ordering::Relaxed)?;
            self.signalled = new;
            return Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old));
        }
        self.signalled = new;
        Ok(self.load(self.setup.avail, Ordering::Relaxed)? & NO_INTERRUPT == 0)
    }

    /// Asks for a kick at the next chain. True if one came meanwhile, so that no kick may follow: pop again.
    pub fn enable_kicks(&mut self) -> Result<bool, Fault> {
        if self.setup.event_idx {
            let at = self.setup.used + 4 + 8 * u64::from(self.setup.size);
            self.ram.store_u16(at, self.next_avail, Ordering::Relaxed).map_err(ring)?;
        } else {
            self.ram.store_u16(self.setup.used, 0, Ordering::Relaxed).map_err(ring)?;
        }
        // The wish must be visible before the index is read again.
        fence(Ordering::SeqCst);
        Ok(self.load(self.setup.avail + 2, Ordering::Acquire)? != self.next_avail)
    }

    /// Asks for no kicks while the device is at work anyway. With event index there is nothing to do: the event stays
    /// behind.
    pub fn disable_kicks(&mut self) -> Result<(), Fault> {
        if self.setup.event_idx {
            return Ok(());
        }
        self.ram.store_u16(self.setup.used, NO_NOTIFY, Ordering::Relaxed).map_err(ring)
    }

    fn load(&self, addr: u64, order: Ordering) -> Result<u16, Fault> {
        self.ram.load_u16(addr, order).map_err(ring)
    }

    /// Collects the chain that begins at `head`.
    fn walk(&self, head: u16, chain: &mut Chain) -> Result<(), Fault> {
        chain.head = head;
        chain.readable.clear();
        chain.writable.clear();
        let size = self.setup.size;
        let (mut index, mut seen, mut bytes) = (head, 0, 0);
        loop {
            if index >= size {
                return Err(Fault::DescriptorIndex);
            }
            if seen == size {
                return Err(Fault::DescriptorLoop);
            }
            seen += 1;
            let mut raw = [0; DESCRIPTOR];
            self.ram.read(self.setup.desc + 16 * u64::from(index), &mut raw).map_err(ring)?;
            let d = Descriptor::from(raw);
            if d.flags & INDIRECT != 0 {
                if !self.setup.indirect || d.flags & NEXT != 0 {
                    return Err(Fault::IndirectMisplaced);
                }
                return self.walk_indirect(&d, size - seen + 1, &mut bytes, chain);
            }
            self.take(&d, &mut bytes, chain)?;
            if d.flags & NEXT == 0 {
                return Ok(());
            }
            index = d.next;
        }
    }

    /// Collects from an indirect table (2.7.5.3), which is copied whole before it is read. A chain has `left`
    /// descriptors at most, wherever they lie.
    fn walk_indirect(
        &self,
        table: &Descriptor,
        left: u16,
        bytes: &mut u64,
        chain: &mut Chain,
    ) -> Result<(), Fault> {
        let count = table.len as usize / DESCRIPTOR;
        if count == 0
            || !(table.len as usize).is_multiple_of(DESCRIPTOR)
            || count > usize::from(self.setup.size)
        {
            return Err(Fault::IndirectLength);
        }
        let mut copy = [0; DESCRIPTOR * MAX_SIZE as usize];
        let copy = &mut copy[..table.len as usize];
        self.ram.read(table.addr, copy).map_err(|_| Fault::BufferOutsideMemory)?;
        let (mut index, mut seen) = (0_usize, 0);
        loop {
            let Some(raw) = copy[index * DESCRIPTOR..].first_chunk::<DESCRIPTOR>() else {
                return Err(Fault::DescriptorIndex);
            };
            if seen == usize::from(left).min(count) {
                return Err(Fault::DescriptorLoop);
            }
            seen += 1;
            let d = Descriptor::from(*raw);
            if d.flags & INDIRECT != 0 {
                return Err(Fault::IndirectMisplaced);
            }
            self.take(&d, bytes, chain)?;
            if d.flags & NEXT == 0 {
                return Ok(());
            }
            index = usize::from(d.next);
            if index >= count {
                return Err(Fault::DescriptorIndex);
            }
        }
    }

    /// Adds a buffer to the chain.
    fn take(&self, d: &Descriptor, bytes: &mut u64, chain: &mut Chain) -> Result<(), Fault> {
        if !self.ram.holds(d.addr, u64::from(d.len)) {
            return Err(Fault::BufferOutsideMemory);
        }
        *bytes += u64::from(d.len);
        if *bytes > MAX_CHAIN_BYTES {
            return Err(Fault::ChainTooLong);
        }
        let segment = Segment { addr: d.addr, len: d.len };
        if d.flags & WRITE != 0 {
            chain.writable.push(segment);
        } else if chain.writable.is_empty() {
            chain.readable.push(segment);
        } else {
            return Err(Fault::ReadAfterWrite);
        }
        Ok(())
    }
}

fn ring(_: OutsideMemory) -> Fault {
    Fault::RingOutsideMemory
}

struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl From<[u8; DESCRIPTOR]> for Descriptor {
    fn from(raw: [u8; DESCRIPTOR]) -> Self {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = raw;
        Self {
            addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
