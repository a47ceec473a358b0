//! `sluice doctor`: what keeps packets from flowing on this machine, in plain words, with the command that
//! repairs it.
//!
//! [`collect`] looks, [`checks`] judges (pure), this module prints and, with `--fix`, runs the commands.

mod checks;
#[cfg(test)]
mod checks_tests;
mod collect;
mod facts;
mod segment;

use crate::args::{DoctorArgs, Global};
use crate::exit::{self, CommandResult};
use checks::{Finding, Intent, Level, check};
use serde_json::{Value, json};

/// One repair may uncover the next trouble (an MTU that was masked by a link that was down), not many.
const FIX_ROUNDS: usize = 4;

/// A repair that was run.
struct Applied {
    command: String,
    error: Option<String>,
}

/// Runs the command.
pub fn run(args: &DoctorArgs, global: &Global) -> CommandResult {
    let intent =
        Intent { ifaces: args.iface.clone(), expect_xdp: args.expect_xdp, expect_ipip: args.expect_ipip };
    let names = namespaces(args);
    let look = || -> Result<Vec<Finding>, anyhow::Error> {
        let facts = collect::collect(&names)?;
        Ok(check(&facts, &intent))
    };
    let mut findings = look()?;
    let mut applied = Vec::new();
    if args.fix {
        for _ in 0..FIX_ROUNDS {
            let round = apply(&findings, &applied);
            if round.is_empty() {
                break;
            }
            applied.extend(round);
            findings = look()?;
        }
    }
    if global.json() {
        println!("{}", document(&findings, &applied, &names));
    } else {
        print_sentences(&findings, &applied);
    }
    let problems = findings.iter().any(|f| f.level == Level::Problem);
    Ok(if problems { exit::FAILED } else { exit::OK })
}

fn namespaces(args: &DoctorArgs) -> Vec<Option<String>> {
    let mut names = if args.only_netns { Vec::new() } else { vec![None] };
    if args.netns.iter().any(|n| n == "all") {
        names.extend(collect::all_netns().into_iter().map(Some));
    } else {
        names.extend(args.netns.iter().cloned().map(Some));
    }
    names
}

/// Runs every repair of a problem that may run by itself and was not run before.
fn apply(findings: &[Finding], before: &[Applied]) -> Vec<Applied> {
    let mut round: Vec<Applied> = Vec::new();
    for finding in findings.iter().filter(|f| f.level == Level::Problem) {
        let Some(fix) = finding.fix.as_ref().filter(|f| f.automatic) else { continue };
        let command = fix.command();
        if before.iter().chain(&round).any(|a| a.command == command) {
            continue;
        }
        let error = execute(&fix.argv).err().map(|e| e.to_string());
        round.push(Applied { command, error });
    }
    round
}

fn execute(argv: &[String]) -> anyhow::Result<()> {
    let Some((program, rest)) = argv.split_first() else { anyhow::bail!("nothing to run") };
    // Repairs that are commands of ours run this very program, wherever it is installed.
    let program = if program == "sluice" { std::env::current_exe()? } else { program.into() };
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    crate::lab::netns::run(None, &program.to_string_lossy(), &rest)?;
    Ok(())
}

fn document(findings: &[Finding], applied: &[Applied], names: &[Option<String>]) -> Value {
    let one = |f: &Finding| {
        json!({
            "check": f.check,
            "level": f.level,
            "netns": f.place.as_ref().and_then(|p| p.netns.clone()),
            "interface": f.place.as_ref().map(|p| p.iface.clone()),
            "what": f.what,
            "fix": f.fix.as_ref().map(|x| x.command()),
            "fix_automatic": f.fix.as_ref().map(|x| x.automatic),
        })
    };
    let of = |level| findings.iter().filter(|f| f.level == level).map(one).collect::<Vec<_>>();
    json!({
        "healthy": !findings.iter().any(|f| f.level == Level::Problem),
        "problems": of(Level::Problem),
        "warnings": of(Level::Warning),
        "fixes_run": applied.iter().map(|a| json!({"command": a.command, "error": a.error})).collect::<Vec<_>>(),
        "namespaces": names,
    })
}

fn print_sentences(findings: &[Finding], applied: &[Applied]) {
    for a in applied {
        match &a.error {
            None => println!("ran      {}", a.command),
            Some(error) => println!("failed   {}: {error}", a.command),
        }
    }
    for f in findings {
        let level = if f.level == Level::Problem { "problem" } else { "warning" };
        let place = match &f.place {
            None => "machine".to_owned(),
            Some(p) => match &p.netns {
                None => p.iface.clone(),
                Some(netns) => format!("{} in namespace {netns}", p.iface),
            },
        };
        println!("{level}  {} ({place})\n         {}", f.check, f.what);
        if let Some(fix) = &f.fix {
            println!("         fix: {}", fix.command());
        }
    }
    let problems = findings.iter().filter(|f| f.level == Level::Problem).count();
    match problems {
        0 => println!("no problem found, {} warnings", findings.len()),
        n => println!("{n} problems, {} warnings", findings.len() - n),
    }
}
