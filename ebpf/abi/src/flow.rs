//! One flow entry in 64 bits, and its clock.
//!
//! ```text
//!  63                      30 29         14 13            1   0
//! +--------------------------+-------------+---------------+---+
//! | tag: high bits of hash   | backend id  | last seen     | C |
//! +--------------------------+-------------+---------------+---+
//! ```
//! `C` (confirmed): a second packet followed the one that made the entry; unconfirmed entries are the first
//! to give way, so a flood of single packets cannot push out a flow that talks. A word of 0 is free. An entry
//! is read and written as one aligned 64-bit word, so processors share the table without a lock.

/// Log2 of the clock unit in nanoseconds: 17.2 s. 13 bits of it wrap after 39 h, more than the longest
/// window of 24 h; an entry is written at most once a unit, so lines stay shared between processors.
pub const UNIT_SHIFT: u32 = 34;

/// Bits of `last seen`.
pub const AGE_MASK: u64 = 0x1fff;

/// Bits of the tag.
pub const TAG_MASK: u64 = !0 << 30;

/// Bit of a confirmed entry.
pub const CONFIRMED: u64 = 1;

/// An entry.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry(pub u64);

const _: () = assert!(size_of::<Entry>() == 8);

/// Clock of the flow table, from nanoseconds of the kernel's monotonic clock.
#[inline(always)]
pub const fn units(monotonic_ns: u64) -> u64 {
    (monotonic_ns >> UNIT_SHIFT) & AGE_MASK
}

/// Age in units beyond which a flow that may be silent for `idle_ms` is dead.
#[inline(always)]
pub const fn idle_units(idle_ms: u64) -> u32 {
    // One unit for rounding up, one because `last seen` was rounded down.
    ((idle_ms * 1_000_000) >> UNIT_SHIFT) as u32 + 2
}

impl Entry {
    /// A fresh, unconfirmed entry.
    #[inline(always)]
    pub const fn new(hash: u64, backend: u16, now: u64) -> Self {
        Entry(hash & TAG_MASK | (backend as u64) << 14 | (now & AGE_MASK) << 1)
    }

    /// Free place.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 == 0
    }

    /// The entry is of this flow (of this bucket).
    #[inline(always)]
    pub const fn matches(self, hash: u64) -> bool {
        (self.0 ^ hash) & TAG_MASK == 0 && self.0 != 0
    }

    /// Backend id.
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        (self.0 >> 14) as u16
    }

    /// Clock units when it last carried a packet.
    #[inline(always)]
    pub const fn seen(self) -> u64 {
        self.0 >> 1 & AGE_MASK
    }

    /// Units since it last carried a packet.
    #[inline(always)]
    pub const fn age(self, now: u64) -> u32 {
        (now.wrapping_sub(self.seen()) & AGE_MASK) as u32
    }

    /// A second packet was seen.
    #[inline(always)]
    pub const fn confirmed(self) -> bool {
        self.0 & CONFIRMED != 0
    }

    /// The entry after another packet of its flow.
    #[inline(always)]
    pub const fn touched(self, now: u64) -> Self {
        Entry(self.0 & !(AGE_MASK << 1) | (now & AGE_MASK) << 1 | CONFIRMED)
    }

    /// Maglev slot of the flow: the tag holds the bits it is made of.
    pub const fn slot(self) -> u32 {
        crate::hash::slot_of(self.0 & TAG_MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{mix64, slot_of};

    #[test]
    fn fields_survive() {
        for i in 0..1000u64 {
            let h = mix64(i);
            let e = Entry::new(h, (i as u16) | 1, i * 7);
            assert!(e.matches(h) && !e.matches(h ^ 1 << 33) && !e.confirmed() && !e.is_free());
            assert_eq!((e.backend(), e.seen(), e.slot()), ((i as u16) | 1, (i * 7) & AGE_MASK, slot_of(h)));
            let t = e.touched(i * 7 + 9);
            assert_eq!((t.age(i * 7 + 10), t.confirmed(), t.backend()), (1, true, e.backend()));
        }
    }

    #[test]
    fn age_wraps() {
        let e = Entry::new(0, 1, AGE_MASK);
        assert_eq!(e.age(1), 2);
        assert!(idle_units(24 * 3600 * 1000) < AGE_MASK as u32);
        assert_eq!(idle_units(1000), 2);
    }
}
