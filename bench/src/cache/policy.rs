//! Eviction policies to compare with, by bytes: small references of our own, and public crates.
//!
//! All of them count body bytes only: neither heads nor index.

use super::trace::Trace;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};

/// Hits and misses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    requests: u64,
    misses: u64,
    bytes: u64,
    missed_bytes: u64,
}

impl Outcome {
    /// One request.
    pub fn count(&mut self, hit: bool, size: u32) {
        self.requests += 1;
        self.bytes += u64::from(size);
        self.misses += u64::from(!hit);
        self.missed_bytes += if hit { 0 } else { u64::from(size) };
    }

    /// Misses per request.
    pub fn object_miss_ratio(&self) -> f64 {
        self.misses as f64 / self.requests as f64
    }

    /// Bytes missed per byte asked for.
    pub fn byte_miss_ratio(&self) -> f64 {
        self.missed_bytes as f64 / self.bytes as f64
    }
}

/// A cache that only decides.
pub trait Policy {
    /// Name in results.
    fn name(&self) -> &'static str;
    /// The request at a place of the trace; `true`: it was a hit. A miss stores the object.
    fn request(&mut self, at: usize, id: u32, size: u64) -> bool;
}

/// All of them.
pub fn all(capacity: u64, trace: &Trace) -> Vec<Box<dyn Policy>> {
    vec![
        Box::new(Lru::new(capacity)),
        Box::new(Sieve::new(capacity)),
        Box::new(S3Fifo::new(capacity)),
        Box::new(Gdsf::new(capacity)),
        Box::new(Moka::new(capacity)),
        Box::new(QuickCache::new(capacity)),
        Box::new(Belady::new(capacity, trace)),
    ]
}

/// Least recently used.
struct Lru {
    room: u64,
    order: BTreeSet<(usize, u32)>,
    last: HashMap<u32, (usize, u64)>,
}

impl Lru {
    fn new(capacity: u64) -> Self {
        Self { room: capacity, order: BTreeSet::new(), last: HashMap::new() }
    }
}

impl Policy for Lru {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn request(&mut self, at: usize, id: u32, size: u64) -> bool {
        let before = self.last.insert(id, (at, size));
        self.order.insert((at, id));
        if let Some((then, _)) = before {
            self.order.remove(&(then, id));
            return true;
        }
        while self.room < size {
            let Some((_, victim)) = self.order.pop_first() else { break };
            self.room += self.last.remove(&victim).filter(|_| victim != id).map_or(0, |v| v.1);
            if victim == id {
                return false;
            }
        }
        self.room -= size;
        false
    }
}

/// SIEVE (Zhang et al., NSDI 2024): a FIFO whose hand passes over what was used since it last came by.
struct Sieve {
    room: u64,
    /// Newest at the back; `GONE` where one was evicted.
    queue: Vec<u32>,
    hand: usize,
    held: HashMap<u32, (bool, u64)>,
}

const GONE: u32 = u32::MAX;

impl Sieve {
    fn new(capacity: u64) -> Self {
        Self { room: capacity, queue: Vec::new(), hand: 0, held: HashMap::new() }
    }

    fn evict(&mut self) {
        if self.queue.len() > 2 * self.held.len() + 64 {
            let before =
                self.queue[..self.hand.min(self.queue.len())].iter().filter(|id| **id != GONE).count();
            self.queue.retain(|id| *id != GONE);
            self.hand = before;
        }
        loop {
            if self.hand >= self.queue.len() {
                self.hand = 0;
            }
            let at = self.hand;
            self.hand += 1;
            let Some(entry) = self.held.get_mut(&self.queue[at]) else { continue };
            if !std::mem::replace(&mut entry.0, false) {
                self.room += entry.1;
                self.held.remove(&self.queue[at]);
                self.queue[at] = GONE;
                return;
            }
        }
    }
}

impl Policy for Sieve {
    fn name(&self) -> &'static str {
        "sieve"
    }

    fn request(&mut self, _at: usize, id: u32, size: u64) -> bool {
        if let Some(entry) = self.held.get_mut(&id) {
            entry.0 = true;
            return true;
        }
        while self.room < size && !self.held.is_empty() {
            self.evict();
        }
        if self.room >= size {
            self.room -= size;
            self.queue.push(id);
            self.held.insert(id, (false, size));
        }
        false
    }
}

