//! The 256 bytes of a function's configuration space, with a mask of what the guest may change.

/// Size without the extended part, which reads as zero: no extended capability.
pub const SIZE: usize = 256;
/// Command register.
pub const COMMAND: usize = 4;
/// Command bit: memory BARs answer.
pub const COMMAND_MEMORY: u16 = 2;
/// First BAR.
pub const BAR0: usize = 0x10;
const STATUS: usize = 6;
const STATUS_CAPABILITIES: u8 = 0x10;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

/// Who a function says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Class, subclass, programming interface.
    pub class: [u8; 3],
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
}

/// Configuration space of a function of header type 0.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    next_capability: usize,
    link: usize,
}

impl ConfigSpace {
    /// A function without BARs and capabilities.
    pub fn new(id: &Identity) -> Self {
        let mut bytes = [0; SIZE];
        bytes[0..2].copy_from_slice(&id.vendor.to_le_bytes());
        bytes[2..4].copy_from_slice(&id.device.to_le_bytes());
        bytes[8] = id.revision;
        bytes[9] = id.class[2];
        bytes[10] = id.class[1];
        bytes[11] = id.class[0];
        bytes[0x2c..0x2e].copy_from_slice(&id.subsystem_vendor.to_le_bytes());
        bytes[0x2e..0x30].copy_from_slice(&id.subsystem.to_le_bytes());
        let mut writable = [0; SIZE];
        // I/O, memory, bus master; parity and SERR enable; interrupt disable.
        writable[COMMAND] = 0b0100_0111;
        writable[COMMAND + 1] = 0b0000_0101;
        writable[0x0c] = 0xff; // cache line size
        writable[0x3c] = 0xff; // interrupt line: a scratch byte
        Self { bytes, writable, next_capability: FIRST_CAPABILITY, link: CAPABILITIES }
    }

    /// Makes BAR 0 and 1 a 64-bit memory BAR of `len` bytes (a power of two), at `base`.
    pub fn set_memory_bar(&mut self, base: u64, len: u64) {
        assert!(len.is_power_of_two() && len >= 4096 && base.is_multiple_of(len));
        const TYPE_64: u64 = 0b100;
        self.bytes[BAR0..BAR0 + 8].copy_from_slice(&(base | TYPE_64).to_le_bytes());
        self.writable[BAR0..BAR0 + 8].copy_from_slice(&(!(len - 1)).to_le_bytes());
    }

    /// Where the BAR is now, if it answers.
    pub fn memory_bar(&self) -> Option<u64> {
        let raw = self.bytes[BAR0..BAR0 + 8].first_chunk().map(|b| u64::from_le_bytes(*b)).unwrap_or(0);
        (self.read_u16(COMMAND) & COMMAND_MEMORY != 0).then_some(raw & !0xf)
    }

    /// Adds a capability of which `body` follows the two bytes of id and link; says where it begins.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[(usize, u8)]) -> usize {
        let at = self.next_capability;
        let end = at + 2 + body.len();
        assert!(end <= SIZE, "capabilities overflow");
        self.bytes[self.link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.bytes[at] = id;
        self.bytes[at + 2..end].copy_from_slice(body);
        for (offset, mask) in writable {
            self.writable[at + offset] = *mask;
        }
        self.link = at + 1;
        self.next_capability = end.next_multiple_of(4);
        at
    }

    /// Reads; past the end there is nothing.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + i).copied().unwrap_or(0);
        }
    }

    /// Writes what may be written.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (i, value) in data.iter().enumerate() {
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(offset + i), self.writable.get(offset + i))
            {
                *byte = *byte & !mask | value & mask;
            }
        }
    }

    /// Two bytes.
    pub fn read_u16(&self, offset: usize) -> u16 {
        let mut raw = [0; 2];
        self.read(offset, &mut raw);
        u16::from_le_bytes(raw)
    }

    /// Four bytes.
    pub fn read_u32(&self, offset: usize) -> u32 {
        let mut raw = [0; 4];
        self.read(offset, &mut raw);
        u32::from_le_bytes(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let id = Identity {
            vendor: 0x1af4,
            device: 0x1042,
            class: [1, 0x80, 0],
            revision: 1,
            subsystem_vendor: 0x1af4,
            subsystem: 0x40,
        };
        ConfigSpace::new(&id)
    }

    #[test]
    fn identity_cannot_be_written() {
        let mut space = space();
        space.write(0, &[0xff; 4]);
        assert_eq!(space.read_u32(0), 0x1042_1af4);
        assert_eq!(space.read_u32(8), 0x0180_0001);
    }

    #[test]
    fn a_bar_is_sized_moved_and_switched_on() {
        let mut space = space();
        space.set_memory_bar(0xc000_4000, 0x4000);
        assert_eq!(space.memory_bar(), None);
        space.write(COMMAND, &[2, 0]);
        assert_eq!(space.memory_bar(), Some(0xc000_4000));
        space.write(BAR0, &[0xff; 8]);
        assert_eq!((space.read_u32(BAR0), space.read_u32(BAR0 + 4)), (0xffff_c004, 0xffff_ffff));
        space.write(BAR0, &0xd000_0000_u64.to_le_bytes());
        assert_eq!(space.memory_bar(), Some(0xd000_0000));
    }

    #[test]
    fn capabilities_form_a_list_and_reads_past_the_end_are_zero() {
        let mut space = space();
        let first = space.add_capability(0x11, &[0; 10], &[(3, 0xc0)]);
        let second = space.add_capability(9, &[0; 14], &[]);
        assert_eq!(space.read_u16(STATUS) & 0x10, 0x10);
        assert_eq!((space.read_u16(CAPABILITIES) as usize, first, second), (0x40, 0x40, 0x4c));
        assert_eq!(space.read_u16(first) >> 8, 0x4c);
        assert_eq!(space.read_u16(second) >> 8, 0);
        let mut past = [1; 8];
        space.read(SIZE - 4, &mut past);
        assert_eq!(past[4..], [0; 4]);
        space.write(SIZE - 1, &[0xff; 8]);
    }
}
