//! The model of the flow table: which backend a flow belongs to when its slot has a history.
//!
//! **Promise.** A TCP flow that carried a packet within the window after each change keeps its backend as long as
//! that is alive, over any chain of changes; a flow that begins (SYN) always goes to the slot's current owner, so
//! a draining backend gets no new flow. A UDP flow has no beginning that can be seen: one that carries a packet
//! in the window keeps its backend; one first seen in the window goes to the previous owner while that is alive,
//! and UDP flows thus leave a draining backend when the window closes.
//!
//! **Why it holds.** While a window is open every flow seen on the slot has an entry: a new one (SYN) for the
//! current owner, any other for the previous. So a flow without an entry is older than the window, and the owner
//! before the window is right for it, whatever changes came in between. When the window closes, flows that
//! disagree with the table have entries and the slot goes on asking until those end.
//!
//! **Tracking.** A VIP that tracks always makes entries on settled slots too. It keeps the promise above, and a flow
//! with an entry keeps its backend whatever happened to the slot; a flow that finds no room on a settled slot needs
//! none, since the table says the same. A VIP that never tracks makes no promise: each change moves the flows of the
//! changed slots.
//!
//! **When a bucket is full** of flows that talk: a SYN is dropped (`flow_table_full`) and its sender tries again;
//! another flow is forwarded to its owner without an entry (`flow_untracked`) and would move when the window
//! closes.

use super::fragment::Fragments;
use sluice_abi::BUCKET_ENTRIES;
use sluice_abi::flow::Entry;
use sluice_abi::hash::bucket_of;
use sluice_abi::slot::{ASK, Slot};

/// Which flows have an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tracking {
    /// Those of slots with a history.
    #[default]
    Window,
    /// All.
    Always,
    /// None: a flow follows the current owner of its slot.
    Never,
}

/// What the table says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This backend; 0: none.
    Backend(u16),
    /// A new flow that finds no room.
    Full,
}

/// Buckets of eight entries.
#[derive(Clone, Debug)]
pub struct FlowTable {
    buckets: Vec<[Entry; BUCKET_ENTRIES]>,
    /// Units of silence after which an entry is dead.
    pub idle_units: u32,
    /// Datagrams in pieces: a table of its own beside the flows'.
    pub fragments: Fragments,
}

impl FlowTable {
    /// An empty table of `buckets`, a power of two.
    pub fn new(buckets: u32, idle_units: u32) -> Self {
        assert!(buckets.is_power_of_two(), "{buckets} buckets is not a power of two");
        FlowTable {
            buckets: vec![[Entry(0); BUCKET_ENTRIES]; buckets as usize],
            idle_units,
            fragments: Fragments::default(),
        }
    }

    /// Live entries.
    pub fn len(&self) -> usize {
        self.buckets.iter().flatten().filter(|e| !e.is_free()).count()
    }

