//! Addresses a worker connects to: pooled connections and what is known of their health.
//!
//! Passive detection only: a refused or timed-out connect passes an address over for a while, twice as long
//! each time; one good connect clears it.

use sluice_uring::Sock;
use std::collections::HashMap;
use std::net::SocketAddr;

/// An address is passed over at most this long, ms.
const DOWN_MS_MAX: u64 = 30_000;

/// One address.
#[derive(Debug)]
pub(crate) struct Target {
    /// Idle connections, the last used one last.
    pub(crate) idle: Vec<Sock>,
    /// Connections, idle ones too.
    pub(crate) open: u32,
    down_until_ms: u64,
    failures: u32,
}

impl Target {
    pub(crate) fn is_down(&self, now_ms: u64) -> bool {
        now_ms < self.down_until_ms
    }

    pub(crate) fn failed(&mut self, now_ms: u64, down_ms: u64) {
        let factor = 1u64 << self.failures.min(5);
        self.failures += 1;
        self.down_until_ms = now_ms + (down_ms * factor).min(DOWN_MS_MAX);
    }

    pub(crate) fn answered(&mut self) {
        self.failures = 0;
        self.down_until_ms = 0;
    }
}

/// All addresses of a worker, numbered.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    list: Vec<Target>,
    index: HashMap<SocketAddr, u32>,
}

impl Targets {
    pub(crate) fn id(&mut self, addr: SocketAddr) -> u32 {
        if let Some(&id) = self.index.get(&addr) {
            return id;
        }
        let id = self.list.len() as u32;
        self.list.push(Target { idle: Vec::new(), open: 0, down_until_ms: 0, failures: 0 });
        self.index.insert(addr, id);
        id
    }

    pub(crate) fn get(&mut self, id: u32) -> &mut Target {
        &mut self.list[id as usize]
    }

    pub(crate) fn is_down(&self, addr: &SocketAddr, now_ms: u64) -> bool {
        self.index.get(addr).is_some_and(|&id| self.list[id as usize].is_down(now_ms))
    }

    /// Connections to an address with a request under way.
    pub(crate) fn in_flight(&self, addr: &SocketAddr) -> u64 {
        self.index.get(addr).map_or(0, |&id| {
            let target = &self.list[id as usize];
            u64::from(target.open).saturating_sub(target.idle.len() as u64)
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Target> {
        self.list.iter()
    }
}

/// Retries granted from a budget: a burst, refilled by a share of the requests.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// Hundredths of a retry.
    tokens: u64,
    burst: u64,
    percent: u64,
}

impl RetryBudget {
    pub(crate) fn new(burst: u32, percent: u32) -> Self {
        let burst = u64::from(burst) * 100;
        Self { tokens: burst, burst, percent: u64::from(percent) }
    }

    /// A request started.
    pub(crate) fn refill(&mut self) {
        self.tokens = (self.tokens + self.percent).min(self.burst);
    }

    /// Takes one retry if there is one.
    pub(crate) fn grant(&mut self) -> bool {
        let granted = self.tokens >= 100;
        if granted {
            self.tokens -= 100;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_grants_a_burst_and_then_a_share() {
        let mut budget = RetryBudget::new(3, 20);
        assert_eq!((0..10).filter(|_| budget.grant()).count(), 3);
        let granted = (0..100)
            .filter(|_| {
                budget.refill();
                budget.grant()
            })
            .count();
        assert_eq!(granted, 20);
    }

    #[test]
    fn an_address_that_fails_again_is_passed_over_longer() {
        let mut targets = Targets::default();
        let id = targets.id("127.0.0.1:1".parse().unwrap());
        let target = targets.get(id);
        target.failed(0, 1000);
        assert!(target.is_down(999) && !target.is_down(1000));
        target.failed(1000, 1000);
        assert!(target.is_down(2999) && !target.is_down(3000));
        for _ in 0..40 {
            target.failed(0, 1000);
        }
        assert!(!target.is_down(DOWN_MS_MAX));
        target.answered();
        assert!(!target.is_down(0));
    }
}
