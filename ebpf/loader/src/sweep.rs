//! Walks over the flow table: ageing, settling slots, ids still named.

use crate::balancer::Balancer;
use crate::error::{Result, map_error};
use crate::types::{Mode, Sweep};
use rustix::time::{ClockId, clock_gettime};
use sluice_abi::SLOTS;
use sluice_abi::flow::{Entry, units};
use sluice_abi::layout::map;
use sluice_abi::slot::{ASK, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// The kernel's flow clock, read the same way.
pub(crate) fn now_units() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    units(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

impl Balancer {
    /// Frees entries of flows that ended and settles slots no live entry disagrees with. Call it every few
    /// seconds while slots ask, and at least once an hour (the flow clock wraps after 39 h).
    ///
    /// An entry does not name its VIP, so a slot waits for the entries of all VIPs at its number: it may ask a
    /// little longer than it must, never shorter.
    pub fn sweep(&mut self) -> Result<Sweep> {
        let now = now_units();
        let idle = self.meta.get(&0, 0).map_err(map_error("read", map::META))?.0.idle_units;
        let mut sweep = Sweep::default();
        // Slots are read before entries: an entry made meanwhile by a packet that saw the window open is of a
        // slot that is still open here.
        let mut asking: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (_, row) in self.vips.by_key() {
            if row.mode == Mode::Local.number() {
                continue;
            }
            for (n, word) in (0..SLOTS).zip(self.slots_of(row.id)?) {
                let slot = Slot(word.load(Ordering::Acquire));
                sweep.asking_slots += u64::from(slot.previous() != 0);
                if slot.previous() == ASK {
                    asking.entry(row.id).or_default().push(n);
                }
            }
        }
        let mut named: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
        for word in self.flows.words() {
            let entry = Entry(word.load(Ordering::Relaxed));
            if entry.is_free() {
                continue;
            }
            if entry.age(now) > idle {
                // A packet that touched it meanwhile wins.
                let freed = word.compare_exchange(entry.0, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
                sweep.expired += u64::from(freed);
                if freed {
                    continue;
                }
            }
            sweep.live += 1;
            named.entry(entry.slot()).or_default().insert(entry.backend());
        }
        for (id, slots) in asking {
            let words = self.slots_of(id)?;
            for n in slots {
                let word = &words[n as usize];
                let slot = Slot(word.load(Ordering::Acquire));
                let agrees = named.get(&n).is_none_or(|ids| ids.iter().all(|&b| b == slot.current()));
                if slot.previous() == ASK && agrees {
                    word.store(Slot::settled(slot.current()).0, Ordering::Release);
                    sweep.settled_slots += 1;
                }
            }
        }
        Ok(sweep)
    }

    /// Backend ids that a slot (as current or previous owner) or a flow entry names: none of them may be given
    /// to another backend.
    pub fn ids_in_use(&mut self) -> Result<BTreeSet<u16>> {
        let mut ids = BTreeSet::new();
        for (_, row) in self.vips.by_key() {
            if row.mode == Mode::Local.number() {
                continue;
            }
            for word in self.slots_of(row.id)? {
                let slot = Slot(word.load(Ordering::Acquire));
                ids.insert(slot.current());
                ids.insert(slot.previous());
            }
        }
        for word in self.flows.words() {
            ids.insert(Entry(word.load(Ordering::Relaxed)).backend());
        }
        ids.extend(self.nat_ids()?);
        ids.remove(&0);
        ids.remove(&ASK);
        Ok(ids)
    }
}
