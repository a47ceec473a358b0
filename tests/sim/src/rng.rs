//! The seeded random source of a simulation.
//!
//! SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): 64 bits of state,
//! every seed is good, a few instructions a draw. A run owns one; parts that must not disturb each other's
//! draws take a [`Rng::fork`].

/// A seeded random source.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A source that depends on nothing but `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A source for one purpose: the same `purpose` of the same seed draws the same numbers whatever the
    /// other purposes draw.
    pub fn fork(&self, purpose: u64) -> Self {
        let mut other = Self { state: self.state ^ purpose.wrapping_mul(0x9fb2_1c65_1e98_df25) };
        Self { state: other.next() }
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait, reason = "an endless source, not an iterator")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; `n` is not 0. The bias of the multiplication is below 2^-32 for the sizes here.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "an empty range has no number");
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// An index into something of length `len`.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True in `per_mille` of 1000 draws.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The first outputs of the public reference implementation (splitmix64.c) for seed 1234567.
    #[test]
    fn draws_what_the_reference_draws() {
        let mut rng = Rng::new(1_234_567);
        let drawn: Vec<u64> = (0..5).map(|_| rng.next()).collect();
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
    }

    #[test]
    fn stays_in_range_and_reaches_both_ends() {
        let mut rng = Rng::new(7);
        let drawn: Vec<u64> = (0..1000).map(|_| rng.between(3, 6)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&3), Some(&6)));
    }

    #[test]
    fn forks_of_one_source_differ_and_repeat() {
        let rng = Rng::new(1);
        assert_ne!(rng.fork(1).next(), rng.fork(2).next());
        assert_eq!(rng.fork(1).next(), rng.fork(1).next());
    }
}