/// S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth, a main one, and a ghost of what left the small one.
struct S3Fifo {
    capacity: u64,
    small_bytes: u64,
    main_bytes: u64,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    /// Uses (at most 3) and size.
    held: HashMap<u32, (u8, u64)>,
    ghost: VecDeque<u32>,
    ghosts: HashMap<u32, u32>,
}

impl S3Fifo {
    fn new(capacity: u64) -> Self {
        Self {
            capacity,
            small_bytes: 0,
            main_bytes: 0,
            small: VecDeque::new(),
            main: VecDeque::new(),
            held: HashMap::new(),
            ghost: VecDeque::new(),
            ghosts: HashMap::new(),
        }
    }

    fn evict(&mut self) {
        if self.small_bytes * 10 >= self.capacity || self.main.is_empty() {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn evict_small(&mut self) {
        let Some(id) = self.small.pop_front() else { return };
        let (uses, size) = self.held[&id];
        self.small_bytes -= size;
        if uses > 1 {
            self.held.insert(id, (0, size));
            self.main.push_back(id);
            self.main_bytes += size;
            return;
        }
        self.held.remove(&id);
        self.ghost.push_back(id);
        *self.ghosts.entry(id).or_default() += 1;
        while self.ghost.len() > self.main.len().max(64) {
            let Some(old) = self.ghost.pop_front() else { return };
            if let Some(n) = self.ghosts.get_mut(&old) {
                *n -= 1;
                if *n == 0 {
                    self.ghosts.remove(&old);
                }
            }
        }
    }

    fn evict_main(&mut self) {
        while let Some(id) = self.main.pop_front() {
            let Some(entry) = self.held.get_mut(&id) else { continue };
            if entry.0 > 0 {
                entry.0 -= 1;
                self.main.push_back(id);
                continue;
            }
            self.main_bytes -= entry.1;
            self.held.remove(&id);
            return;
        }
    }
}

impl Policy for S3Fifo {
    fn name(&self) -> &'static str {
        "s3-fifo"
    }

    fn request(&mut self, _at: usize, id: u32, size: u64) -> bool {
        if let Some(entry) = self.held.get_mut(&id) {
            entry.0 = (entry.0 + 1).min(3);
            return true;
        }
        if size > self.capacity {
            return false;
        }
        while self.small_bytes + self.main_bytes + size > self.capacity {
            self.evict();
        }
        self.held.insert(id, (0, size));
        if self.ghosts.contains_key(&id) {
            self.main.push_back(id);
            self.main_bytes += size;
        } else {
            self.small.push_back(id);
            self.small_bytes += size;
        }
        false
    }
}

/// GreedyDual-Size with Frequency, exact, for checking the store's lazy form of it.
struct Gdsf {
    room: u64,
    level: f64,
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    /// Rank bits, uses, size.
    held: HashMap<u32, (u64, f64, u64)>,
}

impl Gdsf {
    fn new(capacity: u64) -> Self {
        Self { room: capacity, level: 0.0, heap: BinaryHeap::new(), held: HashMap::new() }
    }

    fn rank(&mut self, id: u32, uses: f64, size: u64) {
        // Bits of positive doubles are ordered as the doubles are.
        let rank = (self.level + uses / size as f64).to_bits();
        self.held.insert(id, (rank, uses, size));
        self.heap.push(Reverse((rank, id)));
    }
}

impl Policy for Gdsf {
    fn name(&self) -> &'static str {
        "gdsf (policy only)"
    }

    fn request(&mut self, _at: usize, id: u32, size: u64) -> bool {
        if let Some((_, uses, size)) = self.held.get(&id).copied() {
            self.rank(id, uses + 1.0, size);
            return true;
        }
        while self.room < size {
            let Some(Reverse((rank, victim))) = self.heap.pop() else { return false };
            if self.held.get(&victim).is_some_and(|h| h.0 == rank) {
                self.room += self.held.remove(&victim).map_or(0, |h| h.2);
                self.level = f64::from_bits(rank);
            }
        }
        self.room -= size;
        self.rank(id, 1.0, size);
        false
    }
}

/// W-TinyLFU as the public crate `moka` has it.
struct Moka(moka::sync::Cache<u32, u32>);

impl Moka {
    fn new(capacity: u64) -> Self {
        Self(moka::sync::Cache::builder().max_capacity(capacity).weigher(|_, size: &u32| *size).build())
    }
}