    /// No entry at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries, free ones too, bucket by bucket.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.buckets.iter().flatten().copied()
    }

    /// The entry of a flow, if it has one.
    pub fn entry(&self, hash: u64) -> Option<Entry> {
        self.bucket(hash).iter().copied().find(|e| e.matches(hash))
    }

    /// Entries in the bucket of a flow.
    pub fn crowd(&self, hash: u64) -> usize {
        self.bucket(hash).iter().filter(|e| !e.is_free()).count()
    }

    /// Forgets every flow.
    pub fn clear(&mut self) {
        self.buckets.fill([Entry(0); BUCKET_ENTRIES]);
    }

    fn bucket(&self, hash: u64) -> &[Entry; BUCKET_ENTRIES] {
        &self.buckets[bucket_of(hash, self.buckets.len() as u32 - 1) as usize]
    }

    /// The owner of a packet's flow; `syn`: it begins one.
    pub fn owner(
        &mut self,
        tracking: Tracking,
        hash: u64,
        slot: Slot,
        syn: bool,
        now: u64,
        alive: impl Fn(u16) -> bool,
    ) -> Owner {
        let always = tracking == Tracking::Always;
        if tracking == Tracking::Never || (slot.previous() == 0 && !always) {
            return Owner::Backend(slot.current());
        }
        let makes_entries = always || slot.window_open();
        let mask = self.buckets.len() as u32 - 1;
        let idle = self.idle_units;
        let bucket = &mut self.buckets[bucket_of(hash, mask) as usize];
        if let Some(entry) = bucket.iter_mut().find(|e| e.matches(hash)) {
            if !syn && alive(entry.backend()) {
                *entry = entry.touched(now);
                return Owner::Backend(entry.backend());
            }
            let same_again = syn && entry.backend() == slot.current();
            if !makes_entries || slot.current() == 0 {
                *entry = Entry(0);
            } else if !same_again {
                *entry = Entry::new(hash, slot.current(), now);
            }
            return Owner::Backend(slot.current());
        }
        if !makes_entries {
            return Owner::Backend(slot.current());
        }
        let older = !syn && slot.window_open() && alive(slot.previous());
        let owner = if older { slot.previous() } else { slot.current() };
        if owner == 0 {
            return Owner::Backend(0);
        }
        match Self::place(bucket, now, idle) {
            Some(place) => bucket[place] = Entry::new(hash, owner, now),
            None if syn && slot.window_open() => return Owner::Full,
            None => {}
        }
        Owner::Backend(owner)
    }

    /// The owner of a flow, for a packet that is about it but not of it: nothing is written.
    pub fn owner_of(&self, tracking: Tracking, hash: u64, slot: Slot, alive: impl Fn(u16) -> bool) -> u16 {
        let bucket = &self.buckets[bucket_of(hash, self.buckets.len() as u32 - 1) as usize];
        let entry = bucket.iter().find(|e| e.matches(hash)).map(|e| e.backend());
        let named = match (tracking, slot.previous(), entry) {
            (Tracking::Never, ..) | (Tracking::Window, 0, _) => None,
            (.., Some(backend)) => Some(backend),
            (_, 0 | ASK, None) => None,
            (_, previous, None) => Some(previous),
        };
        named.filter(|&backend| alive(backend)).unwrap_or(slot.current())
    }

    /// A free place, else a dead one, else the oldest unconfirmed one; the first of equals is the last place.
    fn place(bucket: &[Entry], now: u64, idle: u32) -> Option<usize> {
        let class = |e: &Entry| -> Option<(u32, u32)> {
            if e.is_free() {
                Some((3, 0))
            } else if e.age(now) > idle {
                Some((2, if e.confirmed() { 0 } else { e.age(now) + 1 }))
            } else if e.confirmed() {
                None
            } else {
                Some((1, e.age(now)))
            }
        };
        let free_age = |e: &Entry| if e.is_free() { (now & sluice_abi::flow::AGE_MASK) as u32 } else { 0 };
        (0..bucket.len())
            .filter_map(|i| class(&bucket[i]).map(|c| (c, free_age(&bucket[i]), i)))
            .max()
            .map(|(_, _, place)| place)
    }

    /// Frees dead entries, as the loader's sweep does.
    pub fn sweep(&mut self, now: u64) {
        let idle = self.idle_units;
        for entry in self.buckets.iter_mut().flatten() {
            if !entry.is_free() && entry.age(now) > idle {
                *entry = Entry(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluice_abi::hash::{mix64, slot_of};
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        /// The slot of the flow is given to a backend.
        Give(u16),
        /// The window of the slot closes: every flow that lives carried a packet since it opened.
        Close,
        /// A flow begins.
        Begin(u8),
        /// A living flow carries a packet.
        Talk(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => (1u16..6).prop_map(Step::Give),
            1 => Just(Step::Close),
            3 => (0u8..20).prop_map(Step::Begin),
            6 => (0u8..20).prop_map(Step::Talk),
        ];
        proptest::collection::vec(step, 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Over any chain of changes a live flow keeps the backend it began with, and begins with the owner.
        #[test]
        fn flows_keep_their_backend(steps in steps()) {
            let mut table = FlowTable::new(64, 2);
            let mut slot = Slot::settled(1);
            let mut flows: BTreeMap<u8, u16> = BTreeMap::new();
            let hash = |flow: u8| mix64(u64::from(flow) + 1);
            for step in steps {
                match step {
                    Step::Give(owner) => slot = slot.next(owner),
                    Step::Close => {
                        for (&flow, &backend) in &flows {
                            let got = table.owner(Tracking::Window, hash(flow), slot, false, 0, |_| true);
                            prop_assert_eq!(got, Owner::Backend(backend));
                        }
                        slot = slot.closed();
                        let disagrees = table.entries().any(|e| !e.is_free() && e.backend() != slot.current());
                        if slot.previous() == ASK && !disagrees {
                            slot = Slot::settled(slot.current());
                        }
                    }
                    Step::Begin(flow) => {
                        let got = table.owner(Tracking::Window, hash(flow), slot, true, 0, |_| true);
                        prop_assert_eq!(got, Owner::Backend(slot.current()), "a flow begins with the owner");
                        flows.insert(flow, slot.current());
                    }
                    Step::Talk(flow) => {
                        if let Some(&backend) = flows.get(&flow) {
                            let got = table.owner(Tracking::Window, hash(flow), slot, false, 0, |_| true);
                            prop_assert_eq!(got, Owner::Backend(backend), "flow {} slot {:?}", flow, slot);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_full_bucket_refuses_new_flows_and_keeps_those_that_talk() {
        let mut table = FlowTable::new(1, 2);
        let slot = Slot::new(2, 1);
        let hashes: Vec<u64> = (0..9).map(mix64).collect();
        for &h in &hashes[..8] {
            assert_eq!(table.owner(Tracking::Window, h, slot, false, 0, |_| true), Owner::Backend(1));
        }
        // All unconfirmed: the ninth takes the place of one of them.
        assert_eq!(table.owner(Tracking::Window, hashes[8], slot, true, 0, |_| true), Owner::Backend(2));
        assert_eq!(table.len(), 8);
        for &h in &hashes[..8] {
            table.owner(Tracking::Window, h, slot, false, 0, |_| true);
            table.owner(Tracking::Window, h, slot, false, 0, |_| true);
        }
        assert_eq!(table.owner(Tracking::Window, mix64(99), slot, true, 0, |_| true), Owner::Full);
        assert_eq!(table.owner(Tracking::Window, mix64(98), slot, false, 0, |_| true), Owner::Backend(1));
        // Silent long enough, they give way.
        assert_eq!(table.owner(Tracking::Window, mix64(99), slot, true, 3, |_| true), Owner::Backend(2));
    }

    #[test]
    fn a_flow_whose_backend_died_goes_to_the_owner() {
        let mut table = FlowTable::new(16, 2);
        let slot = Slot::new(2, 1);
        assert_eq!(table.owner(Tracking::Window, 7, slot, false, 0, |_| true), Owner::Backend(1));
        assert_eq!(table.owner(Tracking::Window, 7, slot, false, 0, |id| id != 1), Owner::Backend(2));
        assert_eq!(table.owner(Tracking::Window, 7, slot, false, 0, |_| true), Owner::Backend(2));
        assert!(slot_of(7) < sluice_abi::SLOTS);
    }
}
