//! `sluice`: the operator's command.
//!
//! Reads the command line ([`args`]), speaks to a node's agent over its UNIX socket ([`client`]), prints for
//! people or for programs. Runs on one thread; the lab and `--watch` are the only commands that stay.

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod doctor;
mod exit;
mod lab;
mod programs;
mod table;
mod veth_pass;

use args::{Cli, Command, VmCommand};
use clap::{CommandFactory, Parser};
use exit::CommandResult;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sluice: cannot start: {error}");
            return ExitCode::from(exit::FAILED);
        }
    };
    match runtime.block_on(dispatch(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("sluice: {error}");
            error.exit()
        }
    }
}

async fn dispatch(cli: Cli) -> CommandResult {
    match &cli.command {
        Command::Run(pass) => programs::become_sibling("sluice-agent", &pass.args),
        Command::Proxy(pass) => programs::become_sibling("sluice-proxy", &pass.args),
        Command::Vm { command: VmCommand::Run(pass) } => programs::become_sibling("sluice-vmm", &pass.args),
        Command::Lab(args) => lab::run(args, &cli.global).await,
        Command::Apply(args) => commands::apply::apply(args, &cli.global).await,
        Command::Diff(args) => commands::apply::diff(args, &cli.global).await,
        Command::Delete(args) => commands::apply::delete(args, &cli.global).await,
        Command::Get(args) => commands::get::get(args, &cli.global).await,
        Command::Describe(args) => commands::get::describe(args, &cli.global).await,
        Command::Drain(args) => commands::act::drain(args, true, &cli.global).await,
        Command::Undrain(args) => commands::act::drain(args, false, &cli.global).await,
        Command::Stats(args) => commands::stats::run(args, &cli.global).await,
        Command::Trace(args) => commands::trace::run(args, &cli.global).await,
        Command::Purge(args) => commands::act::purge(args, &cli.global).await,
        Command::UpgradeProxy => commands::act::upgrade_proxy(&cli.global).await,
        Command::Doctor(args) => doctor::run(args, &cli.global),
        Command::VethPass(args) => veth_pass::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
            Ok(exit::OK)
        }
    }
}
