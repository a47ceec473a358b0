//! The table of VIPs, written through its mapping; see `sluice_abi::vips` for its shape.
//!
//! A VIP's id is the number of its row. A row is whole before a bucket's word names it; a word is taken back before
//! its row changes hands. Ids are given in turn, so that a row is not used again while a packet that found it a
//! moment ago is still under way.

use crate::error::{Error, Result};
use crate::kernel::shared::Shared;
use crate::kernel::values::{vip_row, vip_words};
use crate::types::{Proto, VipKey};
use sluice_abi::layout::VipValue;
use sluice_abi::vips::{
    BUCKET_WORDS, FREE, GONE, IPV4, IPV6, Key, PROBES, ROW_WORDS, VipRow, buckets, ports, row_of,
    tag_matches, word,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a row that hold its key.
const KEY_WORDS: usize = size_of::<Key>() / 8;

/// The mapped table.
#[derive(Debug)]
pub(crate) struct VipTable {
    buckets: Shared<AtomicU64>,
    rows: Shared<AtomicU64>,
    /// Where the search for a free row goes on.
    next: u32,
    /// Ids by address, so that a change does not read every row. Derived from the rows, as is the next.
    by_addr: BTreeMap<IpAddr, BTreeSet<u32>>,
    /// How many VIPs have each idle time.
    idle_ms: BTreeMap<u32, u32>,
}

impl VipTable {
    pub(crate) fn new(buckets: Shared<AtomicU64>, rows: Shared<AtomicU64>) -> Self {
        let (by_addr, idle_ms) = (BTreeMap::new(), BTreeMap::new());
        let mut table = VipTable { buckets, rows, next: 1, by_addr, idle_ms };
        // A loader died between a row and its name.
        for id in 1..table.len() {
            let key = table.read(id).key;
            if key != Key::default() && table.find(key).is_none() {
                table.clear(id);
            }
        }
        for (key, value) in table.by_key() {
            table.note(&key, &value);
        }
        let highest = table.iter().map(|(_, value)| value.id).max().unwrap_or(0);
        table.next = (highest + 1) % table.len();
        table
    }

    fn note(&mut self, key: &VipKey, value: &VipValue) {
        self.by_addr.entry(key.addr).or_default().insert(value.id);
        *self.idle_ms.entry(value.flow_idle_ms).or_default() += 1;
    }

    fn forget(&mut self, key: &VipKey, value: &VipValue) {
        if let Some(ids) = self.by_addr.get_mut(&key.addr) {
            ids.remove(&value.id);
            if ids.is_empty() {
                self.by_addr.remove(&key.addr);
            }
        }
        if let Some(count) = self.idle_ms.get_mut(&value.flow_idle_ms) {
            *count -= 1;
            if *count == 0 {
                self.idle_ms.remove(&value.flow_idle_ms);
            }
        }
    }

    /// VIPs at an address.
    pub(crate) fn at(&self, addr: IpAddr) -> impl Iterator<Item = VipValue> {
        self.by_addr.get(&addr).into_iter().flatten().map(|&id| self.read(id).value)
    }

    /// Longest silence any VIP allows, ms.
    pub(crate) fn longest_idle_ms(&self) -> u32 {
        self.idle_ms.last_key_value().map_or(0, |(&ms, _)| ms)
    }

    /// Rows there are, with row 0 that is never used.
    pub(crate) fn len(&self) -> u32 {
        (self.rows.words().len() / ROW_WORDS) as u32
    }

    fn row(&self, id: u32) -> &[AtomicU64] {
        &self.rows.words()[id as usize * ROW_WORDS..][..ROW_WORDS]
    }

    fn read(&self, id: u32) -> VipRow {
        let row = self.row(id);
        vip_row(std::array::from_fn(|i| row[i].load(Ordering::Acquire)))
    }

    /// The places a key may be in, in the order of a search.
    fn places(&self, hash: u64) -> impl Iterator<Item = &[AtomicU64]> {
        let mask = (self.buckets.words().len() / BUCKET_WORDS - 1) as u32;
        (0..PROBES).map(move |probe| {
            let bucket = (hash as u32).wrapping_add(probe) & mask;
            &self.buckets.words()[bucket as usize * BUCKET_WORDS..][..BUCKET_WORDS]
        })
    }

    fn find(&self, key: Key) -> Option<(&AtomicU64, VipRow)> {
        let hash = key.hash();
        for bucket in self.places(hash) {
            let mut full = true;
            for place in bucket {
                let word = place.load(Ordering::Acquire);
                if row_of(word) != 0 && tag_matches(word, hash) {
                    let row = self.read(row_of(word));
                    if row.key == key {
                        return Some((place, row));
                    }
                }
                full &= word != FREE;
            }
            if !full {
                break;
            }
        }
        None
    }

    /// Value of a VIP.
    pub(crate) fn get(&self, key: &VipKey) -> Option<VipValue> {
        self.find(words_of(key)).map(|(_, row)| row.value)
    }

    /// All VIPs, in order of id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (VipKey, VipValue)> {
        (1..self.len()).filter_map(|id| {
            let row = self.read(id);
            Some((key_of(&row.key)?, row.value))
        })
    }

    /// All VIPs, in order of key.
    pub(crate) fn by_key(&self) -> BTreeMap<VipKey, VipValue> {
        self.iter().collect()
    }

    /// An id that no VIP has.
    pub(crate) fn free_id(&mut self) -> Result<u32> {
        let len = self.len();
        let unused = |id: &u32| *id != 0 && self.read(*id).key == Key::default();
        let free = (0..len).map(|n| (self.next + n) % len).find(unused);
        let id = free.ok_or(Error::Full { what: "VIP", limit: len - 1 })?;
        self.next = (id + 1) % len;
        Ok(id)
    }

    /// Adds a VIP in row `value.id`, or changes the one that is there.
    pub(crate) fn put(&mut self, vip: &VipKey, value: VipValue) -> Result<()> {
        let key = words_of(vip);
        let was = self.find(key).map(|(_, row)| row.value);
        let words = vip_words(VipRow { key, value, ..VipRow::default() });
        let row = self.row(value.id);
        // Id, mode and flags are one word, the last to change, as the steady path asks them first.
        let decisive = KEY_WORDS;
        for i in (0..ROW_WORDS).filter(|&i| i != decisive).chain([decisive]) {
            row[i].store(words[i], Ordering::Release);
        }
        if let Some(was) = was {
            self.forget(vip, &was);
            self.note(vip, &value);
            return Ok(());
        }
        let hash = key.hash();
        let free = |place: &&AtomicU64| row_of(place.load(Ordering::Acquire)) == 0;
        let Some(place) = self.places(hash).flatten().find(free) else {
            row.iter().for_each(|word| word.store(0, Ordering::Release));
            return Err(Error::Full { what: "VIP bucket", limit: PROBES * BUCKET_WORDS as u32 });
        };
        place.store(word(hash, value.id), Ordering::Release);
        self.note(vip, &value);
        Ok(())
    }

    /// Takes a VIP's name away; its row stays until [`VipTable::clear`]. Absent is fine.
    pub(crate) fn unname(&mut self, vip: &VipKey) {
        let key = words_of(vip);
        let Some((place, row)) = self.find(key) else { return };
        let full = |bucket: &[AtomicU64]| bucket.iter().all(|w| w.load(Ordering::Acquire) != FREE);
        let among = |bucket: &[AtomicU64]| bucket.iter().any(|w| std::ptr::eq(w, place));
        let was_full = self.places(key.hash()).any(|bucket| among(bucket) && full(bucket));
        place.store(if was_full { GONE } else { FREE }, Ordering::Release);
        self.forget(vip, &row.value);
    }

    /// Empties the row of a VIP that has no name any more.
    pub(crate) fn clear(&self, id: u32) {
        self.row(id).iter().for_each(|word| word.store(0, Ordering::Release));
    }
}