impl Policy for Moka {
    fn name(&self) -> &'static str {
        "moka (W-TinyLFU)"
    }

    fn request(&mut self, at: usize, id: u32, size: u64) -> bool {
        let hit = self.0.get(&id).is_some();
        if !hit {
            self.0.insert(id, size as u32);
        }
        // Its eviction is deferred; a program that runs long does this from time to time.
        if at.is_multiple_of(16) {
            self.0.run_pending_tasks();
        }
        hit
    }
}

#[derive(Clone)]
struct BySize;

impl quick_cache::Weighter<u32, u32> for BySize {
    fn weight(&self, _id: &u32, size: &u32) -> u64 {
        u64::from(*size)
    }
}

/// The policy of the public crate `quick_cache` (Clock-PRO+ with a ghost, near S3-FIFO).
struct QuickCache(quick_cache::unsync::Cache<u32, u32, BySize>);

impl QuickCache {
    fn new(capacity: u64) -> Self {
        Self(quick_cache::unsync::Cache::with_weighter((capacity / 8192) as usize, capacity, BySize))
    }
}

impl Policy for QuickCache {
    fn name(&self) -> &'static str {
        "quick_cache"
    }

    fn request(&mut self, _at: usize, id: u32, size: u64) -> bool {
        if self.0.get(&id).is_some() {
            return true;
        }
        self.0.insert(id, size as u32);
        false
    }
}

/// Evicts what is used again last, and passes through what would be that itself: a bound for policies that ignore
/// size, and near one for those that do not.
struct Belady {
    room: u64,
    next: Vec<u32>,
    order: BTreeSet<(u32, u32)>,
    /// Next use and size.
    held: HashMap<u32, (u32, u64)>,
}

impl Belady {
    fn new(capacity: u64, trace: &Trace) -> Self {
        let mut seen = vec![u32::MAX; trace.sizes.len()];
        let mut next = vec![u32::MAX; trace.requests.len()];
        for (at, &id) in trace.requests.iter().enumerate().rev() {
            next[at] = std::mem::replace(&mut seen[id as usize], at as u32);
        }
        Self { room: capacity, next, order: BTreeSet::new(), held: HashMap::new() }
    }
}

impl Policy for Belady {
    fn name(&self) -> &'static str {
        "belady (bound)"
    }

    fn request(&mut self, at: usize, id: u32, size: u64) -> bool {
        let next = self.next[at];
        let before = self.held.get(&id).copied();
        if let Some((then, size)) = before {
            self.order.remove(&(then, id));
            self.held.insert(id, (next, size));
            self.order.insert((next, id));
            return true;
        }
        if next == u32::MAX {
            return false;
        }
        while self.room < size {
            match self.order.last().copied() {
                Some((last, victim)) if last > next => {
                    self.order.remove(&(last, victim));
                    self.room += self.held.remove(&victim).map_or(0, |h| h.1);
                }
                _ => return false,
            }
        }
        self.room -= size;
        self.held.insert(id, (next, size));
        self.order.insert((next, id));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_policy_beats_the_bound_and_all_stay_within_the_compulsory_misses() {
        let trace = Trace::new(30_000, 5);
        let compulsory = trace.sizes.len() as f64 / trace.requests.len() as f64;
        let ratios: Vec<(&str, f64)> = all(trace.footprint / 10, &trace)
            .into_iter()
            .map(|mut policy| {
                let outcome = super::super::run(&mut *policy, &trace);
                (policy.name(), outcome.object_miss_ratio())
            })
            .collect();
        for (name, ratio) in &ratios {
            assert!((compulsory..=1.0).contains(ratio), "{name}: {ratio}, compulsory {compulsory}");
        }
        let of = |wanted: &str| ratios.iter().find(|r| r.0 == wanted).map_or(f64::NAN, |r| r.1);
        assert!(of("belady (bound)") < of("lru") && of("gdsf (policy only)") < of("lru"));
    }

    #[test]
    fn nothing_is_evicted_while_everything_fits() {
        let trace = Trace::new(5000, 5);
        let compulsory = trace.sizes.len() as f64 / trace.requests.len() as f64;
        for mut policy in all(trace.footprint * 20, &trace) {
            if policy.name() == "belady (bound)" {
                continue;
            }
            let outcome = super::super::run(&mut *policy, &trace);
            assert_eq!(outcome.object_miss_ratio(), compulsory, "{}", policy.name());
        }
    }
}
