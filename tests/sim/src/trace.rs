//! What happened, in order: the last lines for the reader of a failure, a hash over all of them to show that
//! a run replays exactly.

use crate::queue::Tick;
use std::collections::VecDeque;
use std::fmt::Write;

/// Lines kept for the report of a violation: enough to see a flow or a request from its start.
pub const KEPT_LINES: usize = 400;

/// The event trace of a run.
#[derive(Debug)]
pub struct Trace {
    lines: VecDeque<String>,
    hash: u64,
    count: u64,
}

impl Default for Trace {
    fn default() -> Self {
        // FNV-1a, 64 bits: offset basis.
        Self { lines: VecDeque::with_capacity(KEPT_LINES), hash: 0xcbf2_9ce4_8422_2325, count: 0 }
    }
}

impl Trace {
    /// Note one event. The buffer of the oldest line is used again.
    pub fn note(&mut self, now: Tick, what: std::fmt::Arguments<'_>) {
        let mut line =
            if self.lines.len() < KEPT_LINES { None } else { self.lines.pop_front() }.unwrap_or_default();
        line.clear();
        write!(line, "{now:>8} {what}").expect("writing to a string does not fail");
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.count += 1;
        self.lines.push_back(line);
    }

    /// Hash over every line so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events noted so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last lines, oldest first.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_and_hashes_all() {
        let (mut a, mut b) = (Trace::default(), Trace::default());
        for n in 0..KEPT_LINES as u64 + 10 {
            a.note(n, format_args!("event {n}"));
            // Differs in the first line only, which neither keeps.
            b.note(n, format_args!("event {}", if n == 0 { 99 } else { n }));
        }
        assert_ne!(a.hash(), b.hash());
        assert_eq!(a.count(), KEPT_LINES as u64 + 10);
        let lines = a.into_lines();
        assert_eq!((lines.len(), lines[0].as_str()), (KEPT_LINES, "      10 event 10"));
        assert_eq!(lines, b.into_lines());
    }
}
