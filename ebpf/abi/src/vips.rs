//! The table of VIPs: a hash table of our own in two arrays.
//!
//! ```text
//!  key -> hash -> bucket: 8 words [ tag: high 32 bits of the hash | row ]  -- row -->  key and value
//! ```
//! The kernel's hash map costs a call and its own hash for every packet; here a lookup is two array accesses
//! that the kernel compiles in place. User space alone writes, through a mapping: a row is whole before a word
//! names it, and a word goes before its row does. A bucket is one cache line, and so is what the steady path
//! reads of a row.
//!
//! A bucket that was ever full sends searches on to the next one, [`PROBES`] in all: words in it are replaced by
//! [`GONE`] and never freed, so that what lies behind it stays in reach.

use crate::hash::mix64;
use crate::layout::VipValue;

/// Words of a bucket: one cache line.
pub const BUCKET_WORDS: usize = 8;

/// Buckets a key may be in. With as many buckets as VIPs, which is the least there is, one in a million is full.
pub const PROBES: u32 = 3;

/// A free word.
pub const FREE: u64 = 0;

/// A word that was taken back from a full bucket. Row 0 is no VIP's.
pub const GONE: u64 = 0xffff_ffff_0000_0000;

/// Family of an IPv4 key.
pub const IPV4: u8 = 4;
/// Family of an IPv6 key.
pub const IPV6: u8 = 6;

/// Buckets of a table for `vips` VIPs.
pub const fn buckets(vips: u32) -> u32 {
    vips.next_power_of_two()
}

/// Key of a VIP as words: the address as it is on the wire (IPv4 in the first four bytes, rest zero), read
/// little-endian, and [`ports`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// First half of the address.
    pub lo: u64,
    /// Second half of the address.
    pub hi: u64,
    /// See [`ports`].
    pub ports: u64,
}

/// Port (as its wire bytes read little-endian), protocol and family in one word.
#[inline(always)]
pub const fn ports(port: u16, proto: u8, family: u8) -> u64 {
    port as u64 | (proto as u64) << 16 | (family as u64) << 24
}

impl Key {
    /// Hash of the key: the bucket is of the low half, the tag the high one. Never one of the reserved words.
    #[inline(always)]
    pub const fn hash(self) -> u64 {
        // An IPv4 key is one word, so its hash is a bijection of it.
        mix64((self.lo ^ self.ports << 32) ^ self.hi.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// The word that names a row.
#[inline(always)]
pub const fn word(hash: u64, row: u32) -> u64 {
    hash & 0xffff_ffff_0000_0000 | row as u64
}

/// The word is of a key with this hash, as far as the tag tells.
#[inline(always)]
pub const fn tag_matches(word: u64, hash: u64) -> bool {
    (word ^ hash) >> 32 == 0
}

/// Row a word names.
#[inline(always)]
pub const fn row_of(word: u64) -> u32 {
    word as u32
}

/// A bucket.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipBucket {
    /// See [`word`].
    pub words: [u64; BUCKET_WORDS],
}
const _: () = assert!(size_of::<VipBucket>() == 64);

/// A VIP; its number is the VIP's id.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipRow {
    /// Key; all zero in a row that is not used.
    pub key: Key,
    /// Value.
    pub value: VipValue,
    /// Zero.
    pub pad: [u64; ROW_WORDS - (size_of::<Key>() + size_of::<VipValue>()) / 8],
}
const _: () = assert!(size_of::<VipRow>() == ROW_WORDS * 8);

/// Words of a row: two cache lines, of which the second holds what only flags ask for.
pub const ROW_WORDS: usize = 16;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ipv4_keys_never_share_a_hash() {
        let mut seen = BTreeSet::new();
        for addr in 0..64u64 {
            for port in 0..64u16 {
                for proto in [6, 17] {
                    let key = Key { lo: addr << 24 | 0x0a, hi: 0, ports: ports(port.to_be(), proto, IPV4) };
                    assert!(seen.insert(key.hash()));
                }
            }
        }
    }

    #[test]
    fn buckets_of_neighbouring_keys_rarely_fill() {
        let vips = 10_000u32;
        let mask = buckets(vips) - 1;
        let mut taken = std::collections::BTreeMap::<u32, usize>::new();
        for n in 0..u64::from(vips) {
            let key = Key { lo: 0xfd | n << 40, hi: n << 56, ports: ports(80u16.to_be(), 6, IPV6) };
            *taken.entry(key.hash() as u32 & mask).or_default() += 1;
        }
        assert!(taken.values().all(|&n| n < BUCKET_WORDS), "{:?}", taken.values().max());
    }

    #[test]
    fn reserved_words_name_no_row() {
        assert_eq!((row_of(FREE), row_of(GONE)), (0, 0));
        assert!(tag_matches(word(u64::MAX, 7), u64::MAX) && row_of(word(u64::MAX, 7)) == 7);
    }
}
