//! The memory map that a kernel is told: e820 numbers, which PVH uses as well.

use crate::layout::{ACPI, ACPI_SIZE, EBDA, ECAM, ECAM_SIZE, HIGH_MEMORY};
use crate::ram::Region;

/// Usable memory.
pub const RAM: u32 = 1;
/// Taken.
pub const RESERVED: u32 = 2;

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// [`RAM`] or [`RESERVED`].
    pub kind: u32,
}

/// The map for a guest with these regions.
pub fn memory_map(regions: &[Region]) -> Vec<Range> {
    let mut map = vec![
        Range { start: 0, len: EBDA, kind: RAM },
        // The first page and the ACPI tables; the kernel keeps off the first MiB's rest by itself.
        Range { start: ACPI, len: ACPI_SIZE, kind: RESERVED },
    ];
    for region in regions {
        let start = region.guest.max(HIGH_MEMORY);
        let end = region.guest + region.len as u64;
        if end > start {
            map.push(Range { start, len: end - start, kind: RAM });
        }
    }
    // Linux uses ECAM only where the map says that it is taken.
    map.push(Range { start: ECAM, len: ECAM_SIZE, kind: RESERVED });
    map.sort_by_key(|range| range.start);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_cover_all_memory_above_one_mebibyte() {
        let regions =
            [Region { guest: 0, len: 3 << 30, host: 0 }, Region { guest: 4 << 30, len: 1 << 30, host: 0 }];
        let map = memory_map(&regions);
        for pair in map.windows(2) {
            assert!(pair[0].start + pair[0].len <= pair[1].start, "{pair:?}");
        }
        let high: u64 = map.iter().filter(|r| r.kind == RAM && r.start >= HIGH_MEMORY).map(|r| r.len).sum();
        assert_eq!(high, (4 << 30) - HIGH_MEMORY);
    }
}
