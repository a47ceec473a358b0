//! When a proxy that ended is started again: at once the first time, later each time it ends young.
//!
//! ```text
//!  age ≥ STABLE_MS: strikes = 0      each end: strikes + 1
//!  strikes    1    2       3       4     ...
//!  pause      0    250 ms  500 ms  1 s   ... PAUSE_MS_MAX
//! ```
//! Pure: the engine hands in the time.

/// A process that lived this long was no failed start, ms.
const STABLE_MS: u64 = 60_000;
/// Pause after the second early end, ms; doubles each time.
const PAUSE_MS_MIN: u64 = 250;
/// Longest pause, ms: a fixed program file or a freed port is found within this time.
const PAUSE_MS_MAX: u64 = 30_000;

/// Ends of the proxy and what follows from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restarts {
    started_ms: u64,
    strikes: u32,
    hold_until_ms: u64,
    /// A start that was wanted and waits until then.
    waits_until_ms: Option<u64>,
}

impl Restarts {
    /// A process was started or found running.
    pub(crate) const fn started(&mut self, now_ms: u64) {
        self.started_ms = now_ms;
    }

    /// The process ended.
    pub(crate) fn ended(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.started_ms) >= STABLE_MS {
            self.strikes = 0;
        }
        self.strikes = self.strikes.saturating_add(1);
        let doublings = self.strikes.saturating_sub(2).min(16);
        let pause = if self.strikes < 2 { 0 } else { (PAUSE_MS_MIN << doublings).min(PAUSE_MS_MAX) };
        self.hold_until_ms = now_ms + pause;
    }

    /// A start is wanted: how long it has to wait, ms, if it has to.
    pub(crate) fn wanted(&mut self, now_ms: u64) -> Option<u64> {
        let wait = self.hold_until_ms.checked_sub(now_ms).filter(|wait| *wait > 0);
        self.waits_until_ms = wait.map(|_| self.hold_until_ms);
        wait
    }

    /// When a start that waits is due.
    pub(crate) const fn due(&self) -> Option<u64> {
        self.waits_until_ms
    }

    /// A start that waited is due now; it is told once.
    pub(crate) fn take_due(&mut self, now_ms: u64) -> bool {
        self.waits_until_ms.take_if(|at| *at <= now_ms).is_some()
    }

    /// Early ends in a row.
    pub(crate) const fn strikes(&self) -> u32 {
        self.strikes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound_and_a_long_life_forgets_them() {
        let mut restarts = Restarts::default();
        let mut now = 1_000;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            restarts.started(now);
            now += 10;
            restarts.ended(now);
            let pause = restarts.wanted(now).unwrap_or(0);
            assert!(!restarts.take_due(now), "not before its time");
            pauses.push(pause);
            now += pause;
            assert_eq!(restarts.take_due(now), pause > 0);
            assert_eq!((restarts.wanted(now), restarts.due()), (None, None));
        }
        assert_eq!(pauses[..4], [0, 250, 500, 1_000]);
        assert_eq!(pauses.last(), Some(&PAUSE_MS_MAX));
        restarts.started(now);
        now += STABLE_MS;
        restarts.ended(now);
        assert_eq!((restarts.wanted(now), restarts.strikes()), (None, 1));
    }
}
