//! Links between nodes that lose, delay, reorder, repeat and part.
//!
//! A [`Net`] decides what becomes of one message; carrying it is the caller's event queue. Delays are drawn
//! per message, so messages overtake each other wherever `delay_max` exceeds `delay_min`.

use crate::queue::Tick;
use crate::rng::Rng;
use std::collections::BTreeSet;

/// How bad the links are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Messages lost, of 1000.
    pub loss_per_mille: u64,
    /// Messages delivered twice, of 1000.
    pub repeat_per_mille: u64,
    /// Shortest way, ticks.
    pub delay_min: Tick,
    /// Longest way, ticks.
    pub delay_max: Tick,
}

impl Weather {
    /// Nothing is lost, repeated or reordered; every way takes one tick.
    pub const CLEAR: Self = Self { loss_per_mille: 0, repeat_per_mille: 0, delay_min: 1, delay_max: 1 };

    /// Weather drawn for a run: a third of the runs are clear, the others lose up to one message in ten,
    /// repeat up to one in twenty, and reorder within `delay` ticks.
    pub fn draw(rng: &mut Rng, delay: Tick) -> Self {
        if rng.chance(333) {
            return Self::CLEAR;
        }
        Self {
            loss_per_mille: rng.between(0, 100),
            repeat_per_mille: rng.between(0, 50),
            delay_min: 1,
            delay_max: rng.between(1, delay.max(1)),
        }
    }
}

/// The links between nodes that are known by number.
#[derive(Clone, Debug)]
pub struct Net {
    /// How bad the links are now.
    pub weather: Weather,
    parted: BTreeSet<(u32, u32)>,
    /// Messages lost on the way.
    pub lost: u64,
    /// Messages delivered twice.
    pub repeated: u64,
    /// Messages that met a parted link.
    pub blocked: u64,
}

impl Net {
    /// Links in `weather`, none parted.
    pub fn new(weather: Weather) -> Self {
        Self { weather, parted: BTreeSet::new(), lost: 0, repeated: 0, blocked: 0 }
    }

    /// Cut the way from one node to another; the way back is another link.
    pub fn part(&mut self, from: u32, to: u32) {
        self.parted.insert((from, to));
    }

    /// Mend the way from one node to another.
    pub fn mend(&mut self, from: u32, to: u32) {
        self.parted.remove(&(from, to));
    }

    /// Mend every link and clear the weather.
    pub fn calm(&mut self) {
        self.parted.clear();
        self.weather = Weather::CLEAR;
    }

    /// The way from one node to another is cut.
    pub fn is_parted(&self, from: u32, to: u32) -> bool {
        self.parted.contains(&(from, to))
    }

    /// What becomes of one message: the delay of each copy that arrives.
    pub fn carry(&mut self, rng: &mut Rng, from: u32, to: u32) -> Arrivals {
        if self.is_parted(from, to) {
            self.blocked += 1;
            return Arrivals { first: None, second: None };
        }
        if rng.chance(self.weather.loss_per_mille) {
            self.lost += 1;
            return Arrivals { first: None, second: None };
        }
        let first = Some(self.delay(rng));
        let second = if rng.chance(self.weather.repeat_per_mille) {
            self.repeated += 1;
            Some(self.delay(rng))
        } else {
            None
        };
        Arrivals { first, second }
    }

    fn delay(&self, rng: &mut Rng) -> Tick {
        rng.between(self.weather.delay_min, self.weather.delay_max)
    }
}

/// Delays of the copies of one message that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    first: Option<Tick>,
    second: Option<Tick>,
}

impl IntoIterator for Arrivals {
    type Item = Tick;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Tick>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        [self.first, self.second].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parted_link_carries_nothing_one_way_only() {
        let mut net = Net::new(Weather::CLEAR);
        let mut rng = Rng::new(1);
        net.part(1, 2);
        assert_eq!(net.carry(&mut rng, 1, 2).into_iter().count(), 0);
        assert_eq!(net.carry(&mut rng, 2, 1).into_iter().collect::<Vec<_>>(), [1]);
        net.calm();
        assert_eq!(net.carry(&mut rng, 1, 2).into_iter().count(), 1);
    }

    #[test]
    fn bad_weather_loses_repeats_and_reorders() {
        let mut net =
            Net::new(Weather { loss_per_mille: 100, repeat_per_mille: 100, delay_min: 1, delay_max: 9 });
        let mut rng = Rng::new(1);
        let arrivals: Vec<Vec<Tick>> =
            (0..1000).map(|_| net.carry(&mut rng, 1, 2).into_iter().collect()).collect();
        assert!(net.lost > 50 && net.repeated > 50, "{net:?}");
        assert_eq!(arrivals.iter().filter(|a| a.is_empty()).count() as u64, net.lost);
        assert!(
            arrivals.windows(2).any(|w| matches!((w[0].first(), w[1].first()), (Some(a), Some(b)) if a > b))
        );
    }
}
