//! Finding the VIP of a packet, see `sluice_abi::vips`.

use crate::maps::{VIP_BUCKETS, VIP_ROWS};
use sluice_abi::layout::VipValue;
use sluice_abi::vips::{BUCKET_WORDS, FREE, Key, PROBES, row_of, tag_matches};

/// Number of buckets minus one; the loader writes it before the program is loaded. The value here is one that no
/// other constant has: the linker gives equal constants one place.
#[unsafe(no_mangle)]
static VIP_BUCKET_MASK: u32 = 0x7e1f_01a3;

/// The VIP of a key.
#[inline(always)]
pub fn find(key: Key) -> Option<&'static VipValue> {
    // SAFETY: a constant of this object, read as what the loader made of it.
    let mask = unsafe { (&raw const VIP_BUCKET_MASK).read_volatile() };
    let hash = key.hash();
    let mut probe = 0;
    while probe < PROBES {
        let bucket = VIP_BUCKETS.get_ptr((hash as u32).wrapping_add(probe) & mask)?;
        let mut full = true;
        let mut i = 0;
        while i < BUCKET_WORDS {
            // SAFETY: `i` is below the bucket's length; one aligned word, read whole.
            let word = unsafe { (&raw const (*bucket).words[i]).read_volatile() };
            if tag_matches(word, hash)
                && let Some(row) = VIP_ROWS.get(row_of(word))
                && row.key == key
            {
                return Some(&row.value);
            }
            full &= word != FREE;
            i += 1;
        }
        if !full {
            return None;
        }
        probe += 1;
    }
    None
}

/// [`find`] for callers off the steady path: one copy of it, verified by itself.
#[inline(always)]
pub fn find_cold(key: Key) -> Option<&'static VipValue> {
    let id = vip_id(key.lo, key.hi, key.ports);
    let row = VIP_ROWS.get(id)?;
    if id != 0 && row.value.id == id { Some(&row.value) } else { None }
}

/// Id of the VIP of a key given in its words; 0: none.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn vip_id(lo: u64, hi: u64, ports: u64) -> u32 {
    find(Key { lo, hi, ports }).map_or(0, |vip| vip.id)
}
