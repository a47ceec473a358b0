//! A driver of the modern transport with one queue at a fixed place.

use crate::cpu::{read8, read16, read32, wait, write8, write16, write32, write64};
use crate::pci;

/// Descriptors of the queue.
pub const SIZE: u16 = 16;
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
const NEEDS_RESET: u8 = 0x40;

/// A device and its first queue.
pub struct Device {
    bar: u64,
    slot: u64,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    next: u16,
}

impl Device {
    /// Resets the device of that id and prepares its queue at `at`, not yet running.
    pub fn prepare(id: u16, at: u64) -> Result<Self, &'static str> {
        let slot = pci::find(id).ok_or("no such device")?;
        pci::enable(slot);
        let bar = pci::bar(slot);
        for offset in (0..0x3000).step_by(8) {
            write64(at + offset, 0);
        }
        let device = Self { bar, slot, desc: at, avail: at + 0x1000, used: at + 0x2000, next: 0 };
        write8(bar + 0x14, 0);
        if !wait(|| read8(bar + 0x14) == 0) {
            return Err("it does not reset");
        }
        write8(bar + 0x14, 3);
        write32(bar + 0x08, 0);
        write32(bar + 0x0c, 1 << 28);
        write32(bar + 0x08, 1);
        write32(bar + 0x0c, 1);
        write8(bar + 0x14, 11);
        if read8(bar + 0x14) != 11 {
            return Err("it refuses our features");
        }
        write16(bar + 0x16, 0);
        write16(bar + 0x18, SIZE);
        device.place();
        Ok(device)
    }

    /// Tells the device where the queue is.
    pub fn place(&self) {
        for (register, value) in [(0x20, self.desc), (0x28, self.avail), (0x30, self.used)] {
            write32(self.bar + register, value as u32);
            write32(self.bar + register + 4, (value >> 32) as u32);
        }
    }

    /// Gives the queue an interrupt.
    pub fn use_vector(&self, vector: u8) -> Result<(), &'static str> {
        let msix = pci::capability(self.slot, 0x11).ok_or("no MSI-X")?;
        let table = self.bar + 0x3000 + 16;
        write32(table, 0xfee0_0000);
        write32(table + 4, 0);
        write32(table + 8, u32::from(vector));
        write32(table + 12, 0);
        write16(msix + 2, 1 << 15);
        write16(self.bar + 0x1a, 1);
        if read16(self.bar + 0x1a) == 1 { Ok(()) } else { Err("it refuses the vector") }
    }

    /// Runs.
    pub fn run(&self) {
        write16(self.bar + 0x1c, 1);
        write8(self.bar + 0x14, 15);
    }

    /// A device that runs.
    pub fn start(id: u16, at: u64) -> Result<Self, &'static str> {
        let device = Self::prepare(id, at)?;
        device.run();
        Ok(device)
    }

    pub fn describe(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.describe_at(self.desc, index, addr, len, flags, next);
    }

    pub fn describe_at(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = table + 16 * u64::from(index);
        write64(at, addr);
        write32(at + 8, len);
        write16(at + 12, flags);
        write16(at + 14, next);
    }

    /// Offers a chain without a kick.
    pub fn offer(&mut self, head: u16) {
        write16(self.avail + 4 + 2 * u64::from(self.next % SIZE), head);
        self.next = self.next.wrapping_add(1);
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        write16(self.avail + 2, self.next);
    }

    pub fn kick(&self) {
        write16(self.bar + 0x2000, 0);
    }

    /// Number of chains given back so far.
    pub fn done(&self) -> u16 {
        read16(self.used + 2)
    }

    pub fn wait_done(&self, n: u16) -> bool {
        wait(|| self.done() == n)
    }

    pub fn needs_reset(&self) -> bool {
        read8(self.bar + 0x14) & NEEDS_RESET != 0
    }

    /// The device asks for a reset and serves nothing.
    pub fn wait_broken(&self) -> Result<(), &'static str> {
        if !wait(|| self.needs_reset()) {
            return Err("it does not ask for a reset");
        }
        if self.done() == 0 { Ok(()) } else { Err("it served something") }
    }

    /// Sectors of the disk.
    pub fn capacity(&self) -> u64 {
        u64::from(read32(self.bar + 0x1800)) | u64::from(read32(self.bar + 0x1804)) << 32
    }
}
