//! A whole table from one version to the next.

use sluice_abi::slot::Slot;

/// The slots after giving them to `owners`: each keeps its previous owner by [`Slot::next`].
///
/// # Panics
/// When the two differ in length: both are [`sluice_abi::SLOTS`] long.
pub fn next_slots(old: &[Slot], owners: &[u16]) -> Vec<Slot> {
    assert_eq!(old.len(), owners.len(), "slots and owners of one table");
    old.iter().zip(owners).map(|(slot, &owner)| slot.next(owner)).collect()
}

/// Slots that have another current owner in `new` than in `old`.
pub fn moved(old: &[Slot], new: &[Slot]) -> usize {
    old.iter().zip(new).filter(|(a, b)| a.current() != b.current()).count()
}
