//! `sluice-vmm`: runs one VM. See `docs/vmm.md`.

#![forbid(unsafe_code)]

use clap::Parser;
use sluice_vmm::args::Args;
use sluice_vmm::config::{self, ConfigError, OnReset, Spec};
use sluice_vmm::vcpu::Outcome;
use sluice_vmm::vm::Vm;
use std::process::ExitCode;
use std::time::Duration;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const CRASHED: u8 = 3;
const STOPPED: u8 = 4;

fn main() -> ExitCode {
    let args = Args::parse();
    let stats = args.stats;
    let spec = match spec(args) {
        Ok(spec) => spec,
        Err(error) => {
            eprintln!("sluice-vmm: {error}");
            return ExitCode::from(USAGE);
        }
    };
    match run(&spec, stats) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice-vmm: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn spec(args: Args) -> Result<Spec, ConfigError> {
    let Some(path) = &args.config else { return config::check(args.document()) };
    match std::fs::read_to_string(path) {
        Ok(text) => config::parse(&text),
        Err(error) => {
            let reason = format!("cannot read {}: {error}", path.display());
            Err(ConfigError { field: "--config".to_owned(), reason })
        }
    }
}

/// Runs the VM, and again after a reset where the document says so.
fn run(spec: &Spec, stats: bool) -> Result<ExitCode, Box<dyn std::error::Error>> {
    loop {
        let vm = Vm::create(spec)?;
        vm.run();
        let outcome = loop {
            if let Some(outcome) = vm.wait(Duration::from_secs(3600)) {
                break outcome;
            }
        };
        if stats {
            let counters: serde_json::Map<_, _> =
                vm.counters().into_iter().map(|(name, n)| (name, n.into())).collect();
            eprintln!("{}", serde_json::Value::Object(counters));
        }
        let text = vm.debug_text();
        drop(vm);
        if !text.is_empty() {
            print!("{text}");
        }
        return Ok(match outcome {
            Outcome::PowerOff => ExitCode::SUCCESS,
            Outcome::Reset if spec.on_reset() == OnReset::Restart => continue,
            Outcome::Reset => ExitCode::SUCCESS,
            Outcome::DebugExit(code) => ExitCode::from(code),
            Outcome::Crashed(reason) => {
                eprintln!("sluice-vmm: {}: the guest crashed: {reason}", spec.name());
                ExitCode::from(CRASHED)
            }
            Outcome::Stopped => ExitCode::from(STOPPED),
        });
    }
}
