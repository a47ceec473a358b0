//! Runs `sluice-load` as a process of its own and reads its summary.

use super::Context;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// What one load run is.
#[derive(Clone, Debug)]
pub struct Load {
    /// Server.
    pub address: SocketAddr,
    /// Path and query; `{key}` and `{n}` may stand in it.
    pub path: String,
    /// Host field; the address when absent.
    pub host: Option<String>,
    /// Connections.
    pub connections: u32,
    /// Requests a second; absent: saturate.
    pub rate: Option<f64>,
    /// `Connection: close`.
    pub new_connection: bool,
    /// Length, s.
    pub seconds: f64,
}

/// The summary of a run.
#[derive(Clone, Debug)]
pub struct Summary(pub Value);

impl Load {
    /// A saturating run over kept connections.
    pub fn saturate(address: SocketAddr, path: &str, seconds: f64) -> Self {
        Self {
            address,
            path: path.to_owned(),
            host: None,
            connections: 64,
            rate: None,
            new_connection: false,
            seconds,
        }
    }

    fn command(&self, context: &Context) -> Command {
        let mut command = Command::new(context.bin("sluice-load"));
        command.arg("--url-template").arg(format!("http://{}{}", self.address, self.path));
        command.args(["--output", "json", "--verify", "--keys", "1"]);
        command.args(["--connections", &self.connections.to_string()]);
        command.args(["--duration", &self.seconds.to_string()]);
        command.args(["--cpu", &context.load_cpu.to_string()]);
        match self.rate {
            Some(rate) => command.args(["--rate", &rate.to_string()]),
            None => command.arg("--saturate"),
        };
        if let Some(host) = &self.host {
            command.args(["--host", host]);
        }
        if self.new_connection {
            command.arg("--new-connection");
        }
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        command
    }

    /// Runs to the end. Errors of more than one request in a thousand make the figure worthless: the run fails.
    pub fn run(&self, context: &Context) -> Result<Summary> {
        let output = self.command(context).output().context("run sluice-load")?;
        if !output.status.success() {
            bail!("sluice-load: {}", output.status);
        }
        let text = String::from_utf8(output.stdout).context("the output of sluice-load")?;
        let last = text.lines().last().context("sluice-load said nothing")?;
        let summary = Summary(serde_json::from_str(last).context("the summary of sluice-load")?);
        if summary.good() == 0 || summary.errors() * 1000 > summary.good() {
            bail!(
                "{} of {} requests failed: {}",
                summary.errors(),
                summary.requests(),
                summary.0["errors_by_class"]
            );
        }
        Ok(summary)
    }

    /// Starts a run that goes on beside; the caller ends or waits for it.
    pub fn spawn_hold(&self, context: &Context, interval_ms: u64) -> Result<std::process::Child> {
        let mut command = Command::new(context.bin("sluice-load"));
        command.args(["tcp-hold", "--url", &format!("http://{}{}", self.address, self.path)]);
        command.args(["--output", "json", "--connections", &self.connections.to_string()]);
        command.args(["--duration", &self.seconds.to_string(), "--interval-ms", &interval_ms.to_string()]);
        command.args(["--cpu", &context.load_cpu.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().context("start sluice-load tcp-hold")
    }
}

impl Summary {
    fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or(0)
    }

    /// Requests answered well.
    pub fn good(&self) -> u64 {
        self.number("good")
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.number("requests")
    }

    /// Failed requests.
    pub fn errors(&self) -> u64 {
        self.number("errors")
    }

    /// Answers a second.
    pub fn rps(&self) -> f64 {
        self.0["rps"].as_f64().unwrap_or(0.0)
    }

    /// A percentile of the latency, us.
    pub fn latency_us(&self, percentile: &str) -> f64 {
        self.0["latency_us"][percentile].as_f64().unwrap_or(0.0)
    }
}
