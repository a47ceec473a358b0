//! The seam between decisions and a node: [`Host`].
//!
//! [`linux`] acts on the machine; [`fake`] is a deterministic node in memory with faults on demand, for tests
//! and the simulator. Calls block the engine's thread; each is bounded in time by the host.

pub mod fake;
pub mod linux;

use crate::model::Observed;
use crate::plan::Step;
use sluice_api::check::types::VipAddress;
use sluice_api::proxy_admin::{Answer, Request};
use sluice_loader::{Counters, FiveTuple, Link, Trace};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Why a step or a question failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// What happened, with the values.
    pub message: String,
    /// Worth trying again without a change from outside.
    pub retry: bool,
}

impl HostError {
    /// One that may pass.
    pub fn passing(message: impl Into<String>) -> Self {
        HostError { message: message.into(), retry: true }
    }

    /// One that stays until something else changes.
    pub fn lasting(message: impl Into<String>) -> Self {
        HostError { message: message.into(), retry: false }
    }
}

/// What adopting found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Pinned maps in use again, with everything in them.
    pub maps: bool,
    /// Process id of a proxy that was running.
    pub proxy_pid: Option<u32>,
}

/// What a sweep of the flow table left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Live entries.
    pub live: u64,
    /// Entries freed.
    pub expired: u64,
    /// Slots that still ask the flow table.
    pub asking_slots: u64,
    /// NAT flows that go on.
    pub nat_live: u64,
    /// NAT flows freed.
    pub nat_expired: u64,
}

/// A node.
pub trait Host {
    /// Takes over what a former agent left running (pinned maps, proxy), changing nothing.
    ///
    /// # Errors
    /// When what is there can neither be adopted nor told apart from nothing.
    fn adopt(&mut self) -> Result<Adoption, HostError>;

    /// What the node has now. `known_rows` is what the proxy is believed to have.
    ///
    /// # Errors
    /// When it cannot be found out.
    fn observe(&mut self) -> Result<Observed, HostError>;

    /// Carries out one step; a step carried out before is carried out again without harm.
    ///
    /// # Errors
    /// Why not; nothing or all of the step is in effect.
    fn apply(&mut self, step: &Step) -> Result<(), HostError>;

    /// Whether routers can be told of addresses.
    fn speaks(&self) -> bool {
        false
    }

    /// Next hops of backend addresses, as far as they are known; asks for the others.
    fn resolve(&mut self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Link>;

    /// Next hops of backend addresses as they are known now; asks for none. Cheap: called on every change that
    /// the node tells of.
    fn look(&mut self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Link> {
        self.resolve(addresses)
    }

    /// Previous owners of a VIP's slots are no longer asked; flows without an entry belong to the current ones.
    ///
    /// # Errors
    /// Why not.
    fn close_window(&mut self, vip: VipAddress) -> Result<(), HostError>;

    /// Frees silent flow entries and settles slots none disagrees with.
    ///
    /// # Errors
    /// Why not.
    fn sweep(&mut self) -> Result<Swept, HostError>;

    /// Backend ids that slots or flow entries name.
    ///
    /// # Errors
    /// Why not.
    fn ids_in_use(&mut self) -> Result<BTreeSet<u16>, HostError>;

    /// Largest backend id the tables take.
    fn backend_id_max(&self) -> u16;

    /// Counters of the kernel tables; `None` when nothing is balanced here.
    ///
    /// # Errors
    /// Why not.
    fn counters(&mut self) -> Result<Option<Counters>, HostError>;

    /// Where a packet would go; `None` when nothing is balanced here.
    ///
    /// # Errors
    /// Why not.
    fn trace(&mut self, flow: &FiveTuple) -> Result<Option<Trace>, HostError>;

    /// Asks the proxy something that changes none of its rows.
    ///
    /// # Errors
    /// There is none, or it refused.
    fn ask_proxy(&mut self, request: &Request) -> Result<Answer, HostError>;

    /// Takes everything off the node: program, pins, addresses, proxy. Goes on after an error.
    fn release(&mut self) -> Vec<HostError>;
}
