//! Side-by-side measurements: `make bench GROUP=.. OUT=..`.

#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use sluice_bench::suite::row::Row;
use sluice_bench::suite::{Context, control, external, machine, proxy};
use std::path::PathBuf;

/// Measures Sluice beside public programs and writes results.json, a table and a picture per group.
#[derive(Parser)]
#[command(name = "sluice-bench", version)]
struct Args {
    /// What to measure.
    #[arg(long, value_enum, default_value = "all")]
    group: Group,
    /// Where the results go.
    #[arg(long, default_value = "out/bench")]
    out: PathBuf,
    /// Rounds of each case; the medians are compared.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Length of one turn of one program, s.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Every step once and short: shows that it runs, says nothing about speed.
    #[arg(long)]
    quick: bool,
    /// Katran's compiled balancer object, to be measured beside ours; the variable KATRAN_OBJ when absent.
    #[arg(long)]
    katran: Option<PathBuf>,
    /// Where our programs are; beside this one when absent.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    All,
    Xdp,
    Proxy,
    Cache,
    Control,
    Vmm,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Xdp => "xdp",
            Self::Proxy => "proxy",
            Self::Cache => "cache",
            Self::Control => "control",
            Self::Vmm => "vmm",
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    sluice_bench::poll::raise_descriptor_limit().context("raise the descriptor limit")?;
    let bin_dir = match &args.bin_dir {
        Some(dir) => dir.clone(),
        None => std::env::current_exe()?.parent().context("no directory of this program")?.to_owned(),
    };
    let (rounds, seconds) = if args.quick { (1, 0.3) } else { (usize::from(args.rounds), args.seconds) };
    let context = Context::new(&args.out, &bin_dir, rounds, seconds, args.quick)?;
    let machine = machine::describe(&context);
    machine::write(&context, &machine)?;
    let groups = match args.group {
        Group::All => vec![Group::Xdp, Group::Proxy, Group::Cache, Group::Control, Group::Vmm],
        one => vec![one],
    };
    let mut all = Vec::new();
    let mut failed = Vec::new();
    for group in groups {
        println!("group {}", group.name());
        match measure(&context, group, &args) {
            Ok(rows) => {
                context.write_group(group.name(), &rows, &machine::caption(&machine))?;
                all.extend(rows);
            }
            Err(e) if context.stop.load(std::sync::atomic::Ordering::Relaxed) => return Err(e),
            Err(e) => {
                eprintln!("group {} failed: {e:#}", group.name());
                failed.push(group.name());
            }
        }
    }
    let path = args.out.join("results.json");
    std::fs::write(&path, serde_json::to_string_pretty(&all)?).context("write results.json")?;
    println!("{} rows in {}", all.len(), path.display());
    if !failed.is_empty() {
        bail!("groups failed: {}", failed.join(", "));
    }
    Ok(())
}

fn measure(context: &Context, group: Group, args: &Args) -> Result<Vec<Row>> {
    match group {
        Group::Proxy => proxy::run(context),
        Group::Control => control::run(context),
        Group::Xdp => {
            let mut extra = vec!["--rounds".to_owned(), context.rounds.to_string()];
            let variable = std::env::var_os("KATRAN_OBJ").filter(|v| !v.is_empty()).map(PathBuf::from);
            if let Some(katran) = args.katran.clone().or(variable) {
                extra.extend(["--katran".to_owned(), katran.display().to_string()]);
            }
            if args.quick {
                extra.extend(["--repeat", "20000"].map(str::to_owned));
            }
            external::run(context, "xdp", "sluice-bench-xdp", &extra)
        }
        Group::Cache => {
            let mut extra = vec!["--rounds".to_owned(), context.rounds.to_string()];
            if args.quick {
                extra.extend(["--requests", "20000"].map(str::to_owned));
            }
            external::run(context, "cache", "sluice-bench-cache", &extra)
        }
        Group::Vmm => {
            println!("vmm: not yet");
            Ok(Vec::new())
        }
        Group::All => bail!("all is not one group"),
    }
}
