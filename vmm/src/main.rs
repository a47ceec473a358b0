//! `sluice-vmm`: runs one VM. See `docs/vmm.md`.

#![forbid(unsafe_code)]

use clap::Parser;
use sluice_vmm::args::Args;
use sluice_vmm::config::{self, ConfigError, Spec};
use sluice_vmm::supervise;
use sluice_vmm::vcpu::Outcome;
use sluice_vmm::vm::VmError;
use std::process::ExitCode;

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

fn run(spec: &Spec, stats: bool) -> Result<ExitCode, VmError> {
    let ended = supervise::run(spec)?;
    if stats {
        let counters: serde_json::Map<_, _> =
            ended.counters.into_iter().map(|(name, n)| (name, n.into())).collect();
        eprintln!("{}", serde_json::Value::Object(counters));
    }
    print!("{}", ended.debug_text);
    Ok(match ended.outcome {
        Outcome::PowerOff | Outcome::Reset => ExitCode::SUCCESS,
        Outcome::DebugExit(code) => ExitCode::from(code),
        Outcome::Crashed(reason) => {
            eprintln!("sluice-vmm: {}: the guest crashed: {reason}", spec.name());
            ExitCode::from(CRASHED)
        }
        Outcome::Stopped => ExitCode::from(STOPPED),
    })
}
