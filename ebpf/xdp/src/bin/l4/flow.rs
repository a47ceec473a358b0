//! Which backend a flow belongs to when its slot asks the flow table.
//!
//! The promise, and why it holds over chains of changes, is in `sluice-core::l4::flows`, the model of this file. A flow
//! whose entry is there and whose backend lives is decided in line; everything else calls [`tracked`].

use crate::maps::{BACKENDS, FLOWS, META, count_event};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use sluice_abi::BUCKET_ENTRIES;
use sluice_abi::flow::{AGE_MASK, CONFIRMED, Entry, units};

const _: () = assert!(CONFIRMED == 1, "`rank` shifts the lowest bit into the sign");
use sluice_abi::hash::bucket_of;
use sluice_abi::layout::{Bucket, backend_flag, vip_flag};
use sluice_abi::reason::Event;
use sluice_abi::slot::Slot;
use sluice_xdp::{opaque, top_bit};

enum Insert {
    Done,
    Full,
    Raced,
}

/// Returned when a new flow finds no room.
pub const FULL: u32 = u32::MAX;

/// The backend may keep its flows.
#[inline(always)]
pub fn alive(id: u16) -> bool {
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

/// Number of flow buckets minus one: the loader's, put in before the program is loaded. The value here is one that no
/// other constant has, since the linker gives equal constants one place.
#[unsafe(no_mangle)]
static FLOW_MASK: u32 = 0x7e1f_00d5;

#[inline(always)]
fn bucket(hash: u64) -> Option<*mut Bucket> {
    // SAFETY: a constant of the object; volatile, since the compiler knows another value of it.
    let mask = unsafe { (&raw const FLOW_MASK).read_volatile() };
    FLOWS.get_ptr_mut(bucket_of(hash, mask))
}

#[inline(always)]
fn clock() -> u64 {
    // SAFETY: a helper without arguments.
    units(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Set beside the SYN bit: the VIP tracks always.
pub const ALWAYS: u32 = 2;

/// What the flags of a VIP say: [`ALWAYS`] or 0, and a mask over the previous owner of a slot, 0 for a VIP whose slots
/// never ask.
#[inline(always)]
pub fn tracking(flags: u16) -> (u32, u16) {
    let always = if flags & vip_flag::TRACK != 0 { ALWAYS } else { 0 };
    (always, if flags & vip_flag::BYPASS != 0 { 0 } else { u16::MAX })
}

/// Backend id of a flow whose slot or VIP asks the flow table, or [`FULL`]; and whether its entry said so. `ask` is
/// 1 for a SYN, and [`ALWAYS`].
#[inline(always)]
pub fn owner(hash: u64, slot: Slot, ask: u32) -> (u32, bool) {
    let Some(bucket) = bucket(hash) else { return (slot.current() as u32, false) };
    if ask & 1 == 0 {
        let mut i = 0;
        while i < BUCKET_ENTRIES {
            let entry = read(bucket, i);
            if entry.matches(hash) {
                if !alive(entry.backend()) {
                    break;
                }
                let fresh = entry.touched(clock());
                if fresh != entry {
                    write(bucket, i, fresh);
                }
                return (entry.backend() as u32, true);
            }
            i += 1;
        }
    }
    (tracked(hash, slot.0, ask), false)
}

/// [`owner`] of a flow that begins, has no entry, or lost its backend.
#[inline(never)]
fn tracked(hash: u64, slot: u32, ask: u32) -> u32 {
    let slot = Slot(slot);
    let (syn, always) = (ask & 1 != 0, ask & ALWAYS != 0);
    let makes_entries = always || slot.window_open();
    let Some(bucket) = bucket(hash) else { return slot.current() as u32 };
    let now = clock();

    let mut i = 0;
    let mut entry = Entry(0);
    while i < BUCKET_ENTRIES {
        entry = read(bucket, i);
        if entry.matches(hash) {
            break;
        }
        i += 1;
    }
    if i < BUCKET_ENTRIES {
        // A new flow of the same addresses, or one whose backend is gone: it is the current owner's. After the
        // window the table says so by itself and the entry goes.
        if !syn {
            count_event(Event::FlowRehomed as u32);
        }
        let replaced = if !makes_entries || slot.current() == 0 {
            Entry(0)
        } else if syn && entry.backend() == slot.current() {
            entry
        } else {
            Entry::new(hash, slot.current(), now)
        };
        if replaced != entry {
            write(bucket, i, replaced);
        }
        return slot.current() as u32;
    }
    if !makes_entries {
        return slot.current() as u32;
    }
    let older = !syn && slot.window_open() && alive(slot.previous());
    let owner = if older { slot.previous() } else { slot.current() };
    if owner == 0 {
        return 0;
    }
    let Some(meta) = META.get_ptr(0) else { return slot.current() as u32 };
    // SAFETY: the only row; one aligned word.
    let idle = unsafe { (&raw const (*meta).idle_units).read_volatile() };
    match insert(bucket, Entry::new(hash, owner, now), now, idle) {
        Insert::Done => {
            count_event(if owner == slot.current() { Event::FlowNew as u32 } else { Event::FlowKept as u32 });
            return owner as u32;
        }
        Insert::Raced => {
            count_event(Event::FlowRaced as u32);
        }
        Insert::Full => {}
    }
    // A SYN in the window is refused, and its sender tries again; any other tries with its next packet.
    if syn && slot.window_open() {
        return FULL;
    }
    count_event(Event::FlowUntracked as u32);
    owner as u32
}

/// Backend id of a flow on a slot with history, for a packet that is about the flow but not of it: nothing is
/// written.
#[inline(never)]
pub fn owner_of(hash: u64, slot: u32) -> u32 {
    let slot = Slot(slot);
    let Some(bucket) = bucket(hash) else { return slot.current() as u32 };
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        let entry = read(bucket, i);
        if entry.matches(hash) {
            return if alive(entry.backend()) { entry.backend() } else { slot.current() } as u32;
        }
        i += 1;
    }
    let previous = slot.window_open() && alive(slot.previous());
    if previous { slot.previous() as u32 } else { slot.current() as u32 }
}

/// Puts an entry into a free place, else over one that is dead, else over the oldest unconfirmed one.
#[inline(always)]
fn insert(bucket: *mut Bucket, entry: Entry, now: u64, idle: u32) -> Insert {
    // Rank and place of the best candidate, without a branch: the verifier follows every path of branches, and
    // eight places of four kinds have 65,536.
    let mut best = 0u64;
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        let score = rank(read(bucket, i), now, idle as u64) << 3 | i as u64;
        let behind = best.wrapping_sub(score);
        best = best.wrapping_sub(behind.wrapping_mul(top_bit(behind)));
        // Not a number the compiler can follow: unrolled, the loop would take a third of the stack there is.
        i = opaque(i as u32 + 1) as usize;
    }
    let best = opaque(best as u32);
    if best < 8 {
        return Insert::Full;
    }
    let place = (best & 7) as usize;
    let old = read(bucket, place);
    if !old.is_free() && old.confirmed() && old.age(now) <= idle {
        // It began to talk since its rank was taken.
        return Insert::Raced;
    }
    // SAFETY: `place` is below BUCKET_ENTRIES; an aligned word of the map, compared and exchanged whole.
    let (_, done) = unsafe {
        let word = &raw mut (*bucket).entries[place];
        atomic_cxchg::<u64, { AtomicOrdering::Relaxed }, { AtomicOrdering::Relaxed }>(word, old.0, entry.0)
    };
    if !done {
        return Insert::Raced;
    }
    if best >> 3 <= RANK_UNCONFIRMED_MAX {
        count_event(Event::FlowEvicted as u32);
    }
    Insert::Done
}

/// Highest rank of an unconfirmed entry: the oldest has the greatest age.
const RANK_UNCONFIRMED_MAX: u32 = AGE_MASK as u32 + 1;

/// 2^15 and more: free; 2^14 and more: dead; else for an unconfirmed entry its age plus one; 0: it must stay.
#[inline(always)]
fn rank(entry: Entry, now: u64, idle: u64) -> u64 {
    let age = now.wrapping_sub(entry.0 >> 1) & AGE_MASK;
    let used = top_bit(entry.0 | entry.0.wrapping_neg());
    let dead = top_bit(idle.wrapping_sub(age));
    let confirmed = top_bit(entry.0 << 63);
    ((used ^ 1) << 15) + (dead << 14) + (age + 1).wrapping_mul(confirmed ^ 1)
}
