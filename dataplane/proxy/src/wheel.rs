//! A timer wheel that costs a request one store.
//!
//! A session writes its deadline into its table entry and touches the wheel only when the deadline moves
//! before the next planned visit. When a visit comes early the session is planned again. Resolution is one
//! slot; deadlines beyond the horizon are visited at the horizon and planned again.

use sluice_uring::Sock;

/// Slots of the wheel, a power of two.
const SLOTS: usize = 1024;
/// Time of one slot, ms: timeouts are seconds, so 64 ms late is nothing.
const SLOT_MS: u64 = 64;

/// Planned visits.
#[derive(Debug)]
pub struct Wheel {
    slots: Vec<Vec<(Sock, u64)>>,
    used: [u64; SLOTS / 64],
    /// Slot number (not reduced) that is visited next.
    next: u64,
}

impl Wheel {
    /// An empty wheel that starts at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self { slots: vec![Vec::new(); SLOTS], used: [0; SLOTS / 64], next: now_ms / SLOT_MS }
    }

    /// Plans a visit not before `at_ms`; returns when it is planned for, the key of this visit.
    pub fn plan(&mut self, sock: Sock, at_ms: u64) -> u64 {
        let slot = at_ms.div_ceil(SLOT_MS).clamp(self.next, self.next + SLOTS as u64 - 1);
        let place = slot as usize % SLOTS;
        self.slots[place].push((sock, slot * SLOT_MS));
        self.used[place / 64] |= 1 << (place % 64);
        slot * SLOT_MS
    }

    /// Moves visits due by `now_ms` into `due`: socket and key.
    pub fn advance(&mut self, now_ms: u64, due: &mut Vec<(Sock, u64)>) {
        let last = now_ms / SLOT_MS;
        if last.saturating_sub(self.next) > SLOTS as u64 {
            self.next = last - SLOTS as u64;
        }
        while self.next <= last {
            let place = self.next as usize % SLOTS;
            if self.used[place / 64] & (1 << (place % 64)) != 0 {
                self.used[place / 64] &= !(1 << (place % 64));
                due.append(&mut self.slots[place]);
            }
            self.next += 1;
        }
    }

    /// Milliseconds from `now_ms` to the next visit, if any is planned.
    pub fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        let mut slot = self.next;
        while slot < self.next + SLOTS as u64 {
            let place = slot as usize % SLOTS;
            let word = self.used[place / 64] >> (place % 64);
            if word != 0 {
                let at = (slot + u64::from(word.trailing_zeros())) * SLOT_MS;
                return Some(at.saturating_sub(now_ms));
            }
            slot += 64 - (place as u64 % 64);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sock(index: u32) -> Sock {
        Sock { index, generation: 0 }
    }

    #[test]
    fn visits_come_at_their_time_and_once() {
        let mut wheel = Wheel::new(1_000);
        let mut due = Vec::new();
        for (i, at) in [1_001, 1_500, 9_999, 60_000].into_iter().enumerate() {
            assert!(wheel.plan(sock(i as u32), at) >= at);
        }
        let mut seen = Vec::new();
        for now in (1_000..70_000).step_by(7) {
            wheel.advance(now, &mut due);
            seen.extend(due.drain(..).map(|(s, key)| {
                assert!(key <= now && now < key + SLOT_MS + 7);
                s.index
            }));
        }
        assert_eq!(seen, [0, 1, 2, 3]);
        assert_eq!(wheel.wait_ms(70_000), None);
    }

    #[test]
    fn waits_until_the_next_visit_wherever_the_wheel_stands() {
        for start in (0..200_000).step_by(977) {
            let mut wheel = Wheel::new(start);
            wheel.plan(sock(0), start + 30_000);
            let wait = wheel.wait_ms(start).unwrap();
            assert!((30_000..30_000 + SLOT_MS).contains(&wait), "start {start} wait {wait}");
        }
    }

    #[test]
    fn a_visit_beyond_the_horizon_comes_at_the_horizon() {
        let mut wheel = Wheel::new(0);
        let at = wheel.plan(sock(0), 10_000_000);
        assert!(at < SLOTS as u64 * SLOT_MS);
    }

    #[test]
    fn a_long_sleep_loses_no_visit() {
        let mut wheel = Wheel::new(0);
        wheel.plan(sock(0), 100);
        wheel.plan(sock(1), 60_000);
        let mut due = Vec::new();
        wheel.advance(10_000_000, &mut due);
        assert_eq!(due.len(), 2);
    }
}
