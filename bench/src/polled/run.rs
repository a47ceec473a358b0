//! Rounds and rows of the poll modes.

use super::Mode;
use super::load::Plan;
use crate::netns::{End, Spaces};
use crate::suite::process::Process;
use crate::suite::row::{Better, Case, Row};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const GROUP: &str = "proxy";
const CLIENT: &str = "sluice-bench-c";
const SERVER: &str = "sluice-bench-s";
const CLIENT_DEVICE: &str = "sb-c0";
const SERVER_DEVICE: &str = "sb-s0";
/// Addresses of the two ends.
pub const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 1);
/// The server's.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 2);
/// Datagrams a second of the fixed rate: well below what the slowest serves.
const RATE: f64 = 20_000.0;
/// A small question, as DNS and games send.
const SIZE: usize = 64;
/// Datagrams that may be lost at the fixed rate, of one thousand.
const LOST_ALLOWED: u64 = 10;
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interleaved rounds; the median counts.
    pub rounds: usize,
    /// Length of one turn, s.
    pub seconds: f64,
    /// Processor of the server.
    pub server_cpu: usize,
    /// Processor of the client.
    pub client_cpu: usize,
}

struct Cases {
    cpu: Case,
    both: Case,
    rate: Case,
    slow_cpu: Case,
    p50: Case,
    p99: Case,
}

impl Cases {
    fn new() -> Self {
        let case = |what: &str, unit, better| {
            Case::new(format!("poll mode, datagram echo 64 B, {what}"), unit, better)
        };
        Self {
            cpu: case("saturated", "us CPU/datagram", Better::Lower),
            both: case("saturated, client and server", "us CPU/datagram", Better::Lower),
            rate: case("saturated, rate", "datagrams/s", Better::Higher),
            slow_cpu: case("20000/s", "us CPU/datagram", Better::Lower),
            p50: case("20000/s, p50", "us", Better::Lower),
            p99: case("20000/s, p99", "us", Better::Lower),
        }
    }
}

/// Runs everything and says how it goes through `say`.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let spaces = Spaces::new(&[CLIENT, SERVER]).context("make namespaces")?;
    let (client, server) = (format!("{CLIENT_ADDRESS}/24"), format!("{SERVER_ADDRESS}/24"));
    spaces.veth(
        End { space: CLIENT, device: CLIENT_DEVICE, address: &client, mac: "02:00:00:91:00:01" },
        End { space: SERVER, device: SERVER_DEVICE, address: &server, mac: "02:00:00:91:00:02" },
    )?;
    // Neighbours are known from the start: no server answers for the other.
    let known = |space, device, address: &str, mac| {
        spaces.ip(space, &["neigh", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent"])
    };
    known(CLIENT, CLIENT_DEVICE, &SERVER_ADDRESS.to_string(), "02:00:00:91:00:02")?;
    known(SERVER, SERVER_DEVICE, &CLIENT_ADDRESS.to_string(), "02:00:00:91:00:01")?;
    let tmp = tempfile::tempdir().context("make a directory")?;
    let program = std::env::current_exe().context("own path")?;
    let mut cases = Cases::new();
    for round in 0..options.rounds {
        for mode in Mode::ALL {
            let turn = Turn {
                spaces: &spaces,
                program: &program,
                log: tmp.path().join("server.log"),
                options,
                mode,
            };
            let line = turn.run(&mut cases).with_context(|| mode.subject())?;
            say(&format!("  round {} of {}: {line}", round + 1, options.rounds));
        }
    }
    let Cases { cpu, both, rate, slow_cpu, p50, p99 } = cases;
    Ok([cpu, both, rate, slow_cpu, p50, p99]
        .iter()
        .flat_map(|c| c.rows(GROUP, &[Mode::Interrupt.subject()]))
        .collect())
}

struct Turn<'a> {
    spaces: &'a Spaces,
    program: &'a Path,
    log: PathBuf,
    options: &'a Options,
    mode: Mode,
}

impl Turn<'_> {
    fn run(&self, cases: &mut Cases) -> Result<String> {
        let server = self.start()?;
        let name = self.mode.subject();
        // Also the warm-up.
        self.load(Some(RATE), 0.2)?;
        let (us, _, summary) = self.measure(&server, None)?;
        let client_us = number(&summary, "cpu_ns") / 1000.0 / number(&summary, "answered");
        cases.cpu.push(name, us);
        cases.both.push(name, us + client_us);
        cases.rate.push(name, number(&summary, "rate"));
        let (slow_us, lost, slow) = self.measure(&server, Some(RATE))?;
        if lost * 1000 > number(&slow, "sent") as u64 * LOST_ALLOWED {
            bail!("{lost} of {} datagrams lost at {RATE}/s", slow["sent"]);
        }
        cases.slow_cpu.push(name, slow_us);
        cases.p50.push(name, percentile(&slow, "p50"));
        cases.p99.push(name, percentile(&slow, "p99"));
        Ok(format!(
            "{name:18} saturated {us:6.2} us, {:7.0}/s; at {RATE}/s {slow_us:6.2} us, p50 {:5.1} us, p99 {:6.1} us",
            number(&summary, "rate"),
            percentile(&slow, "p50"),
            percentile(&slow, "p99")
        ))
    }

    fn start(&self) -> Result<Process> {
        let mut command = self.spaces.command(SERVER, self.program);
        let mode = clap::ValueEnum::to_possible_value(&self.mode).context("a mode without a name")?;
        command.args(["serve", "--mode", mode.get_name(), "--device", SERVER_DEVICE]);
        let process = Process::start(self.mode.subject(), command, self.options.server_cpu, &self.log)?;
        let started = Instant::now();
        while !process.last_words().contains("ready") {
            if started.elapsed() > READY_TIMEOUT {
                bail!("the server did not start: {}", process.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    /// Server's CPU per answer, us; datagrams lost; the client's summary.
    fn measure(&self, server: &Process, rate: Option<f64>) -> Result<(f64, u64, Value)> {
        let before = server.cpu_ns()?;
        let summary = self.load(rate, self.options.seconds)?;
        let spent = server.cpu_ns()? - before;
        let answered = number(&summary, "answered");
        if answered < 100.0 {
            bail!("only {answered} answers: {}", server.last_words());
        }
        Ok((spent as f64 / 1000.0 / answered, number(&summary, "lost") as u64, summary))
    }

    fn load(&self, rate: Option<f64>, seconds: f64) -> Result<Value> {
        let mut command = self.spaces.command(CLIENT, self.program);
        command.args([
            "load",
            "--cpu",
            &self.options.client_cpu.to_string(),
            "--seconds",
            &seconds.to_string(),
        ]);
        command.args(["--size", &SIZE.to_string()]);
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let output = command.output().context("run the client")?;
        if !output.status.success() {
            bail!("the client: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("the client's summary")
    }
}

/// The client's plan from the command line.
pub fn plan(rate: Option<f64>, seconds: f64, size: usize) -> Plan {
    let duration = Duration::from_secs_f64(seconds);
    Plan { local: CLIENT_ADDRESS, server: SERVER_ADDRESS, rate, duration, size }
}

fn number(summary: &Value, name: &str) -> f64 {
    summary[name].as_f64().unwrap_or(0.0)
}

fn percentile(summary: &Value, name: &str) -> f64 {
    summary["latency_us"][name].as_f64().unwrap_or(0.0)
}
