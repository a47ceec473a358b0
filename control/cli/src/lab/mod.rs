//! `sluice lab`: a client, the appliance, proxy nodes, a parent tier, an origin and their agents in network
//! namespaces of one machine, under real traffic.
//!
//! One thread (current-thread tokio) drives it. [`plan`] and [`documents`] are data, [`topology`] and
//! [`process`] act on it, [`state`] remembers it, [`cleanup`] takes it away:
//!
//! ```text
//!   lock → clean leftovers → record → namespaces, cables → documents → origin, agents → converged
//!        → load → (samples, scenario)* → stop load → clean → verify
//! ```

pub mod cleanup;
pub mod documents;
pub mod load;
pub mod netns;
pub mod observe;
pub mod plan;
pub mod probe;
pub mod process;
pub mod ready;
pub mod scenario;
pub mod serve;
pub mod state;
pub mod topology;
pub mod view;

use crate::args::{Global, LabArgs};
use crate::client::AgentClient;
use crate::exit::{self, CommandError, CommandResult};
use anyhow::{Context, Result};
use documents::LabDocuments;
use plan::{ECHO_PORT, HTTP_PORT, IFACE, LabPlan, Role, VIPS};
use process::{Processes, Start, sibling};
use serve::Outcome;
use sluice_api::status::NodeStatus;
use state::{LabState, ProcessRecord, RunDir};
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

/// Agents compile nothing and load one XDP object: this is generous even on a loaded machine.
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(60);
/// 8,192 flows: many more than the lab's own, few enough to be filled for the show.
const FLOW_BUCKETS: u32 = 1024;
const CONVERGE_POLL: Duration = Duration::from_millis(100);

/// A running lab.
pub struct Lab {
    /// What is built.
    pub plan: LabPlan,
    /// Where it lives.
    pub run: RunDir,
    /// What is on record.
    pub state: LabState,
    /// What the agents are told.
    pub documents: LabDocuments,
    /// What runs.
    pub processes: Processes,
    /// Nodes that are up, added ones too.
    pub nodes: Vec<u8>,
    _lock: UnixListener,
}

/// One lab of a name at a time: an abstract socket is free again the moment its holder is gone.
fn lock(prefix: &str) -> Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(format!("sluice-lab/{prefix}"))?;
    UnixListener::bind_addr(&address).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("a lab named {prefix:?} is running; end it, or take another --prefix")
        }
        _ => anyhow::Error::new(e).context("lock the lab"),
    })
}

/// Runs the command.
pub async fn run(args: &LabArgs, global: &Global) -> CommandResult {
    plan::check_prefix(&args.prefix).map_err(CommandError::Usage)?;
    if !rustix::process::geteuid().is_root() {
        return Err(CommandError::Usage(
            "the lab makes network namespaces and loads XDP programs: run it as root".into(),
        ));
    }
    let lock = lock(&args.prefix)?;
    let removed = cleanup::remove(&args.prefix);
    if removed.any() {
        eprintln!(
            "cleaned up after an earlier lab: {} processes, {} namespaces, {} mounts",
            removed.processes, removed.namespaces, removed.mounts
        );
    }
    let left = cleanup::leftovers(&args.prefix, &LabState::default());
    if !left.is_empty() {
        return Err(anyhow::anyhow!("an earlier lab left what cannot be removed: {}", left.join(", ")).into());
    }
    if args.clean {
        return Ok(exit::OK);
    }
    let stop = Stop::listen()?;
    let mut lab = Lab::empty(args, lock);
    let outcome = lab.up_and_serve(args, global, &stop).await;
    let cleaned = lab.close();
    let outcome = outcome?;
    let removed = cleaned?;
    if let Some(mut summary) = outcome.summary {
        summary["removed"] = serde_json::to_value(&removed).map_err(anyhow::Error::from)?;
        if global.json() {
            println!("{summary}");
        } else if args.scenario.is_none() && !args.no_load {
            print!("{}", view::text::summary(&summary));
        }
    }
    Ok(outcome.code)
}

/// Ctrl-C and SIGTERM.
pub struct Stop(tokio::sync::watch::Receiver<bool>);

