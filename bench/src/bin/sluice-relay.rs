//! Floors of a proxy and of a cache on this driver: relays or answers, and understands nothing.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use sluice_bench::relay::{Answerer, Relay};
use sluice_uring::ring::Options;
use sluice_uring::{Uring, sys};
use std::net::SocketAddr;

/// Relays every connection to one server, or sends one object for whatever is asked.
#[derive(Parser)]
#[command(name = "sluice-relay", version)]
struct Args {
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// Server to relay to.
    #[arg(long, required_unless_present = "answer")]
    to: Option<SocketAddr>,
    /// Path of the object to send (`/obj/key?size=N`) instead.
    #[arg(long, conflicts_with = "to")]
    answer: Option<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    sluice_bench::poll::raise_descriptor_limit()?;
    let stop = sluice_bench::poll::stop_flag()?;
    let mut ring = Uring::new(&Options::default()).context("set up the ring")?;
    let listener = sys::listen(args.listen, 4096).with_context(|| format!("listen on {}", args.listen))?;
    let listener = ring.adopt(listener).context("no room for the listener")?;
    if let Some(to) = args.to {
        return Ok(Relay::new(&mut ring, to).run(listener, &stop)?);
    }
    let target = args.answer.context("--to or --answer")?;
    let mut answerer = Answerer::new(&mut ring, &target).with_context(|| format!("{target} is no object"))?;
    Ok(answerer.run(listener, &stop)?)
}
