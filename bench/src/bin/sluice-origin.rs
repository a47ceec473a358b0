//! A deterministic HTTP/1.1 origin for tests and measurements.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use sluice_bench::origin::{Config, Origin, Stats, udp_echo};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// Serves `/obj/{key}?size=N&ttl=S&cc=..&vary=..&etag=1&lm=1&v=..&delay_ms=N&chunked=1&status=N&close=1&cut=N`:
/// the body is a function of the key and the offset. `/.origin/stats?top=N` tells what was asked.
#[derive(Parser)]
#[command(name = "sluice-origin", version)]
struct Args {
    /// Address to listen on; repeat for several. It need not be configured yet.
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "udp_echo")]
    listen: Vec<SocketAddr>,
    /// Sent as X-Served-By.
    #[arg(long, default_value = "origin")]
    name: String,
    /// Answer datagrams sent here with the name, a line feed and what was sent; repeat for several.
    #[arg(long, value_name = "ADDR:PORT")]
    udp_echo: Vec<SocketAddr>,
    /// Serving threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Pin the threads to CPUs from this one on.
    #[arg(long)]
    cpu: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    sluice_bench::poll::raise_descriptor_limit().context("raise the descriptor limit")?;
    let stop = sluice_bench::poll::stop_flag()?;
    for address in args.udp_echo.clone() {
        let name = args.name.clone();
        std::thread::spawn(move || {
            if let Err(e) = udp_echo(address, &name) {
                eprintln!("sluice-origin: udp-echo {address}: {e}");
                std::process::exit(1);
            }
        });
    }
    let stats = Arc::new(Mutex::new(Stats::default()));
    let config = Config { listen: args.listen, name: args.name };
    let threads: Vec<_> = (0..usize::from(args.threads))
        .map(|index| {
            let (config, stats, stop) = (config.clone(), stats.clone(), stop.clone());
            let cpu = args.cpu.map(|first| first + index);
            std::thread::spawn(move || -> Result<()> {
                if let Some(cpu) = cpu {
                    sluice_bench::poll::pin(cpu).with_context(|| format!("pin to CPU {cpu}"))?;
                }
                let mut origin = Origin::new(config, stats)?;
                if index == 0 {
                    for address in origin.addresses() {
                        println!("listening on {address}");
                    }
                }
                Ok(origin.run(&stop)?)
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a serving thread panicked"))??;
    }
    Ok(())
}
