//! The machine a run was made on: without it the figures mean nothing.

use super::Context;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// What there is to know.
pub fn describe(context: &Context) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
    let memory = read("/proc/meminfo");
    let memory_kib = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    json!({
        "cpu": model.trim_start_matches([':', ' ', '\t']),
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "memory_bytes": memory_kib.map(|kib| kib * 1024),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": read("/proc/loadavg").trim(),
        "virtual": cpuinfo.contains("hypervisor"),
        "rounds": context.rounds,
        "seconds_per_turn": context.seconds,
        "quick": context.quick,
        "subject_cpu": context.subject_cpu,
        "load_cpu": context.load_cpu,
        "versions": {
            "sluice": env!("CARGO_PKG_VERSION"),
            "nginx": version("nginx", &["-v"]),
            "haproxy": version("haproxy", &["-v"]),
        },
    })
}

/// First line a program says about itself; absent: not installed.
fn version(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8(text).ok()?.lines().next().map(str::to_owned)
}

/// One line for the pictures.
pub fn caption(machine: &Value) -> String {
    let text = |name: &str| machine[name].as_str().unwrap_or("?").to_owned();
    format!(
        "{}{}, {} CPUs, Linux {}, load {}",
        text("cpu"),
        if machine["virtual"] == true { " (virtual)" } else { "" },
        machine["cpus"],
        text("kernel"),
        text("load_average").split(' ').next().unwrap_or("?")
    )
}

/// Writes `machine.json`.
pub fn write(context: &Context, machine: &Value) -> Result<()> {
    let path = context.out.join("machine.json");
    fs::write(&path, serde_json::to_string_pretty(machine)?)
        .with_context(|| format!("write {}", path.display()))
}
