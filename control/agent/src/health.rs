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

/// Delay before the next probe: the interval give or take a tenth, from a random number, so that thousands
/// of targets and many agents do not probe in step.
pub const fn jittered_ms(interval_ms: u64, random: u64) -> u64 {
    let spread = interval_ms / 5;
    if spread == 0 { interval_ms } else { interval_ms - spread / 2 + random % (spread + 1) }
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
    fn jitter_stays_within_a_tenth() {
        for random in 0..1000 {
            let ms = jittered_ms(1000, random);
            assert!((900..=1100).contains(&ms), "{ms}");
        }
        assert_eq!(jittered_ms(3, 7), 3);
    }
}
