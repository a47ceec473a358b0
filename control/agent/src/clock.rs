//! The time seam: the engine reads no clock of its own.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Two clocks read at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, microseconds from an arbitrary start.
    pub mono_us: u64,
    /// Wall clock, microseconds since 1970.
    pub wall_us: u64,
}

impl Now {
    /// Monotonic milliseconds.
    pub const fn mono_ms(self) -> u64 {
        self.mono_us / 1000
    }
    /// Wall-clock milliseconds.
    pub const fn wall_ms(self) -> u64 {
        self.wall_us / 1000
    }
}

/// Where time comes from.
pub trait Clock {
    /// Time now.
    fn now(&self) -> Now;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Monotonic time counts from here.
    pub fn start() -> Self {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let micros = |d: std::time::Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Now {
            mono_us: micros(self.start.elapsed()),
            wall_us: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros),
        }
    }
}

/// A clock that a simulation or test moves; clones move together.
#[derive(Clone, Debug, Default)]
pub struct FakeClock(Rc<Cell<u64>>);

impl FakeClock {
    /// Moves on.
    pub fn advance_ms(&self, ms: u64) {
        self.0.set(self.0.get() + ms * 1000);
    }
    /// Sets the time; it may not go back.
    pub fn set_us(&self, us: u64) {
        self.0.set(us.max(self.0.get()));
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Now {
        // The wall clock starts in 2001, so that it is never mistaken for the monotonic one.
        Now { mono_us: self.0.get(), wall_us: self.0.get() + 1_000_000_000_000_000 }
    }
}
