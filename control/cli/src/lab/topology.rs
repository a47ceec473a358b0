//! Makes what [`super::plan`] says: namespaces, cables, addresses, kernel settings, and the programs at the ends
//! of the cables.

use super::netns::{self, NetnsError};
use super::plan::{IFACE, LabPlan, Role};
use super::state::{LabState, RunDir};
use crate::veth_pass;
use anyhow::{Context, Result};
use rustix::mount::MountFlags;
use std::path::Path;

/// Makes the run directory with its BPF file system. The record is on disk before the first thing it names.
pub fn make_run_dir(run: &RunDir, state: &mut LabState) -> Result<()> {
    run.create().with_context(|| format!("make {}", run.path().display()))?;
    state.mounts.push(run.bpffs());
    run.save(state).context("write the lab's record")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", run.bpffs(), "bpf", flags, None)
        .with_context(|| format!("mount a BPF file system at {}", run.bpffs().display()))
}

/// Makes all namespaces and cables.
pub fn make_network(plan: &LabPlan, run: &RunDir, state: &mut LabState) -> Result<()> {
    state.namespaces.push(plan.fabric());
    state.namespaces.extend(plan.roles().into_iter().map(|r| plan.netns(r)));
    run.save(state).context("write the lab's record")?;
    netns::ip_batch(None, &plan.namespace_batch())?;
    let fabric = plan.fabric();
    let mut cables = plan.bridge_batch();
    for role in plan.roles() {
        cables.push_str(&plan.cable_batch(role));
    }
    netns::ip_batch(Some(&fabric), &cables)?;
    for role in plan.roles() {
        make_host(plan, role)?;
    }
    Ok(())
}

/// Makes one more host in a running lab.
pub fn add_host(plan: &LabPlan, role: Role, run: &RunDir, state: &mut LabState) -> Result<()> {
    state.namespaces.push(plan.netns(role));
    run.save(state).context("write the lab's record")?;
    netns::ip_batch(None, &format!("netns add {}\n", plan.netns(role)))?;
    netns::ip_batch(Some(&plan.fabric()), &plan.cable_batch(role))?;
    make_host(plan, role)
}

fn make_host(plan: &LabPlan, role: Role) -> Result<()> {
    let netns = plan.netns(role);
    netns::set_sysctls(&netns, &plan.sysctls(role))?;
    // Locally made packets must carry their checksum: XDP forwards bytes, not the note that one is still owed.
    no_tx_checksum(&netns, IFACE)?;
    no_tx_checksum(&plan.fabric(), &role.fabric_iface())?;
    netns::ip_batch(Some(&netns), &plan.host_batch(role))?;
    Ok(())
}

fn no_tx_checksum(netns: &str, iface: &str) -> Result<(), NetnsError> {
    netns::run(Some(netns), "ethtool", &["-K", iface, "tx", "off"]).map(drop)
}

/// Cuts a host off, or connects it again, at the fabric's end of its cable.
pub fn set_cable(plan: &LabPlan, role: Role, up: bool) -> Result<(), NetnsError> {
    let state = if up { "up" } else { "down" };
    netns::ip_batch(Some(&plan.fabric()), &format!("link set {} {state}\n", role.fabric_iface()))
}

/// Lets into the fabric what the balancer transmits from XDP.
pub fn let_front_transmit(plan: &LabPlan, run: &RunDir) -> Result<()> {
    veth_pass::attach(&run.bpffs(), Some(&plan.fabric()), &[Role::Front.fabric_iface()])
}

/// A program needed by the lab, with the reason in the error.
pub fn need_program(name: &str) -> Result<()> {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(name).exists());
    anyhow::ensure!(found, "the lab needs `{name}`: apt-get install iproute2 ethtool");
    Ok(())
}
