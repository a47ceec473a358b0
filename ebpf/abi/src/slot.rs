//! A Maglev slot: its current owner, and for a while after a change the previous one.
//!
//! ```text
//!            owner a -> b                    close window              no entry disagrees any more
//!  (a, 0) ----------------> (b, prev a) --------------------> (b, ASK) ---------------------------> (b, 0)
//!                            |   ^ |  owner b -> c                |  owner b -> c
//!                            +---+ +-----> (c, prev a)            +-------------> (c, prev b)
//! ```
//! While the window is open, every flow seen on the slot gets an entry, so a further change leaves `prev`
//! alone: flows of the owner in between began with a SYN in the window and have an entry.

/// In the place of the previous owner: the window is closed, entries that disagree may remain.
pub const ASK: u16 = 0xffff;

/// Current owner in the low half, previous owner, [`ASK`] or 0 in the high half. One aligned 32-bit store
/// changes both at once, which is why tables change in place: no invariant spans two slots.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

const _: () = assert!(size_of::<Slot>() == 4);

impl Slot {
    /// A slot without history.
    #[inline(always)]
    pub const fn settled(owner: u16) -> Self {
        Slot(owner as u32)
    }

    /// A slot with both halves given.
    #[inline(always)]
    pub const fn new(current: u16, previous: u16) -> Self {
        Slot(current as u32 | (previous as u32) << 16)
    }

    /// Owner of new flows; 0: none.
    #[inline(always)]
    pub const fn current(self) -> u16 {
        self.0 as u16
    }

    /// Previous owner, [`ASK`], or 0.
    #[inline(always)]
    pub const fn previous(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The window is open: flows without an entry that did not begin here belong to the previous owner.
    #[inline(always)]
    pub const fn window_open(self) -> bool {
        self.previous() != 0 && self.previous() != ASK
    }

    /// The slot after giving it to `owner`.
    #[inline(always)]
    pub const fn next(self, owner: u16) -> Self {
        if owner == self.current() {
            return self;
        }
        match self.previous() {
            // A slot nobody owned had no flows to keep.
            0 | ASK if self.current() == 0 => Slot::new(owner, self.previous()),
            0 | ASK => Slot::new(owner, self.current()),
            previous => Slot::new(owner, previous),
        }
    }

    /// The slot after its window.
    #[inline(always)]
    pub const fn closed(self) -> Self {
        if self.window_open() { Slot::new(self.current(), ASK) } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_keeps_the_oldest_previous_owner() {
        let s = Slot::settled(1).next(2);
        assert_eq!(s, Slot::new(2, 1));
        assert_eq!(s.next(3), Slot::new(3, 1));
        assert_eq!(s.next(1), Slot::new(1, 1));
        assert_eq!(s.next(2), s);
    }

    #[test]
    fn closing_asks_for_exceptions_and_a_change_then_opens_again() {
        let s = Slot::new(2, 1).closed();
        assert_eq!(s, Slot::new(2, ASK));
        assert!(!s.window_open());
        assert_eq!(s.next(3), Slot::new(3, 2));
        assert_eq!(Slot::settled(2).closed(), Slot::settled(2));
    }

    #[test]
    fn an_empty_slot_has_no_flows_to_remember() {
        assert_eq!(Slot::settled(0).next(4), Slot::settled(4));
        assert_eq!(Slot::settled(4).next(0), Slot::new(0, 4));
        assert_eq!(Slot::new(0, ASK).next(4), Slot::new(4, ASK));
    }
}
