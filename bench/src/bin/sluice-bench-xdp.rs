//! `sluice-bench-xdp`: nanoseconds per packet of the balancer, beside floors and Katran's own object.

use anyhow::{Context as _, Result};
use clap::Parser;
use sluice_bench::xdp::run::{Options, run};
use std::path::PathBuf;

/// Measures XDP programs by BPF_PROG_TEST_RUN, interleaved, medians, a null program subtracted.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Packets of one figure.
    #[arg(long, default_value_t = 1_000_000)]
    repeat: u32,
    /// Katran's object (plain IPIP build).
    #[arg(long)]
    katran: Option<PathBuf>,
    /// The same with its new-connection guard off.
    #[arg(long)]
    katran_norate: Option<PathBuf>,
    /// Processor to run on.
    #[arg(long, default_value_t = 1)]
    cpu: u32,
    /// Only rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Where to write the rows as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    let options = Options {
        rounds: args.rounds,
        repeat: args.repeat,
        katran: args.katran,
        katran_norate: args.katran_norate,
        cpu: args.cpu,
        only: args.only,
    };
    let rows = run(&options, &mut |line| println!("{line}"))?;
    if let Some(path) = args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
