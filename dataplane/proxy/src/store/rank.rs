//! Which object goes first: GreedyDual-Size with Frequency.
//!
//! After L. Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy" (HP
//! Labs 1998). The rank of an object is `level + uses / size`: the level is the rank of the last victim, taken when
//! the object was last used, so that what is not used any more is overtaken by what is.
//!
//! A hit only writes the slot (uses, level): the heap holds lower bounds of ranks, for ranks only grow. Whoever
//! looks for a victim raises the bound at the top until the top is true, which gives the same victim as a heap
//! kept exact at every hit, at O(log n) per eviction and O(1) per hit.

/// A use of one byte, in units of rank: the largest object (2^37 bytes) still ranks above 0, and 2^40 turnovers of
/// the smallest do not overflow.
const SCALE: u64 = 1 << 40;
/// Uses counted: beyond it an object stays for long anyway, and it is forgotten sooner when its time is over.
const USES_MAX: u32 = 1 << 10;
const ARITY: usize = 4;
const ABSENT: u32 = u32::MAX;

/// What a slot knows about its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    level: u64,
    count: u32,
}

impl Use {
    /// First use.
    pub(super) fn first(level: u64) -> Self {
        Self { level, count: 1 }
    }

    /// One more.
    #[inline]
    pub(super) fn touch(&mut self, level: u64) {
        self.level = level;
        self.count = (self.count + 1).min(USES_MAX);
    }

    /// In use right now: as if used at this level, without counting it.
    pub(super) fn defer(&mut self, level: u64) {
        self.level = level;
    }

    /// Rank of an object that costs `bytes`.
    pub(super) fn rank(&self, bytes: u64) -> u64 {
        self.level.saturating_add(u64::from(self.count) * SCALE / bytes.max(1))
    }
}

/// A min-heap of slots by rank that knows where each slot is.
#[derive(Default)]
pub(super) struct RankHeap {
    ranks: Vec<u64>,
    slots: Vec<u32>,
    at: Vec<u32>,
}

impl RankHeap {
    /// The lowest bound and its slot.
    pub(super) fn top(&self) -> Option<(u64, u32)> {
        Some((*self.ranks.first()?, self.slots[0]))
    }

    /// Adds a slot, or gives it another rank.
    pub(super) fn set(&mut self, slot: u32, rank: u64) {
        if self.at.len() <= slot as usize {
            self.at.resize(slot as usize + 1, ABSENT);
        }
        let at = self.at[slot as usize];
        if at == ABSENT {
            self.ranks.push(rank);
            self.slots.push(slot);
            self.up(self.slots.len() - 1);
        } else {
            let before = std::mem::replace(&mut self.ranks[at as usize], rank);
            if rank < before { self.up(at as usize) } else { self.down(at as usize) }
        }
    }

    /// Takes a slot out if it is in.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(at) = self.at.get_mut(slot as usize).map(|at| std::mem::replace(at, ABSENT)) else { return };
        if at == ABSENT {
            return;
        }
        let at = at as usize;
        self.ranks.swap_remove(at);
        self.slots.swap_remove(at);
        if at < self.slots.len() {
            self.at[self.slots[at] as usize] = at as u32;
            self.up(at);
            self.down(at);
        }
    }

    fn up(&mut self, mut i: usize) {
        while i > 0 && self.ranks[i] < self.ranks[(i - 1) / ARITY] {
            let parent = (i - 1) / ARITY;
            self.swap(i, parent);
            i = parent;
        }
        self.at[self.slots[i] as usize] = i as u32;
    }

    fn down(&mut self, mut i: usize) {
        loop {
            let first = i * ARITY + 1;
            let last = (first + ARITY).min(self.ranks.len());
            let Some(least) = (first..last).min_by_key(|&c| self.ranks[c]) else { break };
            if self.ranks[i] <= self.ranks[least] {
                break;
            }
            self.swap(i, least);
            i = least;
        }
        self.at[self.slots[i] as usize] = i as u32;
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.ranks.swap(a, b);
        self.slots.swap(a, b);
        self.at[self.slots[a] as usize] = a as u32;
        self.at[self.slots[b] as usize] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn heap_agrees_with_a_sorted_map(ops in prop::collection::vec((any::<bool>(), 0u32..40, 0u64..1000), 0..300)) {
            let mut heap = RankHeap::default();
            let mut model = BTreeMap::new();
            for (set, slot, rank) in ops {
                if set {
                    heap.set(slot, rank);
                    model.insert(slot, rank);
                } else {
                    heap.remove(slot);
                    model.remove(&slot);
                }
                prop_assert_eq!(heap.slots.len(), model.len());
                prop_assert_eq!(heap.top().map(|t| t.0), model.values().min().copied());
                if let Some((rank, slot)) = heap.top() {
                    prop_assert_eq!(model[&slot], rank);
                }
            }
        }
    }

    #[test]
    fn small_and_used_ranks_above_large_and_unused() {
        let one = Use::first(0);
        assert!(one.rank(100) > one.rank(1000));
        let mut two = one;
        two.touch(0);
        assert!(two.rank(1000) > one.rank(1000));
        assert!(Use::first(one.rank(100)).rank(1000) > one.rank(100), "the level overtakes what is not used");
    }
}
