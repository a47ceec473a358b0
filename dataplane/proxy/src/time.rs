//! Time as the session code sees it: given, never read.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A moment, the same for everything one turn of a worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Microseconds on a clock that never goes back.
    pub us: u64,
    /// Seconds since 1970, for the fields of messages.
    pub unix_s: u64,
}

impl Now {
    /// Milliseconds on the clock of `us`.
    pub const fn ms(self) -> u64 {
        self.us / 1000
    }
}

/// The real clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock {
    /// Reads it.
    pub fn now(&self) -> Now {
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Now { us: self.us(), unix_s }
    }

    /// Microseconds since this clock was made.
    pub fn us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}
