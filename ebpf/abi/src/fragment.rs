//! The fragment table: which backend has the first fragment of a datagram, for those that follow.
//!
//! ```text
//! word 1: 63 key 0, exclusive-or'ed with word 2
//! word 2: 63..44 VIP id | 43..28 backend id | 19..4 when the first fragment was seen | 0 used
//! ```
//! An entry is two words that processors write without a lock: a pair of which one half is another's does not
//! give the key back and is no entry (Hyatt and Mann, ICGA Journal 25(1), 2002).

use crate::hash::mix64;

/// Log2 of the clock unit in nanoseconds: 1.07 s.
pub const UNIT_SHIFT: u32 = 30;

/// Units after which a datagram that is not whole is given up: no host waits longer for the rest of one
/// (Linux 30 s; RFC 8200 section 4.5 60 s, of which the first half is what is left after the way here).
pub const AGE_MAX: u32 = 30;

/// Entries of a bucket: one cache line.
pub const BUCKET_ENTRIES: usize = 4;

/// Buckets: 16 Ki datagrams under way at once in 256 KiB.
pub const BUCKETS: u32 = 4_096;

/// Most extension headers that are walked, and most bytes of them: what no sender needs is not worth a loop.
pub const CHAIN_HEADERS_MAX: u32 = 6;
/// See [`CHAIN_HEADERS_MAX`].
pub const CHAIN_BYTES_MAX: u32 = 512;

/// A bucket.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Entries as pairs of words.
    pub words: [u64; 2 * BUCKET_ENTRIES],
}
const _: () = assert!(size_of::<Bucket>() == 64);

/// Where a datagram goes: word 2 of an entry.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place(pub u64);

impl Place {
    /// Of a first fragment seen at `now`.
    #[inline(always)]
    pub const fn new(vip: u32, backend: u16, now: u64) -> Self {
        Place((vip as u64) << 44 | (backend as u64) << 28 | (now & 0xffff) << 4 | 1)
    }

    /// There is one.
    #[inline(always)]
    pub const fn is_used(self) -> bool {
        self.0 & 1 != 0
    }

    /// VIP id.
    #[inline(always)]
    pub const fn vip(self) -> u32 {
        (self.0 >> 44) as u32
    }

    /// Backend id.
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        (self.0 >> 28) as u16
    }

    /// Units since the first fragment.
    #[inline(always)]
    pub const fn age(self, now: u64) -> u32 {
        (now.wrapping_sub(self.0 >> 4) & 0xffff) as u32
    }
}

/// Clock of the table, from nanoseconds of the kernel's monotonic clock.
#[inline(always)]
pub const fn units(monotonic_ns: u64) -> u64 {
    (monotonic_ns >> UNIT_SHIFT) & 0xffff
}

/// Key of a datagram: addresses as little-endian words of the wire bytes (IPv4 in the low half of `src[0]` and
/// `dst[0]`), `id` with the protocol beside it for IPv4 (RFC 791) and alone for IPv6 (RFC 8200 section 4.5). Never 0.
#[inline(always)]
pub const fn key(secret: u64, src: [u64; 2], dst: [u64; 2], id: u64) -> u64 {
    let x = mix64(mix64(secret ^ src[0]) ^ src[1]);
    mix64(mix64(mix64(x ^ dst[0]) ^ dst[1]) ^ id) | 1 << 63
}

/// `id` of [`key`] for IPv4.
#[inline(always)]
pub const fn id4(id: u16, protocol: u8) -> u64 {
    id as u64 | (protocol as u64) << 16
}

/// `id` of [`key`] for IPv6.
#[inline(always)]
pub const fn id6(id: u32) -> u64 {
    id as u64 | 1 << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive() {
        for i in 0..1_000u64 {
            let h = mix64(i);
            let (vip, backend) = (h as u32 & 0xf_ffff, (h >> 32) as u16);
            let place = Place::new(vip, backend, i);
            assert_eq!((place.vip(), place.backend()), (vip, backend));
            assert!(place.is_used() && place.age(i + 7) == 7);
        }
        assert_eq!(Place::new(1, 1, 0xffff).age(1), 2, "the clock wraps");
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let base = key(1, [2, 3], [4, 5], id4(6, 17));
        for other in [
            key(0, [2, 3], [4, 5], id4(6, 17)),
            key(1, [0, 3], [4, 5], id4(6, 17)),
            key(1, [2, 0], [4, 5], id4(6, 17)),
            key(1, [2, 3], [0, 5], id4(6, 17)),
            key(1, [2, 3], [4, 0], id4(6, 17)),
            key(1, [2, 3], [4, 5], id4(7, 17)),
            key(1, [2, 3], [4, 5], id4(6, 6)),
            key(1, [2, 3], [4, 5], id6(6)),
        ] {
            assert_ne!(base, other);
        }
    }
}
