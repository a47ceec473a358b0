//! Changes between packets, made in the kernel's tables by the loader and in the model's by the rules alone.

use super::{Random, World, backend, kernel_clock};
use sluice_abi::SLOTS;
use sluice_abi::layout::backend_flag;
use sluice_abi::slot::{ASK, Slot};
use sluice_core::l4::slots::next_slots;
use sluice_loader::{Mode, VipSpec};
use std::collections::{BTreeMap, BTreeSet};

/// Backends of the world.
const BACKENDS: u64 = 7;
/// One in so many slots gets another owner in a change of a table.
const MOVED_ONE_IN: u64 = 4;

/// What changes can be made to.
pub struct Changes {
    /// Forwarded VIPs and their ids.
    vips: Vec<(VipSpec, u32)>,
    /// How often each kind was made.
    pub made: BTreeMap<&'static str, u64>,
}

impl Changes {
    /// For this world.
    pub fn new(world: &mut World) -> Self {
        let state = world.balancer.state().unwrap();
        let forwarded = state.vips.iter().filter(|v| v.spec.mode != Mode::Local);
        Self { vips: forwarded.map(|v| (v.spec, v.id)).collect(), made: BTreeMap::new() }
    }

    /// Makes one.
    pub fn make(&mut self, world: &mut World, r: &mut Random) {
        let what = match r.below(10) {
            0..=3 => self.owners(world, r),
            4 | 5 => self.close(world, r),
            6 => sweep(world),
            7 => dies_or_recovers(world, r),
            8 => goes_or_comes(world, r),
            _ => loses_or_finds_its_link(world, r),
        };
        *self.made.entry(what).or_default() += 1;
    }

    /// Some slots of a VIP are given to other backends, or to nobody.
    fn owners(&self, world: &mut World, r: &mut Random) -> &'static str {
        let (spec, id) = &self.vips[r.below(self.vips.len() as u64) as usize];
        let slots = world.tables.slots.get_mut(id).unwrap();
        let owners: Vec<u16> = slots
            .iter()
            .map(|slot| if r.one_in(MOVED_ONE_IN) { r.below(BACKENDS + 1) as u16 } else { slot.current() })
            .collect();
        *slots = next_slots(slots, &owners);
        world.balancer.set_owners(spec, &owners).unwrap();
        "owners"
    }

    fn close(&self, world: &mut World, r: &mut Random) -> &'static str {
        let (spec, id) = &self.vips[r.below(self.vips.len() as u64) as usize];
        world.tables.slots.get_mut(id).unwrap().iter_mut().for_each(|slot| *slot = slot.closed());
        world.balancer.close_window(&spec.key).unwrap();
        "window closed"
    }
}

/// Entries of flows that ended go, and slots without one that disagrees settle.
fn sweep(world: &mut World) -> &'static str {
    loop {
        let before = kernel_clock();
        world.balancer.sweep().unwrap();
        world.flows.sweep(before.0);
        if before == kernel_clock() {
            break;
        }
        // The flow clock ticked between: the same again, for both.
    }
    let mut named: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
    for entry in world.flows.entries().filter(|e| !e.is_free()) {
        named.entry(entry.slot()).or_default().insert(entry.backend());
    }
    for slots in world.tables.slots.values_mut() {
        for (n, slot) in (0..SLOTS).zip(slots) {
            let agrees = named.get(&n).is_none_or(|ids| ids.iter().all(|&id| id == slot.current()));
            if slot.previous() == ASK && agrees {
                *slot = Slot::settled(slot.current());
            }
        }
    }
    "sweep"
}

/// A backend's row as it is, or as it was made.
fn row(world: &World, id: u16) -> (sluice_loader::BackendSpec, sluice_abi::layout::BackendValue) {
    let (mut spec, fresh) = backend(id);
    let Some(now) = world.tables.backends.get(&id) else { return (spec, fresh) };
    spec.alive = now.flags & backend_flag::ALIVE != 0;
    if now.flags & backend_flag::HAS_LINK == 0 {
        spec.link = None;
    }
    (spec, *now)
}

fn dies_or_recovers(world: &mut World, r: &mut Random) -> &'static str {
    let id = 1 + r.below(BACKENDS) as u16;
    let (mut spec, mut value) = row(world, id);
    spec.alive = !spec.alive;
    value.flags ^= backend_flag::ALIVE;
    world.balancer.set_backend(&spec).unwrap();
    world.tables.backends.insert(id, value);
    "health"
}

fn goes_or_comes(world: &mut World, r: &mut Random) -> &'static str {
    let id = 1 + r.below(BACKENDS) as u16;
    if world.tables.backends.remove(&id).is_some() {
        world.balancer.remove_backend(id).unwrap();
    } else {
        let (spec, value) = backend(id);
        world.balancer.set_backend(&spec).unwrap();
        world.tables.backends.insert(id, value);
    }
    "backend gone or back"
}

fn loses_or_finds_its_link(world: &mut World, r: &mut Random) -> &'static str {
    let id = 1 + r.below(BACKENDS) as u16;
    let (mut spec, mut value) = row(world, id);
    let (whole, fresh) = backend(id);
    if spec.link.take().is_some() {
        value.flags &= !backend_flag::HAS_LINK;
        (value.dst_mac, value.src_mac, value.mtu, value.ifindex) = Default::default();
    } else if whole.link.is_some() {
        spec.link = whole.link;
        value.flags |= backend_flag::HAS_LINK;
        (value.dst_mac, value.src_mac, value.mtu, value.ifindex) =
            (fresh.dst_mac, fresh.src_mac, fresh.mtu, fresh.ifindex);
    }
    world.balancer.set_backend(&spec).unwrap();
    world.tables.backends.insert(id, value);
    "link"
}
