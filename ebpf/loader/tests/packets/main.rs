//! Packet in, packet out: every rule of the programs as a row a person can check, through BPF_PROG_TEST_RUN.
//!
//! * [`l4`]: the balancer's table; [`gue`]: its rows of one mode. * [`node`]: the node's. * [`frame`]: how frames are written down.
//! * [`run`]: runs them against the loaded programs.
//!
//! `SLUICE_FRAMES=dir` writes the frames of the balancer's table there, for the corpus of the fuzz target `frame`.

mod balance;
mod fragment;
mod frame;
mod gue;
mod icmp;
mod l4;
mod node;
mod run;
mod vips;

use sluice_abi::reason::DropReason;
use std::collections::BTreeSet;

/// Reasons that no single frame ends in; tests of `run` and `nat` show them.
const BY_STATE: [DropReason; 5] = [
    DropReason::EchoLimited,
    DropReason::NatNoFlow,
    DropReason::NatPortsExhausted,
    DropReason::NatTableFull,
    DropReason::NatNoSource,
];

#[test]
fn every_drop_reason_has_a_row() {
    let mut shown: BTreeSet<DropReason> = BY_STATE.into();
    for row in l4::table() {
        if let l4::Want::Drop(reason, _) | l4::Want::Answer(_, reason, _) = row.want {
            shown.insert(reason);
        }
    }
    for row in node::table() {
        if let node::Want::Drop(reason) = row.want {
            shown.insert(reason);
        }
    }
    let all: BTreeSet<DropReason> = DropReason::ALL.iter().copied().collect();
    assert_eq!(shown, all, "a reason without a row");
}

#[test]
fn names_are_unique() {
    let names: Vec<String> = l4::table().into_iter().map(|r| r.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let names: Vec<&str> = node::table().into_iter().map(|r| r.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}
