//! Loads, pins, adopts, fills and reads the XDP programs: the only user of aya.
//!
//! * [`Balancer`]: the L4 balancer of a box. VIPs, backends, slots, flows, counters, trace.
//! * [`Node`]: the other end, which takes off the outer header.
//! * [`object`]: the compiled programs this crate carries.
//!
//! Tables change in place: a slot is one 32-bit word in memory shared with the program, no invariant spans two
//! slots, so a change is 65,537 plain stores and no packet sees half of one. What a change does to flows is
//! [`sluice_abi::slot::Slot::next`].
//!
//! `unsafe` lives in the module `kernel` only.

#![deny(unsafe_code)]

mod attach;
mod balancer;
mod bpffs;
mod error;
#[allow(unsafe_code)]
mod kernel;
mod nat;
mod node;
pub mod object;
mod options;
mod read;
mod sweep;
mod tables;
mod types;
mod vips;

pub use balancer::{Balancer, remove_pins};
pub use error::{Error, Result};
pub use kernel::frame::send_frame;
pub use nat::{NatSwept, SourceList};
pub use node::{DecapSpec, Node, NodeConfig};
pub use options::{Tracking, VipOptions};
pub use types::{
    Adopted, AttachMode, BackendSpec, Config, Counters, FiveTuple, Link, Mode, Proto, State, Sweep, Trace,
    TraceEntry, Traffic, VipKey, VipSpec, VipState,
};

use aya::programs::Xdp;
use aya::{Ebpf, TestRun, TestRunOptions};

pub(crate) fn xdp_mut<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp> {
    let missing = || Error::Load { program: name, source: "not in the object".into() };
    ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

pub(crate) fn xdp<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Xdp> {
    let missing = || Error::Load { program: name, source: "not in the object".into() };
    ebpf.program(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

/// Room for a frame and what a program puts before it.
const TEST_RUN_ROOM: usize = 16 << 10;

pub(crate) fn test_run(program: &Xdp, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
    let mut out = vec![0; TEST_RUN_ROOM];
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result =
        program.test_run(options).map_err(|e| Error::Load { program: "test run", source: Box::new(e) })?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value, out))
}
