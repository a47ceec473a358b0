//! `sluice-bench-cache`: miss ratios of eviction policies, and what lookups cost.

use anyhow::{Context as _, Result};
use clap::Parser;
use sluice_bench::cache::{miss_ratios, speed};
use sluice_bench::suite::row::table;
use std::path::PathBuf;

/// Compares the store, the route table and the ring with public crates and with bounds.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Requests of the synthetic trace.
    #[arg(long, default_value_t = 600_000)]
    requests: usize,
    /// Seed of the trace.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Interleaved rounds of each timing.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Where to write the rows.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut rows = miss_ratios(args.requests, args.seed)?;
    rows.extend(speed::store_hits(args.rounds)?);
    rows.extend(speed::routes(args.rounds)?);
    rows.extend(speed::ring(args.rounds)?);
    print!("{}", table("cache", &rows, &[]));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