impl Stop {
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (sender, receiver) = tokio::sync::watch::channel(false);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            // Fails only when nobody waits any more.
            let _ = sender.send(true);
        });
        Ok(Stop(receiver))
    }

    /// Returns when someone asks for the end.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        // The sender lives as long as the signal task; its end means that the signal was sent.
        let _ = receiver.wait_for(|asked| *asked).await;
    }
}

impl Lab {
    fn empty(args: &LabArgs, lock: UnixListener) -> Self {
        let plan = LabPlan { prefix: args.prefix.clone(), nodes: args.nodes };
        let state = LabState {
            prefix: args.prefix.clone(),
            lab: Some(ProcessRecord::of("lab", std::process::id())),
            ..LabState::default()
        };
        Lab {
            documents: LabDocuments::new(&plan),
            run: RunDir::new(&args.prefix),
            nodes: (1..=plan.nodes).collect(),
            plan,
            state,
            processes: Processes::default(),
            _lock: lock,
        }
    }

    async fn up_and_serve(&mut self, args: &LabArgs, global: &Global, stop: &Stop) -> Result<Outcome> {
        for program in ["ip", "ethtool"] {
            topology::need_program(program)?;
        }
        self.build()?;
        tokio::select! {
            started = self.start_programs() => started?,
            () = stop.wait() => return Ok(Outcome { code: exit::OK, summary: None }),
        }
        serve::serve(self, args, global, stop).await
    }

    fn build(&mut self) -> Result<()> {
        topology::make_run_dir(&self.run, &mut self.state)?;
        topology::make_network(&self.plan, &self.run, &mut self.state)?;
        topology::let_front_transmit(&self.plan, &self.run)?;
        self.documents.write(&self.run.placements()).context("write the placement documents")?;
        Ok(())
    }

    async fn start_programs(&mut self) -> Result<()> {
        self.start_origin()?;
        for role in self.agents() {
            self.start_agent(role)?;
            self.start_echo(role)?;
        }
        self.wait_converged(CONVERGE_TIMEOUT).await
    }

    /// Hosts that run an agent.
    pub fn agents(&self) -> Vec<Role> {
        let mut roles = vec![Role::Front];
        roles.extend(self.nodes.iter().copied().map(Role::Node));
        roles.push(Role::Parent);
        roles
    }

    /// Starts the origin server.
    pub fn start_origin(&mut self) -> Result<()> {
        let listen = format!("{}:{HTTP_PORT}", Role::Origin.v4());
        self.start("origin", Role::Origin, "sluice-origin", ["--listen", &listen, "--name", "origin"])
    }

    fn start_echo(&mut self, role: Role) -> Result<()> {
        let Role::Node(_) = role else { return Ok(()) };
        let mut args = vec!["--name".to_owned(), role.name()];
        for vip in VIPS.iter().filter(|v| v.port == ECHO_PORT) {
            args.extend(["--udp-echo".to_owned(), vip.socket().to_string()]);
        }
        self.start(&format!("echo {}", role.name()), role, "sluice-origin", args)
    }

    /// Starts the agent of a host; it starts its proxy itself.
    pub fn start_agent(&mut self, role: Role) -> Result<()> {
        let node = role.name();
        let args: Vec<OsString> = vec![
            "--node".into(),
            (&node).into(),
            "--placements".into(),
            self.run.placements().into(),
            "--state".into(),
            self.run.agent_state(&node).into(),
            "--socket".into(),
            self.run.agent_socket(&node).into(),
            "--iface".into(),
            IFACE.into(),
            "--pin-dir".into(),
            self.run.pins(&node).into(),
            "--proxy-bin".into(),
            sibling("sluice-proxy")?.into(),
            "--workers".into(),
            "1".into(),
            "--flow-buckets".into(),
            FLOW_BUCKETS.to_string().into(),
        ];
        self.start(&format!("agent {node}"), role, "sluice-agent", args)
    }

