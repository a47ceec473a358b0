//! Two-level segregated fit over an address range it never touches.
//!
//! Owns the map of which units of the arena are taken. All metadata lives beside the range, so a stray write
//! into an object cannot damage it. Every operation takes constant time but for one bounded list walk.
//! After M. Masmano, I. Ripoll, A. Crespo, J. Real: "TLSF: a new dynamic memory allocator for real-time
//! systems" (ECRTS 2004), with page-aligned allocation added.
//!
//! What must stay true: taken blocks never overlap; two free neighbours never stay apart; the sum of all block
//! lengths is the length of the range.

/// No block.
const NIL: u32 = u32::MAX;
/// Second-level lists per power of two: waste of the first fit found is below 1/16.
const SECOND_BITS: u32 = 4;
const SECOND: usize = 1 << SECOND_BITS;
const FIRST: usize = 32;
/// Blocks looked at in the list of the wanted size itself when every larger list is empty.
const EXACT_WALK: usize = 16;

/// Index of a block.
pub(super) type BlockId = u32;

#[derive(Clone, Copy)]
struct Block {
    start: u32,
    len: u32,
    phys_prev: u32,
    phys_next: u32,
    free_prev: u32,
    free_next: u32,
    free: bool,
}

/// The allocator. Units are whatever the caller says they are.
pub(super) struct Tlsf {
    blocks: Vec<Block>,
    spare: u32,
    first_map: u32,
    second_map: [u32; FIRST],
    heads: [[u32; SECOND]; FIRST],
}

/// Lists are indexed by the leading bits of the length.
fn class_of(len: u32) -> (usize, usize) {
    debug_assert!(len > 0);
    let first = 31 - len.leading_zeros();
    if first < SECOND_BITS {
        return (0, len as usize);
    }
    let second = (len >> (first - SECOND_BITS)) as usize & (SECOND - 1);
    ((first - SECOND_BITS + 1) as usize, second)
}

/// The smallest class all of whose blocks hold `len`.
fn class_holding(len: u32) -> (usize, usize) {
    let first = 31 - len.leading_zeros();
    if first < SECOND_BITS {
        return class_of(len);
    }
    let round = (1u32 << (first - SECOND_BITS)) - 1;
    class_of(len.saturating_add(round))
}

impl Tlsf {
    /// A range of `units` units, all free.
    pub(super) fn new(units: u32) -> Self {
        let mut this = Self {
            blocks: Vec::new(),
            spare: NIL,
            first_map: 0,
            second_map: [0; FIRST],
            heads: [[NIL; SECOND]; FIRST],
        };
        if units > 0 {
            let id = this.new_block(0, units, NIL, NIL);
            this.link_free(id);
        }
        this
    }

    /// First unit of a block.
    pub(super) fn start(&self, id: BlockId) -> u32 {
        self.blocks[id as usize].start
    }

    /// Units of a block.
    pub(super) fn len(&self, id: BlockId) -> u32 {
        self.blocks[id as usize].len
    }

    /// Takes `len` units whose start is a multiple of `align` (a power of two).
    pub(super) fn take(&mut self, len: u32, align: u32) -> Option<BlockId> {
        debug_assert!(len > 0 && align.is_power_of_two());
        let id = self.find(len, align)?;
        self.unlink_free(id);
        let start = self.blocks[id as usize].start;
        let aligned = start.next_multiple_of(align);
        let id = if aligned > start {
            let rest = self.split(id, aligned - start);
            self.link_free(id);
            rest
        } else {
            id
        };
        if self.blocks[id as usize].len > len {
            let rest = self.split(id, len);
            self.link_free(rest);
        }
        Some(id)
    }

    /// Gives the tail of a taken block back; `len` units stay.
    pub(super) fn shrink(&mut self, id: BlockId, len: u32) {
        assert!(
            len > 0 && !self.blocks[id as usize].free,
            "only a taken block shrinks, and never to nothing"
        );
        if self.blocks[id as usize].len > len {
            let rest = self.split(id, len);
            self.release(rest);
        }
    }

