//! Map keys and values as the kernel copies them.

use sluice_abi::layout::{AddrValue, BackendValue, Bucket, DropCounts, EventCounts, Meta, Traffic};
use sluice_abi::nat::{NatFlow, NatKey, NatSources};
use sluice_abi::vips::{ROW_WORDS, VipRow};

/// A layout of `sluice-abi` as key or value of a map.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Val<T: Copy + 'static>(pub(crate) T);

macro_rules! plain {
    ($($t:ty),*) => { $(
        // SAFETY: `repr(C)` of integers and byte arrays with every padding byte spelled out (the sizes are
        // asserted in sluice-abi), so any bytes are a value and every byte of a value is set.
        unsafe impl aya::Pod for Val<$t> {}
    )* };
}

plain!(AddrValue, BackendValue, Bucket, DropCounts, EventCounts, Meta, NatFlow, NatKey, NatSources, Traffic);

/// A VIP's slots, as the one value of its array.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Table(#[allow(dead_code)] [u32; sluice_abi::SLOTS as usize]);

// SAFETY: an array of integers without padding.
unsafe impl aya::Pod for Table {}

/// A backend row as the words it is stored in: each word is stored whole, and a MAC lies in one word.
pub(crate) fn backend_words(row: BackendValue) -> [u64; 8] {
    // SAFETY: 64 bytes of integers and byte arrays on both sides, no padding.
    unsafe { std::mem::transmute(row) }
}

/// The row from its words.
pub(crate) fn backend_row(words: [u64; 8]) -> BackendValue {
    // SAFETY: as above, and any bytes are a row.
    unsafe { std::mem::transmute(words) }
}

/// A VIP's row as the words it is stored in.
pub(crate) fn vip_words(row: VipRow) -> [u64; ROW_WORDS] {
    // SAFETY: integers and arrays of them on both sides, of one size, no padding.
    unsafe { std::mem::transmute(row) }
}

/// The row from its words.
pub(crate) fn vip_row(words: [u64; ROW_WORDS]) -> VipRow {
    // SAFETY: as above, and any bytes are a row.
    unsafe { std::mem::transmute(words) }
}
