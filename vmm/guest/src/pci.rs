//! Configuration space through the ECAM window.

use crate::cpu::{check, read8, read16, read32, write16, write32};

const ECAM: u64 = 0xe000_0000;
const SLOTS: u64 = 8;

/// Address of a slot's configuration space.
pub fn space(slot: u64) -> u64 {
    ECAM + (slot << 15)
}

/// The slot of the virtio device with that id.
pub fn find(id: u16) -> Option<u64> {
    let wanted = 0x1af4 | u32::from(0x1040 + id) << 16;
    (1..SLOTS).find(|&slot| read32(space(slot)) == wanted)
}

/// Base of the BAR.
pub fn bar(slot: u64) -> u64 {
    u64::from(read32(space(slot) + 0x10) & !0xf)
}

/// Switches memory and bus mastering on.
pub fn enable(slot: u64) {
    write16(space(slot) + 4, 6);
}

/// Finds a capability.
pub fn capability(slot: u64, id: u8) -> Option<u64> {
    let mut at = u64::from(read8(space(slot) + 0x34));
    while at != 0 {
        if read8(space(slot) + at) == id {
            return Some(space(slot) + at);
        }
        at = u64::from(read8(space(slot) + at + 1));
    }
    None
}

pub fn lists() -> Result<(), &'static str> {
    check(read32(space(0)) == 0x0008_1b36, "no host bridge")?;
    check(read32(space(31)) == 0xffff_ffff, "an empty slot answers")?;
    check(read32(space(0) + 0x1000) == 0xffff_ffff, "a function that is not there answers")?;
    let block = find(2).ok_or("no block device")?;
    check(find(4).is_some(), "no entropy device")?;
    check(capability(block, 0x11).is_some(), "no MSI-X")?;
    check(read16(space(block) + 0x2c) == 0x1af4, "no subsystem")
}

pub fn sizes_and_moves() -> Result<(), &'static str> {
    let slot = find(2).ok_or("no block device")?;
    let before = bar(slot);
    write16(space(slot) + 4, 0);
    write32(space(slot) + 0x10, 0xffff_ffff);
    let size = !(read32(space(slot) + 0x10) & !0xf) + 1;
    check(size == 0x4000, "not 16 KiB")?;
    let moved = before + 0x100_0000;
    write32(space(slot) + 0x10, moved as u32);
    enable(slot);
    check(read16(moved + 0x12) == 1, "nothing answers where it was moved")?;
    check(read16(before + 0x12) == 0xffff, "it still answers where it was")?;
    write32(space(slot) + 0x10, before as u32);
    check(read16(before + 0x12) == 1, "nothing answers after it was moved back")
}