    /// Gives a taken block back.
    pub(super) fn free(&mut self, id: BlockId) {
        assert!(!self.blocks[id as usize].free, "block freed twice");
        self.release(id);
    }

    fn release(&mut self, id: BlockId) {
        let mut id = id;
        let prev = self.blocks[id as usize].phys_prev;
        if prev != NIL && self.blocks[prev as usize].free {
            self.unlink_free(prev);
            self.absorb_next(prev);
            id = prev;
        }
        let next = self.blocks[id as usize].phys_next;
        if next != NIL && self.blocks[next as usize].free {
            self.unlink_free(next);
            self.absorb_next(id);
        }
        self.link_free(id);
    }

    fn find(&self, len: u32, align: u32) -> Option<u32> {
        let padded = len.checked_add(align - 1)?;
        let (first, second) = class_holding(padded);
        if let Some(id) = self.first_from(first, second) {
            return Some(id);
        }
        // Larger lists are empty. The list of the size itself, and for an aligned wish the lists up to the padded
        // size, may still hold a block that fits.
        let (mut first, mut second) = class_of(len);
        let mut looked = 0;
        while looked < EXACT_WALK {
            let mut id = self.first_from(first, second)?;
            let block = &self.blocks[id as usize];
            (first, second) = class_of(block.len);
            while id != NIL && looked < EXACT_WALK {
                let block = &self.blocks[id as usize];
                let skip = block.start.next_multiple_of(align) - block.start;
                if block.len >= skip && block.len - skip >= len {
                    return Some(id);
                }
                looked += 1;
                id = block.free_next;
            }
            second += 1;
            if second == SECOND {
                (first, second) = (first + 1, 0);
            }
        }
        None
    }

    /// The first free block in the class or a larger one.
    fn first_from(&self, first: usize, second: usize) -> Option<u32> {
        if first >= FIRST {
            return None;
        }
        let map = self.second_map[first] & (u32::MAX << second);
        let (first, second) = if map != 0 {
            (first, map.trailing_zeros() as usize)
        } else {
            let above = if first + 1 >= FIRST { 0 } else { self.first_map & (u32::MAX << (first + 1)) };
            if above == 0 {
                return None;
            }
            let first = above.trailing_zeros() as usize;
            (first, self.second_map[first].trailing_zeros() as usize)
        };
        Some(self.heads[first][second])
    }

    fn new_block(&mut self, start: u32, len: u32, phys_prev: u32, phys_next: u32) -> u32 {
        let block = Block { start, len, phys_prev, phys_next, free_prev: NIL, free_next: NIL, free: false };
        if self.spare != NIL {
            let id = self.spare;
            self.spare = self.blocks[id as usize].free_next;
            self.blocks[id as usize] = block;
            return id;
        }
        self.blocks.push(block);
        (self.blocks.len() - 1) as u32
    }

    /// Cuts a block after `len` units; returns the second part, linked nowhere.
    fn split(&mut self, id: u32, len: u32) -> u32 {
        let Block { start, len: whole, phys_next, .. } = self.blocks[id as usize];
        let rest = self.new_block(start + len, whole - len, id, phys_next);
        if phys_next != NIL {
            self.blocks[phys_next as usize].phys_prev = rest;
        }
        let block = &mut self.blocks[id as usize];
        block.len = len;
        block.phys_next = rest;
        rest
    }

    fn absorb_next(&mut self, id: u32) {
        let next = self.blocks[id as usize].phys_next;
        let Block { len, phys_next, .. } = self.blocks[next as usize];
        let block = &mut self.blocks[id as usize];
        block.len += len;
        block.phys_next = phys_next;
        if phys_next != NIL {
            self.blocks[phys_next as usize].phys_prev = id;
        }
        self.blocks[next as usize].free_next = self.spare;
        self.blocks[next as usize].free = false;
        self.blocks[next as usize].len = 0;
        self.spare = next;
    }

