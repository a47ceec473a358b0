//! The proxy process; see the library.

#![forbid(unsafe_code)]

use clap::Parser;

fn main() -> anyhow::Result<()> {
    sluice_proxy::process::run(&sluice_proxy::process::Args::parse())
}
