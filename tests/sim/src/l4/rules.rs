//! What the world asks of a balancer box. The product's model answers in [`super::model`]; mutations wrap it
//! and break one rule.

use crate::queue::Tick;
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::slot::Slot;

/// What a box knows of the state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowState {
    /// Takes new flows.
    Active,
    /// Keeps its flows only.
    Draining,
    /// Keeps nothing.
    Down,
}

/// A backend in a box's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: u16,
    /// Configured share of new flows.
    pub weight: u32,
    /// Its state.
    pub state: RowState,
}

impl Row {
    /// Its share of new flows now.
    pub fn share(&self) -> u32 {
        if self.state == RowState::Active { self.weight } else { 0 }
    }

    /// Its flows stay.
    pub fn is_alive(&self) -> bool {
        self.state != RowState::Down
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forwarded.
    To {
        /// Id of the backend.
        backend: u16,
        /// What the flow table had to do with it.
        event: Option<Event>,
    },
    /// Dropped, by name.
    Dropped(DropReason),
    /// Left to the box's own stack.
    Passed,
}

/// The rules of a balancer box: slots, flow table, verdict.
pub trait Rules {
    /// Make the slot tables follow these rows.
    fn publish(&mut self, rows: &[Row]);
    /// The previous owners have been remembered long enough.
    fn close_windows(&mut self, now: Tick);
    /// Entries of flows that ended are freed, and slots that nothing disagrees with stop asking.
    fn sweep(&mut self, now: Tick);
    /// Where a frame goes.
    fn decide(&mut self, now: Tick, frame: &[u8]) -> Verdict;
    /// Slots of the VIP.
    fn slots(&self) -> &[Slot];
    /// The slot that a flow of the VIP falls on.
    fn slot_of(&self, frame: &[u8]) -> u32;
}