    fn link_free(&mut self, id: u32) {
        let (first, second) = class_of(self.blocks[id as usize].len);
        let head = self.heads[first][second];
        let block = &mut self.blocks[id as usize];
        block.free = true;
        block.free_prev = NIL;
        block.free_next = head;
        if head != NIL {
            self.blocks[head as usize].free_prev = id;
        }
        self.heads[first][second] = id;
        self.first_map |= 1 << first;
        self.second_map[first] |= 1 << second;
    }

    fn unlink_free(&mut self, id: u32) {
        let Block { len, free_prev, free_next, .. } = self.blocks[id as usize];
        let (first, second) = class_of(len);
        if free_prev == NIL {
            self.heads[first][second] = free_next;
        } else {
            self.blocks[free_prev as usize].free_next = free_next;
        }
        if free_next != NIL {
            self.blocks[free_next as usize].free_prev = free_prev;
        }
        if self.heads[first][second] == NIL {
            self.second_map[first] &= !(1 << second);
            if self.second_map[first] == 0 {
                self.first_map &= !(1 << first);
            }
        }
        self.blocks[id as usize].free = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Tlsf {
        /// Walks the range and checks every invariant; returns free units and the longest free block.
        fn audit(&self, units: u32) -> (u32, u32) {
            let Some(mut id) = (0..self.blocks.len() as u32)
                .find(|&i| self.blocks[i as usize].start == 0 && self.blocks[i as usize].len > 0)
            else {
                return (0, 0);
            };
            let (mut at, mut free, mut longest, mut last_free, mut prev) = (0, 0, 0, false, NIL);
            loop {
                let b = self.blocks[id as usize];
                assert_eq!(b.start, at);
                assert_eq!(b.phys_prev, prev);
                assert!(!(b.free && last_free), "free neighbours apart");
                at += b.len;
                last_free = b.free;
                if b.free {
                    free += b.len;
                    longest = longest.max(b.len);
                }
                prev = id;
                if b.phys_next == NIL {
                    break;
                }
                id = b.phys_next;
            }
            assert_eq!(at, units);
            (free, longest)
        }
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_all_come_back(
            ops in prop::collection::vec((0u8..4, 1u32..300, any::<u16>()), 1..400)
        ) {
            const UNITS: u32 = 4096;
            let mut t = Tlsf::new(UNITS);
            let mut live: Vec<(BlockId, u32, u32)> = Vec::new();
            for (op, len, pick) in ops {
                match op {
                    0 | 1 => {
                        let align = if op == 0 { 1 } else { 64 };
                        if let Some(id) = t.take(len, align) {
                            prop_assert_eq!(t.len(id), len);
                            prop_assert_eq!(t.start(id) % align, 0);
                            for &(_, s, l) in &live {
                                prop_assert!(t.start(id) + len <= s || s + l <= t.start(id));
                            }
                            live.push((id, t.start(id), len));
                        } else {
                            let (_, longest) = t.audit(UNITS);
                            // Good fit may miss a block less than one class larger, never a larger one.
                            prop_assert!(longest < 2 * (len + align), "{longest} free, {len} refused");
                        }
                    }
                    2 if !live.is_empty() => {
                        let (id, ..) = live.swap_remove(pick as usize % live.len());
                        t.free(id);
                    }
                    3 if !live.is_empty() => {
                        let at = pick as usize % live.len();
                        let keep = len.min(live[at].2);
                        t.shrink(live[at].0, keep);
                        live[at].2 = keep;
                    }
                    _ => {}
                }
                let taken: u32 = live.iter().map(|l| l.2).sum();
                prop_assert_eq!(t.audit(UNITS).0, UNITS - taken);
            }
            for (id, ..) in live {
                t.free(id);
            }
            prop_assert_eq!(t.audit(UNITS), (UNITS, UNITS));
        }
    }
}
