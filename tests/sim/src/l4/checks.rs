//! The rules of the L4 family, one function each: pure, from what was seen to a violation.

use super::rules::Row;
use super::world::Excuses;
use crate::report::{Check, Violation};
use sluice_abi::reason::DropReason;
use sluice_abi::slot::Slot;

/// Slots that may move beyond those that must, of 1000: what Maglev pays for its speed. Its paper (NSDI
/// 2016, section 5.3) measures about 2 % with 1000 backends and 65,537 slots; with few backends of very
/// different weights a backend's turn order shifts more of them.
pub const EXTRA_DISRUPTION_PER_MILLE: u64 = 200;

/// What a box knew and did when it forwarded a packet of a flow that had a backend.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// Where the flow lived.
    pub owner: u16,
    /// Where the packet went.
    pub went_to: u16,
    /// The box's backends.
    pub rows: &'a [Row],
    /// Reasons for which the stated rules let this flow move.
    pub excuses: Excuses,
}

/// A flow keeps its backend while that lives.
pub fn flow_keeps_backend(flow: &str, seen: Forwarded<'_>) -> Check {
    let lives = seen.rows.iter().any(|r| r.id == seen.owner && r.is_alive());
    if seen.went_to == seen.owner || !lives || seen.excuses.any() {
        return Ok(());
    }
    Err(Violation::new(
        "flow_keeps_backend",
        format!(
            "{flow} lives on backend {} and was sent to {}; rows {:?}",
            seen.owner, seen.went_to, seen.rows
        ),
    ))
}

/// Nothing is forwarded to a backend that is not there or not alive.
pub fn goes_to_living_backend(flow: &str, went_to: u16, rows: &[Row]) -> Check {
    if rows.iter().any(|r| r.id == went_to && r.is_alive()) {
        return Ok(());
    }
    Err(Violation::new("goes_to_living_backend", format!("{flow} was sent to {went_to}; rows {rows:?}")))
}

/// A backend that drains, or has weight 0, gets no new flow.
pub fn draining_gets_no_new_flow(flow: &str, went_to: u16, rows: &[Row]) -> Check {
    match rows.iter().find(|r| r.id == went_to) {
        Some(row) if row.share() == 0 => Err(Violation::new(
            "draining_gets_no_new_flow",
            format!("{flow} begins on {row:?}; rows {rows:?}"),
        )),
        _ => Ok(()),
    }
}

/// A frame without fault is dropped only when no backend takes it, or when the flow table has no room.
pub fn drops_have_a_cause(flow: &str, reason: DropReason, rows: &[Row], table_is_tight: bool) -> Check {
    let lawful = match reason {
        DropReason::NoBackend => !rows.iter().any(|r| r.share() > 0),
        DropReason::FlowTableFull => table_is_tight,
        _ => false,
    };
    if lawful {
        return Ok(());
    }
    Err(Violation::new("drops_have_a_cause", format!("{flow} dropped as {}; rows {rows:?}", reason.name())))
}

/// A change moves few slots beyond those that the new shares ask for; a change of nothing moves none.
pub fn disruption_is_bounded(before: &[Slot], after: &[Slot]) -> Result<u64, Violation> {
    let mut held = std::collections::BTreeMap::<u16, (u64, u64)>::new();
    let mut moved = 0u64;
    for (a, b) in before.iter().zip(after) {
        held.entry(a.current()).or_default().0 += 1;
        held.entry(b.current()).or_default().1 += 1;
        moved += u64::from(a.current() != b.current());
    }
    let needed: u64 = held.values().map(|(had, has)| had.saturating_sub(*has)).sum();
    let extra_per_mille = (moved - needed) * 1000 / before.len().max(1) as u64;
    if extra_per_mille <= EXTRA_DISRUPTION_PER_MILLE {
        return Ok(extra_per_mille);
    }
    Err(Violation::new(
        "disruption_is_bounded",
        format!(
            "{moved} slots of {} moved, {needed} had to; slots by backend before and after: {held:?}",
            before.len()
        ),
    ))
}

/// Slots follow the weights. Maglev's shares differ by a slot or two per turn; 1 % of all slots is far more.
pub fn shares_follow_weights(rows: &[Row], slots: &[Slot]) -> Check {
    let total: u64 = rows.iter().map(|r| u64::from(r.share())).sum();
    let mut held = std::collections::BTreeMap::<u16, u64>::new();
    for slot in slots {
        *held.entry(slot.current()).or_default() += 1;
    }
    let all = slots.len() as u64;
    for row in rows {
        let has = held.get(&row.id).copied().unwrap_or(0);
        let wanted = (all * u64::from(row.share())).checked_div(total).unwrap_or(0);
        if has.abs_diff(wanted) > all / 100 || (row.share() == 0 && has > 0) {
            return Err(Violation::new(
                "shares_follow_weights",
                format!("{row:?} holds {has} slots of {all}, {wanted} wanted; rows {rows:?}"),
            ));
        }
    }
    Ok(())
}

/// When changes stop, every window closes.
pub fn no_window_is_open(slots: &[Slot]) -> Check {
    match slots.iter().position(|s| s.window_open()) {
        None => Ok(()),
        Some(at) => {
            Err(Violation::new("no_window_is_open", format!("slot {at} is {:?} after everything", slots[at])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l4::rules::RowState;

    const ROWS: [Row; 2] = [
        Row { id: 1, weight: 100, state: RowState::Active },
        Row { id: 2, weight: 100, state: RowState::Draining },
    ];

    #[test]
    fn each_rule_can_fail() {
        let seen = Forwarded { owner: 2, went_to: 1, rows: &ROWS, excuses: Excuses::default() };
        assert!(flow_keeps_backend("f", seen).is_err());
        assert!(flow_keeps_backend("f", Forwarded { owner: 3, ..seen }).is_ok(), "3 is gone");
        assert!(flow_keeps_backend("f", Forwarded { went_to: 2, ..seen }).is_ok());
        assert!(goes_to_living_backend("f", 3, &ROWS).is_err());
        assert!(draining_gets_no_new_flow("f", 2, &ROWS).is_err());
        assert!(drops_have_a_cause("f", DropReason::NoBackend, &ROWS, false).is_err());
        assert!(drops_have_a_cause("f", DropReason::FlowTableFull, &ROWS, false).is_err());
        assert!(shares_follow_weights(&ROWS, &[Slot::settled(2); 100]).is_err());
        assert!(shares_follow_weights(&ROWS, &[Slot::settled(1); 100]).is_ok());
        let before: Vec<Slot> = (0..100).map(|n| Slot::settled(1 + n % 2)).collect();
        let swapped: Vec<Slot> = (0..100).map(|n| Slot::settled(2 - n % 2)).collect();
        assert!(no_window_is_open(&[Slot::new(1, 2)]).is_err());
        assert!(disruption_is_bounded(&before, &swapped).is_err());
        assert_eq!(disruption_is_bounded(&before, &before), Ok(0));
    }
}
