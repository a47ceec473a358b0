//! Points of members, and the way to the first point behind a hash.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

/// Fixed: every machine must place the same points. Not the seed of cache keys, so that points and keys are
/// independent.
const POINT_KEY: [u8; 16] = *b"sluice ring v1\0\0";

/// The first `count` points of a member; a heavier member has all points of a lighter one of its name.
pub(super) fn member_points(name: &str, count: u32) -> impl Iterator<Item = u64> {
    (0..count.div_ceil(2))
        .flat_map(move |n| {
            let mut hash = SipHasher24::new_with_key(&POINT_KEY);
            hash.write(&n.to_le_bytes());
            hash.write(name.as_bytes());
            let both = hash.finish128().as_u128();
            [both as u64, (both >> 64) as u64]
        })
        .take(count as usize)
}

/// For the leading bits of a hash, the first point with those bits or more: a lookup then looks at about two points.
#[derive(Clone, Debug)]
pub(super) struct Jump {
    starts: Vec<u32>,
    shift: u32,
}

impl Jump {
    pub(super) fn new(points: &[u64]) -> Self {
        let bits = points.len().next_power_of_two().trailing_zeros().clamp(1, 24);
        let shift = 64 - bits;
        let mut at = 0;
        let starts = (0..=1u64 << bits)
            .map(|prefix| {
                while at < points.len() && points[at] >> shift < prefix {
                    at += 1;
                }
                at as u32
            })
            .collect();
        Self { starts, shift }
    }

    /// Index of the first point not below the hash; the number of points if there is none.
    #[inline]
    pub(super) fn find(&self, points: &[u64], hash: u64) -> usize {
        let prefix = (hash >> self.shift) as usize;
        let (from, to) = (self.starts[prefix] as usize, self.starts[prefix + 1] as usize);
        from + points[from..to].iter().take_while(|p| **p < hash).count()
    }
}
