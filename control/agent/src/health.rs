//! Health of backends and group members: a pure state machine per target.
//!
//! ```text
//!            1 bad                    fall bad in a row
//!  unknown ────────► down ◄────────────────────────────── up
//!     │                │          rise good in a row       ▲
//!     │                └──────────────────────────────────┤
//!     └──────────────── 1 good ───────────────────────────┘
//! ```
//! An unknown target counts as up: a starting agent takes nobody out before its first probe.

/// Health of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not probed yet.
    Unknown,
    /// Answers.
    Up,
    /// Does not.
    Down,
}

impl Health {
    /// As in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Up => "healthy",
            Health::Down => "down",
        }
    }
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer asked for.
    Good,
    /// An answer that says no (HTTP status other than 200..=399): the target lives and wants no new work.
    Refusing,
    /// No answer.
    Dead,
}

/// State of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetState {
    health: Health,
    /// Probes in a row that disagree with `health`.
    against: u32,
    /// The last probe was answered, if only by a refusal.
    answers: bool,
}

impl TargetState {
    /// Not probed yet; `down` if the tables of a former agent say so.
    pub const fn new(health: Health) -> Self {
        TargetState { health, against: 0, answers: !matches!(health, Health::Down) }
    }

    /// Health now.
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Counts as up.
    pub fn counts_as_up(&self) -> bool {
        self.health != Health::Down
    }

    /// Flows it has may stay: it counts as up, or it answers refusals, as one that drains does.
    pub fn keeps_flows(&self) -> bool {
        self.counts_as_up() || self.answers
    }

    /// Takes the result of a probe; `true` if [`Self::counts_as_up`] or [`Self::keeps_flows`] may have changed.
    pub fn on_probe(&mut self, outcome: Outcome, rise: u32, fall: u32) -> bool {
        let answered = outcome != Outcome::Dead;
        let other_answer = self.health == Health::Down && self.answers != answered;
        self.answers = answered;
        self.on_result(outcome == Outcome::Good, rise, fall) || other_answer
    }

    fn on_result(&mut self, good: bool, rise: u32, fall: u32) -> bool {
        let (next, needed) = match (self.health, good) {
            (Health::Unknown, true) => (Health::Up, 1),
            (Health::Unknown, false) => (Health::Down, 1),
            (Health::Up, false) => (Health::Down, fall),
            (Health::Down, true) => (Health::Up, rise),
            (Health::Up, true) | (Health::Down, false) => {
                self.against = 0;
                return false;
            }
        };
        self.against += 1;
        if self.against < needed {
            return false;
        }
        self.health = next;
        self.against = 0;
        true
    }
}

/// Delay before the next probe: the interval give or take so many percent, from a random number, so that thousands
/// of targets and many agents do not probe in step.
pub const fn jittered_ms(interval_ms: u64, percent: u32, random: u64) -> u64 {
    let side = interval_ms * percent as u64 / 100;
    interval_ms - side + random % (2 * side + 1)
}

/// Steps of a slow start. Each is a change of a table, whose windows keep the flows where they are.
pub const SLOW_START_STEPS: u8 = 8;

/// The step of a slow start that began so long ago: 1..=[`SLOW_START_STEPS`], of which the last is the full weight.
pub fn slow_start_step(since_ms: u64, slow_start_ms: u64) -> u8 {
    let steps = u64::from(SLOW_START_STEPS);
    let step = (since_ms * steps).checked_div(slow_start_ms).map_or(steps, |done| done + 1);
    u8::try_from(step.min(steps)).unwrap_or(SLOW_START_STEPS)
}

/// When the step after this one begins, ms after the start.
pub fn slow_start_next_ms(step: u8, slow_start_ms: u64) -> u64 {
    (u64::from(step) * slow_start_ms).div_ceil(u64::from(SLOW_START_STEPS))
}

/// A weight at a step; one that takes part keeps taking part.
pub fn slow_weight(weight: u16, step: u8) -> u16 {
    let part = u32::from(weight) * u32::from(step) / u32::from(SLOW_START_STEPS);
    u16::try_from(part).unwrap_or(weight).max(weight.min(1))
}

/// Whether so few of the active backends are healthy that the probes are not believed.
pub const fn in_panic(healthy: usize, active: usize, percent: u32) -> bool {
    healthy < (active * percent as usize).div_ceil(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    use Outcome::{Dead, Good, Refusing};

    #[test]
    fn the_first_probe_decides_then_rows_do() {
        let mut state = TargetState::new(Health::Unknown);
        assert!(state.counts_as_up());
        assert!(state.on_probe(Dead, 2, 3));
        assert!(!state.counts_as_up());
        assert!(!state.on_probe(Dead, 2, 3));
        state.on_probe(Good, 2, 3);
        state.on_probe(Dead, 2, 3);
        state.on_probe(Good, 2, 3);
        assert!(!state.counts_as_up(), "a bad probe breaks the row");
        assert!(state.on_probe(Good, 2, 3));
        assert_eq!(state.health(), Health::Up);
        for outcome in [Dead, Refusing, Good, Refusing, Dead] {
            assert!(!state.on_probe(outcome, 2, 3));
        }
        assert!(state.on_probe(Dead, 2, 3));
        assert_eq!(state.health(), Health::Down);
    }

    #[test]
    fn one_that_refuses_keeps_its_flows_and_gets_no_new_ones() {
        let mut state = TargetState::new(Health::Up);
        state.on_probe(Refusing, 1, 2);
        assert!(state.on_probe(Refusing, 1, 2));
        assert!(!state.counts_as_up() && state.keeps_flows());
        assert!(state.on_probe(Dead, 1, 2), "it died while it drained");
        assert!(!state.keeps_flows());
    }

    #[test]
    fn jitter_stays_within_its_percent_and_reaches_both_ends() {
        for (percent, range) in [(0, 1000..=1000), (10, 900..=1100), (50, 500..=1500)] {
            let all: Vec<u64> = (0..5000).map(|random| jittered_ms(1000, percent, random)).collect();
            assert_eq!(all.iter().min(), Some(range.start()));
            assert_eq!(all.iter().max(), Some(range.end()));
        }
        assert_eq!(jittered_ms(3, 10, 7), 3);
    }

    #[test]
    fn a_slow_start_rises_in_equal_steps_to_the_full_weight() {
        assert_eq!(slow_start_step(0, 0), SLOW_START_STEPS);
        let mut at = 0;
        for step in 1..=SLOW_START_STEPS {
            assert_eq!(slow_start_step(at, 10_001), step, "at {at} ms");
            at = slow_start_next_ms(step, 10_001);
        }
        assert_eq!(slow_start_step(at, 10_001), SLOW_START_STEPS);
        let weights: Vec<u16> = (1..=8).map(|step| slow_weight(100, step)).collect();
        assert_eq!(weights, [12, 25, 37, 50, 62, 75, 87, 100]);
        assert_eq!((slow_weight(1, 1), slow_weight(0, 1), slow_weight(1000, 8)), (1, 0, 1000));
    }

    #[test]
    fn panic_begins_below_its_share_rounded_up() {
        assert!(in_panic(0, 3, 1) && !in_panic(1, 3, 1));
        assert!(in_panic(1, 3, 50) && !in_panic(2, 3, 50));
        assert!(!in_panic(0, 3, 0), "0 turns it off");
        assert!(in_panic(2, 3, 100) && !in_panic(3, 3, 100));
        assert!(!in_panic(0, 0, 100), "nobody is there to spread over");
    }
}
