//! Flow hash, Maglev slot, bucket and tag.
//!
//! Every balancer of a group computes the same numbers from the same packet: inputs are read as little-endian
//! words of the bytes on the wire, whatever the machine. Within one VIP the IPv4 hash is a bijection of
//! (source address, source port): two IPv4 flows of a VIP never share all 64 bits.
//!
//! Use of the bits: the slot comes from the high 32, the tag of a flow entry is the high 34 (so the slot can
//! be told from the entry), the bucket is the low 26 at most.

use crate::SLOTS;

const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xbf58_476d_1ce4_e5b9;
const K3: u64 = 0x94d0_49bb_1331_11eb;

/// Finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64 bits.
#[inline(always)]
pub const fn mix64(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(K2);
    x ^= x >> 27;
    x = x.wrapping_mul(K3);
    x ^ (x >> 31)
}

/// Seed of a VIP, from its key and the secret of the group (0 when there is none).
pub const fn vip_seed(addr: &[u8; 16], port_be: u16, proto: u8, secret: u64) -> u64 {
    let mut x = mix64(secret ^ K1);
    let mut word = 0;
    while word < 2 {
        let mut w = 0u64;
        let mut i = 0;
        while i < 8 {
            w |= (addr[word * 8 + i] as u64) << (8 * i);
            i += 1;
        }
        x = mix64(x.wrapping_add(K1) ^ w);
        word += 1;
    }
    let port = u16::from_be(port_be);
    mix64(x.wrapping_add(K1) ^ ((proto as u64) << 16 | port as u64))
}

/// Hash of an IPv4 flow. `src` and `sport` are the wire bytes read as little-endian numbers.
#[inline(always)]
pub const fn flow_hash4(seed: u64, src: u32, sport: u16) -> u64 {
    mix64(seed ^ ((src as u64) << 16 | sport as u64))
}

/// Hash of an IPv6 flow. `src_lo` is the first eight wire bytes of the source, `src_hi` the last eight, and
/// `sport` the port, each read as a little-endian number.
#[inline(always)]
pub const fn flow_hash6(seed: u64, src_lo: u64, src_hi: u64, sport: u16) -> u64 {
    let x = (seed ^ src_lo).wrapping_mul(K1);
    let x = (x ^ (x >> 32)).wrapping_add(src_hi);
    mix64(x.wrapping_mul(K3) ^ (x >> 29) ^ (sport as u64) << 24)
}

/// Maglev slot of a flow, below [`SLOTS`].
#[inline(always)]
pub const fn slot_of(hash: u64) -> u32 {
    (((hash >> 32) * SLOTS as u64) >> 32) as u32
}

/// Bucket of a flow; `mask` is the number of buckets (a power of two) minus one.
#[inline(always)]
pub const fn bucket_of(hash: u64, mask: u32) -> u32 {
    hash as u32 & mask
}

/// Varied low 16 bits of the outer source address of an encapsulated packet, so that the receiver's RSS
/// spreads flows over its queues.
#[inline(always)]
pub const fn outer_entropy(hash: u64) -> u16 {
    (hash >> 16) as u16
}

/// UDP source port of a GUE packet: the flow's entropy in the range that no service listens in (RFC 6335
/// section 6), so that receivers and routers spread flows by it. A number, not wire bytes.
#[inline(always)]
pub const fn gue_source_port(hash: u64) -> u16 {
    0xc000 | hash as u16 & 0x3fff
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u8; 16] = [10, 200, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const V6: [u8; 16] = [0xfc, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    /// Golden vectors: other machines of a group, and pinned flow tables, rely on these numbers.
    #[test]
    fn golden_vectors() {
        let s4 = vip_seed(&V4, 80u16.to_be(), 6, 0);
        let s6 = vip_seed(&V6, 443u16.to_be(), 17, 7);
        let got = [
            mix64(1),
            s4,
            s6,
            flow_hash4(s4, u32::from_le_bytes([10, 100, 0, 1]), u16::from_le_bytes([0x7a, 0x69])),
            flow_hash4(s4, u32::from_le_bytes([10, 100, 0, 2]), u16::from_le_bytes([0x7a, 0x69])),
            flow_hash6(s6, 0x0200_00fc, 0x0100_0000_0000_0000, u16::from_le_bytes([0x7a, 0x69])),
        ];
        assert_eq!(got, GOLDEN, "{got:#x?}");
        assert_eq!(slot_of(0), 0);
        assert_eq!(slot_of(u64::MAX), SLOTS - 1);
        assert_eq!(bucket_of(0xffff_ffff_0001_2345, 0xffff), 0x2345);
    }

    const GOLDEN: [u64; 6] = [
        0x5692_161d_100b_05e5,
        0x96d8_0543_d1a4_7abc,
        0xbc23_1eb4_b361_5b37,
        0xc179_59ea_8cd9_0d0c,
        0x4539_a513_5510_9bd5,
        0x9ece_0439_bca8_12ee,
    ];

    #[test]
    fn slots_of_neighbouring_flows_are_even() {
        for six in [false, true] {
            let mut per = [0u32; 16];
            for src in 0..64u32 {
                for port in 0..1024u16 {
                    let h = if six {
                        flow_hash6(1, 0x20, u64::from(src) << 56, port.to_be())
                    } else {
                        flow_hash4(1, (0x0a00_0000 + src).to_be(), port.to_be())
                    };
                    per[(slot_of(h) / 4097).min(15) as usize] += 1;
                }
            }
            // 65,536 flows over 16 ranges: 4,096 expected, standard deviation 62.
            assert!(per.iter().all(|&n| (3780..=4412).contains(&n)), "six={six} {per:?}");
        }
    }
}