    fn start<A: Into<OsString>>(
        &mut self,
        name: &str,
        role: Role,
        program: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Result<()> {
        let start = Start {
            name: name.to_owned(),
            netns: self.plan.netns(role),
            program: sibling(program)?,
            args: args.into_iter().map(Into::into).collect(),
            piped: false,
        };
        self.processes.start(start, &self.run, &mut self.state).map(drop)
    }

    /// A client of a host's agent.
    pub fn client(&self, role: Role) -> AgentClient {
        AgentClient::new(self.run.agent_socket(&role.name()))
    }

    /// Waits until every agent reports that the newest documents are carried out.
    pub async fn wait_converged(&mut self, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        for role in self.agents() {
            loop {
                if let Some((name, status)) = self.processes.reap().into_iter().next() {
                    anyhow::bail!("{name} ended ({status}): {}", self.log_tail(&name));
                }
                let status = self.client(role).get::<NodeStatus>("/v1/status").await;
                let why = match &status {
                    Ok(status) if self.carried_out(status) => break,
                    Ok(status) => describe_unfinished(status),
                    Err(error) => error.to_string(),
                };
                if Instant::now() >= end {
                    let log = self.log_tail(&format!("agent {}", role.name()));
                    anyhow::bail!("{} has not converged: {why}\n{log}", role.name());
                }
                tokio::time::sleep(CONVERGE_POLL).await;
            }
        }
        Ok(())
    }

    fn carried_out(&self, status: &NodeStatus) -> bool {
        let newest = |name| {
            let wanted = self.documents.generation(name);
            status.documents.iter().any(|d| d.name == name && d.observed_generation >= wanted)
        };
        status.converged && newest(documents::BALANCER) && newest(documents::CACHE)
    }

    fn log_tail(&self, process: &str) -> String {
        /// Enough to see why a program ended.
        const LINES: usize = 12;
        let path = self.run.logs().join(format!("{}.log", process.replace(' ', "-")));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// Adds a node: namespace, cable, programs, and its place in the documents.
    pub async fn add_node(&mut self, number: u8) -> Result<()> {
        let role = Role::Node(number);
        topology::add_host(&self.plan, role, &self.run, &mut self.state)?;
        self.nodes.push(number);
        self.start_agent(role)?;
        self.start_echo(role)?;
        self.documents.add_node(number);
        self.documents.write(&self.run.placements()).context("write the placement documents")?;
        self.wait_converged(CONVERGE_TIMEOUT).await
    }

    /// Kills all that runs on a node and cuts its cable: nothing says good-bye.
    pub fn kill_node(&mut self, number: u8) -> Result<()> {
        let role = Role::Node(number);
        topology::set_cable(&self.plan, role, false)?;
        for name in ["agent", "echo"] {
            self.processes.kill(&format!("{name} {}", role.name()));
        }
        // Its proxy is the agent's child, not ours.
        for process in cleanup::processes_in(&[self.plan.netns(role)]) {
            process.signal(rustix::process::Signal::KILL);
        }
        Ok(())
    }

    /// Connects a killed node again and starts its programs.
    pub async fn revive_node(&mut self, number: u8) -> Result<()> {
        let role = Role::Node(number);
        topology::set_cable(&self.plan, role, true)?;
        self.start_agent(role)?;
        self.start_echo(role)?;
        self.wait_converged(CONVERGE_TIMEOUT).await
    }

    fn close(mut self) -> Result<cleanup::Removed> {
        let removed = cleanup::remove(&self.plan.prefix);
        // Reaped here, so that no zombie of ours counts as left.
        self.processes.reap();
        let left = cleanup::leftovers(&self.plan.prefix, &self.state);
        if !left.is_empty() {
            anyhow::bail!("could not take away: {}", left.join(", "));
        }
        eprintln!(
            "removed {} processes, {} namespaces, {} mounts, {}: nothing is left",
            removed.processes,
            removed.namespaces,
            removed.mounts,
            self.run.path().display()
        );
        Ok(removed)
    }
}

fn describe_unfinished(status: &NodeStatus) -> String {
    let mut parts: Vec<String> = status.errors.iter().map(|e| format!("{}: {}", e.item, e.message)).collect();
    for d in &status.documents {
        parts.extend(
            d.refused.iter().map(|e| format!("document {} refused: {}: {}", d.name, e.item, e.message)),
        );
        if d.observed_generation != d.generation {
            parts.push(format!("document {} is at {} of {}", d.name, d.observed_generation, d.generation));
        }
    }
    if parts.is_empty() {
        parts.push(format!("{} documents, converged: {}", status.documents.len(), status.converged));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_lab_of_a_name() {
        let name = format!("test{}", std::process::id());
        let held = lock(&name).unwrap();
        assert!(lock(&name).unwrap_err().to_string().contains("is running"));
        drop(held);
        lock(&name).unwrap();
    }
}