/// Words the buckets take.
pub(crate) fn bucket_words(vips: u32) -> usize {
    buckets(vips) as usize * BUCKET_WORDS
}

/// Words the rows take.
pub(crate) fn row_words(vips: u32) -> usize {
    vips as usize * ROW_WORDS
}

/// A VIP's key as the table holds it.
fn words_of(key: &VipKey) -> Key {
    let port = u16::from_le_bytes(key.port.to_be_bytes());
    let (addr, family) = match key.addr {
        IpAddr::V4(a) => (u128::from(u32::from_le_bytes(a.octets())), IPV4),
        IpAddr::V6(a) => (u128::from_le_bytes(a.octets()), IPV6),
    };
    Key { lo: addr as u64, hi: (addr >> 64) as u64, ports: ports(port, key.proto.number(), family) }
}

fn key_of(key: &Key) -> Option<VipKey> {
    let [p0, p1, proto, family, ..] = key.ports.to_le_bytes();
    let addr = match family {
        IPV4 => IpAddr::from(Ipv4Addr::from((key.lo as u32).to_le_bytes())),
        IPV6 => IpAddr::from(Ipv6Addr::from((u128::from(key.lo) | u128::from(key.hi) << 64).to_le_bytes())),
        _ => return None,
    };
    Some(VipKey { addr, port: u16::from_be_bytes([p0, p1]), proto: Proto::from_number(proto)? })
}
