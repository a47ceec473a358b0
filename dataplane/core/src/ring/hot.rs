//! Which keys are so hot that one owner should not serve them alone.
//!
//! A count-min sketch with conservative update (G. Cormode, S. Muthukrishnan 2005; C. Estan, G. Varghese 2002) over a
//! window of time, halved at its end, so a key that cools down is forgotten. One per worker: nothing is shared, and
//! each worker sees an equal part of the requests.
//!
//! A count is never too low. It is too high by at most the mean row load, about `requests / 1024`, with
//! probability 1 - 2^-4 or better; a false "hot" costs a copy of an object, never a wrong answer.

const ROWS: usize = 4;
const WIDTH: usize = 1024;

/// The sketch: 16 KiB.
#[derive(Clone, Debug)]
pub struct HotKeys {
    counts: Box<[[u32; WIDTH]; ROWS]>,
    threshold: u32,
    window_ms: u64,
    window_end_mono_ms: u64,
}

impl HotKeys {
    /// A key is hot when its requests, those of earlier windows halved each time, reach `threshold`.
    pub fn new(threshold: u32, window_ms: u64) -> Self {
        Self {
            counts: Box::new([[0; WIDTH]; ROWS]),
            threshold: threshold.max(1),
            window_ms: window_ms.max(1),
            window_end_mono_ms: 0,
        }
    }

    /// Counts a request for a key; `true`: answer it here, and keep a copy.
    pub fn touch(&mut self, key_hash: u64, now_mono_ms: u64) -> bool {
        if now_mono_ms >= self.window_end_mono_ms {
            self.turn(now_mono_ms);
        }
        let places = places(key_hash);
        let count = (0..ROWS).map(|row| self.counts[row][places[row]]).min().unwrap_or(0).saturating_add(1);
        for (row, place) in places.into_iter().enumerate() {
            let cell = &mut self.counts[row][place];
            *cell = (*cell).max(count);
        }
        count >= self.threshold
    }

    fn turn(&mut self, now_mono_ms: u64) {
        let passed = now_mono_ms.saturating_sub(self.window_end_mono_ms) / self.window_ms + 1;
        let shift = passed.min(31) as u32;
        self.counts.iter_mut().flatten().for_each(|c| *c >>= shift);
        self.window_end_mono_ms = now_mono_ms + self.window_ms;
    }
}

/// Cache keys are hashes already: four ten-bit parts, mixed so that neighbours in the ring do not meet.
fn places(key_hash: u64) -> [usize; ROWS] {
    let mixed = key_hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::array::from_fn(|row| (mixed >> (24 + row * 10)) as usize % WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_after_the_threshold_and_cold_again_later() {
        let mut hot = HotKeys::new(10, 1000);
        assert_eq!((0..12).filter(|_| hot.touch(7, 0)).count(), 3);
        assert!(!hot.touch(8, 0));
        assert!(!hot.touch(7, 1000), "half of twelve, and one");
        assert!(!hot.touch(7, 60_000));
    }

    #[test]
    fn a_cold_key_among_many_is_not_hot() {
        let mut hot = HotKeys::new(100, 1000);
        let wrong = (0..20_000u64).filter(|n| hot.touch(n.wrapping_mul(0xd134_2543_de82_ef95), 0)).count();
        assert_eq!(wrong, 0);
    }
}
