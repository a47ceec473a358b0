//! The event queue and its virtual clock.
//!
//! Events of one tick come out in the order in which they were put in, so a run has one order only. The
//! clock moves only when an event is taken and never back.

use std::collections::BTreeMap;

/// Virtual time. Each family says what one tick is.
pub type Tick = u64;

/// Events by the tick at which they happen.
#[derive(Debug)]
pub struct Queue<E> {
    events: BTreeMap<(Tick, u64), E>,
    now: Tick,
    order: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { events: BTreeMap::new(), now: 0, order: 0 }
    }
}

impl<E> Queue<E> {
    /// The time of the event taken last.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// Events not taken yet.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Nothing is left to happen.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// `event` happens `delay` ticks from now.
    pub fn after(&mut self, delay: Tick, event: E) {
        self.at(self.now + delay, event);
    }

    /// `event` happens at `tick`, or now if that is past.
    pub fn at(&mut self, tick: Tick, event: E) {
        self.order += 1;
        self.events.insert((tick.max(self.now), self.order), event);
    }

    /// When the next event happens.
    pub fn next_at(&self) -> Option<Tick> {
        self.events.keys().next().map(|(tick, _)| *tick)
    }

    /// Take the next event and move the clock to it.
    pub fn take(&mut self) -> Option<E> {
        let ((tick, _), event) = self.events.pop_first()?;
        self.now = tick;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_by_order_of_arrival() {
        let mut queue = Queue::default();
        queue.at(5, 'c');
        queue.at(1, 'a');
        queue.at(5, 'd');
        queue.at(1, 'b');
        let mut seen = String::new();
        while let Some(event) = queue.take() {
            seen.push(event);
        }
        assert_eq!((seen.as_str(), queue.now()), ("abcd", 5));
    }

    #[test]
    fn the_clock_never_goes_back() {
        let mut queue = Queue::default();
        queue.at(9, 'a');
        queue.take();
        queue.at(3, 'b');
        queue.take();
        assert_eq!(queue.now(), 9);
    }
}
