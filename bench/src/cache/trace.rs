//! A synthetic trace with the marks of a CDN's: Zipf popularity, sizes with a heavy tail, objects that come and go,
//! and many that are asked for once.

use crate::rng::{Rng, Zipf};
use std::collections::HashMap;

/// Largest object.
pub const SIZE_MAX: u32 = 4 << 20;
const SIZE_MIN: f64 = 100.0;
/// Popular places; each is taken by one object after another.
const PLACES: usize = 200_000;
/// Share of requests for objects never asked for again.
const ONCE: f64 = 0.3;

/// The trace.
#[derive(Debug)]
pub struct Trace {
    /// Object of each request, dense from 0.
    pub requests: Vec<u32>,
    /// Size of each object, bytes.
    pub sizes: Vec<u32>,
    /// Sum of all sizes.
    pub footprint: u64,
}

impl Trace {
    /// The same seed gives the same trace.
    pub fn new(requests: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let zipf = Zipf::new(PLACES, 0.85);
        let lives: Vec<u64> = (0..PLACES).map(|_| life(&mut rng, requests)).collect();
        let mut ids: HashMap<(usize, u64), u32> = HashMap::new();
        let mut trace = Self { requests: Vec::with_capacity(requests), sizes: Vec::new(), footprint: 0 };
        for at in 0..requests as u64 {
            let id = if rng.unit() < ONCE {
                trace.object(&mut rng)
            } else {
                let place = zipf.sample(&mut rng);
                let turn = (at + lives[place] / 3) / lives[place];
                let fresh = trace.sizes.len() as u32;
                let id = *ids.entry((place, turn)).or_insert(fresh);
                if id == fresh { trace.object(&mut rng) } else { id }
            };
            trace.requests.push(id);
        }
        trace
    }

    /// Log-normal with median 3 KiB, and one in fifty from a Pareto tail that begins at 64 KiB.
    fn object(&mut self, rng: &mut Rng) -> u32 {
        let size = if rng.unit() < 0.02 {
            65_536.0 * (1.0 - rng.unit()).powf(-1.0 / 1.2)
        } else {
            3072.0 * (1.3 * rng.normal()).exp()
        };
        let size = size.clamp(SIZE_MIN, f64::from(SIZE_MAX)) as u32;
        self.sizes.push(size);
        self.footprint += u64::from(size);
        (self.sizes.len() - 1) as u32
    }
}

/// Requests after which a place gets another object: from a twentieth of the trace to well beyond it.
fn life(rng: &mut Rng, requests: usize) -> u64 {
    ((requests as f64 / 20.0) * 100f64.powf(rng.unit())).max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_trace_and_sizes_have_a_tail() {
        let (a, b) = (Trace::new(20_000, 3), Trace::new(20_000, 3));
        assert_eq!(a.requests, b.requests);
        assert_eq!(a.footprint, a.sizes.iter().map(|s| u64::from(*s)).sum::<u64>());
        let mut sizes = a.sizes.clone();
        sizes.sort_unstable();
        let largest: u64 = sizes.iter().rev().take(sizes.len() / 100).map(|s| u64::from(*s)).sum();
        assert!(largest * 5 > a.footprint, "one in a hundred holds more than a fifth of the bytes");
    }
}
