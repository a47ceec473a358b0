//! Internet checksum arithmetic (RFC 1071, RFC 1624).
//!
//! Sums run over 16-bit words as they lie in memory, read as little-endian numbers; the ones' complement sum
//! does not depend on byte order (RFC 1071 section 2 B), so the folded result is stored the same way.

/// Folds a sum of fewer than 65,536 words to 16 bits.
#[inline(always)]
pub const fn fold(mut sum: u32) -> u16 {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Folds a sum of fewer than 2^32 words of 16 or 32 bits to 16 bits.
#[inline(always)]
pub const fn fold64(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    fold(sum as u32)
}

/// Sum of a 32-bit word's two halves.
#[inline(always)]
pub const fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// Sum of a 64-bit word's four quarters.
#[inline(always)]
pub const fn quarters(word: u64) -> u32 {
    halves(word as u32) + halves((word >> 32) as u32)
}

/// Checksum after a 16-bit word changed from `old` to `new` (RFC 1624 equation 3).
#[inline(always)]
pub const fn update(check: u16, old: u16, new: u16) -> u16 {
    !fold((!check) as u32 + (!old) as u32 + new as u32)
}

/// Constant part of the sum over an outer IPv4 header (version and length, don't-fragment, TTL, protocol, the
/// high half of the source, the destination); TOS, total length and the low half of the source vary.
pub const fn outer4_base(src: &[u8; 4], dst: &[u8; 4], ttl: u8, proto: u8) -> u16 {
    const fn le2(a: u8, b: u8) -> u32 {
        a as u32 | (b as u32) << 8
    }
    fold(
        le2(0x45, 0)
            + le2(0x40, 0)
            + le2(ttl, proto)
            + le2(src[0], src[1])
            + le2(dst[0], dst[1])
            + le2(dst[2], dst[3]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(header: &[u8]) -> u16 {
        !fold(header.chunks(2).map(|c| u32::from(u16::from_le_bytes([c[0], c[1]]))).sum())
    }

    #[test]
    fn update_equals_recomputation() {
        let mut h = [0x45, 0, 0, 0x54, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let c = full(&h);
        for ttl in 1..=255u8 {
            let old = u16::from_le_bytes([h[8], h[9]]);
            let mut g = h;
            g[8] = ttl;
            assert_eq!(update(c, old, u16::from_le_bytes([ttl, 6])), full(&g), "ttl {ttl}");
        }
        h[10..12].copy_from_slice(&c.to_le_bytes());
        assert_eq!(full(&h), 0);
    }

    #[test]
    fn wide_words_sum_as_narrow_ones() {
        for n in 0..200u64 {
            let words: [u32; 9] = core::array::from_fn(|i| {
                (n + 1).wrapping_mul(0x9e37_79b9 * (i as u64 + 7)) as u32 | (n as u32) << 31
            });
            let wide = words.iter().map(|&w| u64::from(w)).sum();
            assert_eq!(fold64(wide), fold(words.iter().map(|&w| halves(w)).sum()), "{n}");
        }
        assert_eq!(fold64(u64::from(u32::MAX) * 400), 0xffff);
    }

    #[test]
    fn outer_base_completes() {
        let (src, dst) = ([172, 16, 0x12, 0x34], [10, 0, 0, 9]);
        let h = [0x45, 0x08, 0x01, 0x02, 0, 0, 0x40, 0, 64, 4, 0, 0, 172, 16, 0x12, 0x34, 10, 0, 0, 9];
        let base = u32::from(outer4_base(&src, &dst, 64, 4));
        let le = |a: u8, b: u8| u32::from(u16::from_le_bytes([a, b]));
        assert_eq!(!fold(base + le(0, 8) + le(1, 2) + le(0x12, 0x34)), full(&h));
    }
}
