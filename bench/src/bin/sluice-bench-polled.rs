//! `sluice-bench-polled`: polled I/O beside the interrupt-driven default, over veth.

#![forbid(unsafe_code)]

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use sluice_bench::poll::{pin, stop_flag};
use sluice_bench::polled::run::{CLIENT_ADDRESS, Options, SERVER_ADDRESS, plan, run};
use sluice_bench::polled::{Mode, echo, load, xsk};
use sluice_uring::ring::Poll;
use std::io::Write as _;
use std::path::PathBuf;

/// Measures a datagram echo by interrupt, SQPOLL, NAPI busy poll and AF_XDP.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Interleaved rounds; medians count.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Length of one turn, s.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Processor of the server.
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// Processor of the client.
    #[arg(long, default_value_t = 1)]
    client_cpu: usize,
    /// Where to write the rows as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What a measuring run starts.
#[derive(Subcommand)]
enum Part {
    /// The server, in its namespace.
    Serve {
        /// How it learns of datagrams.
        #[arg(long, value_enum)]
        mode: Mode,
        /// The device, for AF_XDP.
        #[arg(long)]
        device: String,
    },
    /// The client, in its namespace; prints a summary.
    Load {
        /// Datagrams a second; as many as come back when absent.
        #[arg(long)]
        rate: Option<f64>,
        /// Length of the run, s.
        #[arg(long)]
        seconds: f64,
        /// Bytes of a datagram.
        #[arg(long)]
        size: usize,
        /// Processor to run on.
        #[arg(long)]
        cpu: usize,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.part {
        None => measure(&args),
        Some(Part::Serve { mode, device }) => {
            let stop = stop_flag()?;
            let sockets = |poll| echo::serve(poll, SERVER_ADDRESS, CLIENT_ADDRESS, &stop, ready);
            match mode {
                Mode::Interrupt => sockets(Poll::Interrupt),
                Mode::Sqpoll => sockets(Poll::Sqpoll),
                Mode::Napi => sockets(Poll::Napi),
                Mode::AfXdp => xsk::serve(&device, false, &stop, ready),
                Mode::AfXdpSpin => xsk::serve(&device, true, &stop, ready),
            }
        }
        Some(Part::Load { rate, seconds, size, cpu }) => {
            pin(cpu)?;
            println!("{}", load::run(plan(rate, seconds, size))?);
            Ok(())
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: poll modes need root");
        return Ok(());
    }
    let Args { rounds, seconds, server_cpu, client_cpu, .. } = *args;
    let rows = run(&Options { rounds, seconds, server_cpu, client_cpu }, &mut |line| println!("{line}"))?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn ready() {
    println!("ready");
    // The starter reads it from a file.
    let _flushed = std::io::stdout().flush();
}
