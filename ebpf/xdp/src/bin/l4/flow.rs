//! Which backend a flow belongs to when its slot asks the flow table.
//!
//! The promise, and why it holds over chains of changes, is in `sluice-core::l4::flows`, the model of this file.

use crate::maps::{BACKENDS, FLOWS, META, count_event};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use sluice_abi::BUCKET_ENTRIES;
use sluice_abi::flow::{Entry, units};
use sluice_abi::hash::bucket_of;
use sluice_abi::layout::{Bucket, backend_flag};
use sluice_abi::reason::Event;
use sluice_abi::slot::{ASK, Slot};

/// Tries of one packet to put its entry where another processor writes too.
const INSERT_ATTEMPTS: u32 = 3;

enum Insert {
    Done,
    Full,
    Raced,
}

/// Returned when a new flow finds no room.
pub const FULL: u32 = u32::MAX;

#[inline(always)]
fn alive(id: u16) -> bool {
    const NEED: u16 = backend_flag::PRESENT | backend_flag::ALIVE;
    match BACKENDS.get_ptr(id as u32) {
        // SAFETY: a row of the array; the flags are one aligned word.
        Some(row) => unsafe { (&raw const (*row).flags).read_volatile() & NEED == NEED },
        None => false,
    }
}

#[inline(always)]
fn read(bucket: *mut Bucket, i: usize) -> Entry {
    // SAFETY: `i` is below BUCKET_ENTRIES; one aligned word, read whole.
    Entry(unsafe { (&raw const (*bucket).entries[i]).read_volatile() })
}

#[inline(always)]
fn write(bucket: *mut Bucket, i: usize, entry: Entry) {
    // SAFETY: `i` is below BUCKET_ENTRIES; one aligned word, written whole.
    unsafe { (&raw mut (*bucket).entries[i]).write_volatile(entry.0) }
}

/// Backend id of a flow on a slot with history, or [`FULL`].
#[inline(never)]
pub fn tracked(hash: u64, slot: u32, syn: u32) -> u32 {
    let slot = Slot(slot);
    let syn = syn != 0;
    let Some(meta) = META.get_ptr(0) else { return slot.current() as u32 };
    // SAFETY: the only row; written once, `idle_units` as one aligned word.
    let (buckets, idle) = unsafe { ((*meta).flow_buckets, (&raw const (*meta).idle_units).read_volatile()) };
    let index = bucket_of(hash, buckets.wrapping_sub(1));
    let Some(bucket) = FLOWS.get_ptr_mut(index) else { return slot.current() as u32 };
    // SAFETY: a helper without arguments.
    let now = units(unsafe { bpf_ktime_get_coarse_ns() });

    let mut i = 0;
    while i < BUCKET_ENTRIES {
        let entry = read(bucket, i);
        if entry.matches(hash) {
            return found(bucket, i, entry, hash, slot, syn, now);
        }
        i += 1;
    }
    if slot.previous() == ASK {
        return slot.current() as u32;
    }
    let owner = if syn || !alive(slot.previous()) { slot.current() } else { slot.previous() };
    if owner == 0 {
        return 0;
    }
    let mut attempt = 0;
    while attempt < INSERT_ATTEMPTS {
        match insert(bucket, Entry::new(hash, owner, now), now, idle) {
            Insert::Done => {
                count_event(if owner == slot.current() { Event::FlowNew } else { Event::FlowKept });
                return owner as u32;
            }
            Insert::Full => break,
            Insert::Raced => count_event(Event::FlowRaced),
        }
        attempt += 1;
    }
    if syn {
        return FULL;
    }
    count_event(Event::FlowUntracked);
    owner as u32
}

#[inline(always)]
fn found(bucket: *mut Bucket, i: usize, entry: Entry, hash: u64, slot: Slot, syn: bool, now: u64) -> u32 {
    if !syn && alive(entry.backend()) {
        let fresh = entry.touched(now);
        if fresh != entry {
            write(bucket, i, fresh);
        }
        count_event(Event::FlowHit);
        return entry.backend() as u32;
    }
    // A new flow of the same addresses, or one whose backend is gone: it is the current owner's. After the
    // window the table says so by itself and the entry goes.
    if !syn {
        count_event(Event::FlowRehomed);
    }
    let replaced = if slot.previous() == ASK || slot.current() == 0 {
        Entry(0)
    } else if syn && entry.backend() == slot.current() {
        entry
    } else {
        Entry::new(hash, slot.current(), now)
    };
    if replaced != entry {
        write(bucket, i, replaced);
    }
    slot.current() as u32
}

/// Puts an entry into a free place, else over one that is dead, else over the oldest unconfirmed one.
#[inline(always)]
fn insert(bucket: *mut Bucket, entry: Entry, now: u64, idle: u32) -> Insert {
    // Rank of a place: free, dead, unconfirmed by age; 0 means it must stay.
    let mut best = 0u32;
    let mut place = 0usize;
    let mut old = Entry(0);
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        let e = read(bucket, i);
        let rank = if e.is_free() {
            u32::MAX
        } else if e.age(now) > idle {
            u32::MAX - 1
        } else if e.confirmed() {
            0
        } else {
            e.age(now) + 1
        };
        if rank > best {
            best = rank;
            place = i;
            old = e;
        }
        i += 1;
    }
    if best == 0 {
        return Insert::Full;
    }
    // SAFETY: `place` is below BUCKET_ENTRIES; an aligned word of the map, compared and exchanged whole.
    let (_, done) = unsafe {
        let word = &raw mut (*bucket).entries[place & (BUCKET_ENTRIES - 1)];
        atomic_cxchg::<u64, { AtomicOrdering::Relaxed }, { AtomicOrdering::Relaxed }>(word, old.0, entry.0)
    };
    if !done {
        return Insert::Raced;
    }
    if best < u32::MAX - 1 {
        count_event(Event::FlowEvicted);
    }
    Insert::Done
}
