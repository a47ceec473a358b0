//! Open-loop load generator.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use sluice_bench::load::plan::{self, Keys, Mode, Plan, Sizes};
use sluice_bench::load::report::{self, Output};
use sluice_bench::load::response::NamedBy;
use sluice_bench::load::udp::{self, UdpPlan};
use sluice_bench::{load, poll};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Sends HTTP/1.1 requests at intended times and measures latency from those times.
#[derive(Parser)]
#[command(
    name = "sluice-load",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    http: Http,
}

#[derive(Subcommand)]
enum Command {
    /// Ask over many UDP flows and check that each flow stays with one server.
    Udp(Udp),
    /// Open connections, keep them, and ask over them now and then: none may break.
    TcpHold(TcpHold),
}

#[derive(Args)]
struct Http {
    /// URL to ask for; repeat for several, asked for in turn.
    #[arg(long, required_unless_present = "url_template")]
    url: Vec<String>,
    /// URL with {key}, {size} and {n}; repeat for several.
    #[arg(long)]
    url_template: Vec<String>,
    /// Keys of a template.
    #[arg(long, default_value_t = 1000)]
    keys: usize,
    /// Popularity of the keys falls with this exponent; 0: all alike.
    #[arg(long, default_value_t = 0.9)]
    zipf: f64,
    /// Object sizes: small, cdn, 4k, 1k..1m.
    #[arg(long, default_value = "1k")]
    sizes: Sizes,
    /// Requests a second, all together.
    #[arg(long, conflicts_with = "saturate", required_unless_present = "saturate")]
    rate: Option<f64>,
    /// Every connection sends as soon as it can.
    #[arg(long)]
    saturate: bool,
    /// Exponential instead of equal gaps.
    #[arg(long)]
    poisson: bool,
    /// `Connection: close` on every request.
    #[arg(long)]
    new_connection: bool,
    /// GET,HEAD or GET:9,HEAD:1.
    #[arg(long, default_value = "GET")]
    methods: String,
    /// Body of POST, PUT and PATCH, bytes.
    #[arg(long, default_value_t = 0)]
    request_body: usize,
    /// Send an idempotent request once more when its reused connection was closed before the answer began.
    #[arg(long)]
    retry_stale: bool,
    /// Further tries of a failed connect.
    #[arg(long, default_value_t = 0)]
    connect_retries: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    /// Connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Seconds in which requests start.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// No more requests than these.
    #[arg(long)]
    requests: Option<u64>,
    /// A request or connect that takes longer failed.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
    /// Wait after a failed connect.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    connect_backoff_ms: u64,
    /// `Host` instead of the URL's; {key} and {n} may stand in it.
    #[arg(long)]
    host: Option<String>,
    /// Connect here instead of to the URL's host.
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Local address; repeat for several (28,000 connections each to one server).
    #[arg(long)]
    source: Vec<IpAddr>,
    /// Further field, 'Name: value'; repeat for several.
    #[arg(long)]
    header: Vec<String>,
    /// Compare every 200 with what sluice-origin must have sent.
    #[arg(long)]
    verify: bool,
    /// Field that names the server: auto (Via, else X-Served-By), via, or a field name.
    #[arg(long, default_value = "auto")]
    served_by: NamedBy,
    /// Seed of arrivals, keys and methods.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Pin threads to CPUs from this one on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Write the whole latency histogram here.
    #[arg(long)]
    histogram: Option<PathBuf>,
    /// Lines to read or JSON.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Args)]
struct TcpHold {
    /// URL asked for over each connection.
    #[arg(long, required = true)]
    url: Vec<String>,
    /// Time between two requests of one connection.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    interval_ms: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Udp {
    /// Server, or virtual IP.
    #[arg(long)]
    target: SocketAddr,
    /// Flows, each a socket of its own.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    flows: u32,
    /// Requests a second over all flows.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Seconds in which requests start.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Wait for late answers.
    #[arg(long, default_value_t = 500)]
    linger_ms: u64,
    /// Length of a request, bytes.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=60_000))]
    size: u32,
    /// Lines to read or JSON.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    poll::raise_descriptor_limit().context("raise the descriptor limit")?;
    match cli.command {
        None => http(cli.http),
        Some(Command::TcpHold(hold)) => tcp_hold(hold),
        Some(Command::Udp(args)) => udp_load(&args),
    }
}

fn http(args: Http) -> Result<()> {
    let mode = match args.rate {
        Some(rate) => Mode::Open { rate: positive("rate", rate)?, poisson: args.poisson },
        None => Mode::Saturate,
    };
    if args.keys == 0 || args.keys > plan::KEYS_MAX || !(0.0..=10.0).contains(&args.zipf) {
        bail!("--keys is 1..={} and --zipf 0..=10", plan::KEYS_MAX);
    }
    let urls: Vec<_> = args.url.iter().chain(&args.url_template).collect();
    let mut plan = base(&args.common, &urls, mode)?;
    plan.keys = Keys::new(args.keys, args.zipf, args.sizes);
    plan.methods = plan::methods(&args.methods)?;
    plan.request_body = args.request_body;
    plan.new_connection = args.new_connection;
    plan.retry_stale = args.retry_stale;
    plan.connect_retries = args.connect_retries;
    finish(&plan, &args.common)
}

fn tcp_hold(args: TcpHold) -> Result<()> {
    let rate = f64::from(args.common.connections) * 1000.0 / args.interval_ms as f64;
    let urls: Vec<_> = args.url.iter().collect();
    let mut plan = base(&args.common, &urls, Mode::Open { rate, poisson: false })?;
    plan.hold = true;
    finish(&plan, &args.common)
}

fn base(common: &Common, urls: &[&String], mode: Mode) -> Result<Plan> {
    let mut targets = Vec::new();
    for url in urls {
        plan::add_url(&mut targets, url, common.connect, common.host.as_deref())?;
    }
    let fields = common.header.iter().map(|line| {
        let (name, value) = line.split_once(':').with_context(|| format!("{line:?} is no field"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    });
    Ok(Plan {
        targets,
        sources: common.source.iter().map(|&ip| (ip, 0).into()).collect(),
        mode,
        connections: common.connections as usize,
        threads: usize::from(common.threads).min(common.connections as usize),
        duration: Duration::from_secs_f64(positive("duration", common.duration)?),
        requests: common.requests,
        timeout: Duration::from_millis(common.timeout_ms),
        new_connection: false,
        methods: vec![("GET".to_owned(), 1)],
        fields: fields.collect::<Result<_>>()?,
        request_body: 0,
        verify: common.verify,
        named_by: common.served_by.clone(),
        hold: false,
        retry_stale: false,
        connect_retries: 0,
        connect_backoff: Duration::from_millis(common.connect_backoff_ms),
        seed: common.seed,
        cpu: common.cpu,
        keys: Keys::new(1, 0.0, Sizes::Fixed(1024)),
    })
}

fn finish(plan: &Plan, common: &Common) -> Result<()> {
    let stop = poll::stop_flag()?;
    let totals = load::run(plan, common.output, &stop)?;
    if let Some(path) = &common.histogram {
        let text = report::histogram_text(&totals.counts.latency_ns)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    report::print_summary(plan, common.output, &totals);
    Ok(())
}

fn udp_load(args: &Udp) -> Result<()> {
    let plan = UdpPlan {
        target: args.target,
        flows: args.flows as usize,
        rate: positive("rate", args.rate)?,
        duration: Duration::from_secs_f64(positive("duration", args.duration)?),
        linger: Duration::from_millis(args.linger_ms),
        size: args.size as usize,
    };
    let stop = poll::stop_flag()?;
    let totals = udp::run(&plan, &stop)?;
    let summary = totals.summary(&plan);
    match args.output {
        Output::Json => println!("{summary}"),
        Output::Text => println!(
            "{} flows, {} sent, {} answered, {} lost, {} flows moved, {} silent; latency us {}; served by {}",
            plan.flows,
            totals.sent,
            totals.answered,
            summary["lost"],
            totals.moved,
            totals.silent,
            summary["latency_us"],
            summary["served_by"]
        ),
    }
    Ok(())
}

fn positive(name: &str, value: f64) -> Result<f64> {
    if value > 0.0 && value <= 1e9 { Ok(value) } else { bail!("--{name} {value} is not above 0") }
}
