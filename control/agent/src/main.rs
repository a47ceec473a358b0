//! `sluice-agent`: options, threads, signals. Everything else is in the library.
//!
//! Threads: `main` runs the API, `probes` the health checks, `engine` owns the state, `links` hears of neighbours, `source` watches the directory, and one
//! watcher per proxy process. SIGTERM and SIGINT end the agent and leave the node as it is: XDP forwards on,
//! the proxy serves on, and the next agent adopts both.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use sluice_agent::clock::SystemClock;
use sluice_agent::driver::{Handle, Input, Queue};
use sluice_agent::engine::{Config, Engine};
use sluice_agent::host::Host;
use sluice_agent::host::linux::{Announce, Bird, LinuxConfig, LinuxHost, OnEnd, Supervisor, watch};
use sluice_agent::ledger::Ledger;
use sluice_agent::{http, probe, sources};
use sluice_loader::AttachMode;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

/// The node agent of Sluice: makes a node what its placement documents say.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluice-agent", version)]
struct Args {
    /// Name of this node in the documents.
    #[arg(long)]
    node: String,
    /// Directory of placement documents (*.yaml, *.yml, *.json), watched.
    #[arg(long, value_name = "DIR")]
    placements: PathBuf,
    /// Directory for ledger, proxy record, sockets and log.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// UNIX socket of the REST API.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Interface that packets of VIPs come in on; needed to balance or to decapsulate.
    #[arg(long, value_name = "IFACE")]
    iface: Option<String>,
    /// Directory of pinned maps and links, on a bpffs (mounted there when it is not one).
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/sluice")]
    pin_dir: PathBuf,
    /// How XDP programs are attached; generic is never chosen by itself.
    #[arg(long, value_enum, default_value = "native")]
    xdp_mode: XdpMode,
    /// Where addresses of balanced VIPs are put: on the interface (it answers ARP for them), on loopback (a
    /// router sends them here), or nowhere.
    #[arg(long, value_enum, default_value = "iface")]
    announce: AnnounceArg,
    /// Program file of the proxy; by default `sluice-proxy` beside this program.
    #[arg(long, value_name = "PATH")]
    proxy_bin: Option<PathBuf>,
    /// Workers of the proxy; by default one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// Run no proxy, whatever the documents say.
    #[arg(long)]
    no_proxy: bool,
    /// File of 8 or more bytes that balancers of the same VIPs share, so that they agree on every flow; by
    /// default one made up and kept in the state directory.
    #[arg(long, value_name = "PATH")]
    secret_file: Option<PathBuf>,
    /// Backends the kernel table has room for, when it is made.
    #[arg(long, default_value_t = sluice_abi::BACKENDS_DEFAULT)]
    backends_max: u32,
    /// VIPs the kernel table has room for, when it is made.
    #[arg(long, default_value_t = sluice_abi::VIPS_DEFAULT)]
    vips_max: u32,
    /// Buckets of 8 flows, a power of two, when the flow table is made.
    #[arg(long, default_value_t = sluice_abi::FLOW_BUCKETS_DEFAULT)]
    flow_buckets: u32,
    /// Outer source of 4in4; its low 16 bits vary with the flow.
    #[arg(long, value_name = "ADDR")]
    outer_source: Option<Ipv4Addr>,
    /// Outer source of 6in6 and 4in6; its low 16 bits vary with the flow.
    #[arg(long, value_name = "ADDR")]
    outer_source6: Option<Ipv6Addr>,
    /// Echo replies, and again too-big messages, that each processor makes for VIPs a second; 0: none.
    #[arg(long, value_name = "N", default_value_t = sluice_abi::icmp::PER_SECOND_DEFAULT)]
    icmp_per_second: u32,
    /// Control socket of BIRD, which announces VIPs that say `announce: true`.
    #[arg(long, value_name = "PATH", default_value = "/run/bird/bird.ctl")]
    bird_socket: PathBuf,
    /// File of static routes that this agent writes and BIRD's configuration includes; without it nothing is
    /// announced.
    #[arg(long, value_name = "PATH")]
    bird_include: Option<PathBuf>,
    /// Directory of programs for `script` health checks, writable to its owner alone. They run as nobody.
    #[arg(long, value_name = "DIR")]
    health_scripts: Option<PathBuf>,
    /// PEM file of authorities that `https` checks with `verify: ca` trust; by default the system's.
    #[arg(long, value_name = "PATH")]
    health_ca: Option<PathBuf>,
    /// Take everything off this node (XDP, pins, addresses, proxy) and end. The ledger and the documents stay.
    #[arg(long)]
    release: bool,
}

/// Longest wait for the engine's thread at the end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum XdpMode {
    Native,
    Generic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AnnounceArg {
    Iface,
    Lo,
    None,
}

type Engines = Handle<LinuxHost>;

fn main() -> Result<()> {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    private_directory(&args.state).with_context(|| format!("make {}", args.state.display()))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let ended = runtime.block_on(run(args));
    // The engine may be in the middle of a long step (a program being verified); steps are safe to cut.
    runtime.shutdown_timeout(END_TIMEOUT);
    ended
}

/// Makes the directory, or takes it as it is but for its mode: ledger, secret and admin sockets are root's alone.
fn private_directory(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o7777), "others could enter the state directory: closed to them");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

async fn run(args: Args) -> Result<()> {
    // The ledger's lock comes first: a second agent on this state stops here.
    let path = args.state.join("ledger.redb");
    let (ledger, opened) = Ledger::open(&path)?;
    let clock = SystemClock::start();
    let queue = Queue::new();
    let sender = queue.sender();
    let links = queue.sender();
    let routes_dirty = watch::Dirty::default();
    let on_end: OnEnd = Arc::new(move |pid| drop(sender.send(Input::ProxyEnded(pid))));
    let host = LinuxConfig {
        iface: args.iface.clone(),
        attach: attach_mode(args.xdp_mode),
        balancer: balancer_config(&args)?,
        state: args.state.clone(),
        announce: if args.announce == AnnounceArg::Lo { Announce::Loopback } else { Announce::Interface },
        proxies: supervisor(&args, on_end)?,
        bird: args.bird_include.clone().map(|include| Bird::new(args.bird_socket.clone(), include)),
        routes_dirty: Arc::clone(&routes_dirty),
    };
    if args.release {
        return release(LinuxHost::new(host));
    }
    let config = Config {
        node: args.node.clone(),
        announce: args.announce != AnnounceArg::None,
        with_proxy: !args.no_proxy,
        placements: Some(args.placements.clone()),
    };
    let start = move || {
        let host = LinuxHost::new(host);
        Engine::start(config, Box::new(clock), ledger, &opened, host).map_err(anyhow::Error::from)
    };
    let (engine, thread) = queue.run(clock, start)?;
    let changed = move || links.send(Input::LinksChanged).is_ok();
    if let Err(error) = watch::start(routes_dirty, changed) {
        tracing::warn!(%error, "changes of neighbours and routes cannot be heard of; they are found by looking");
    }
    watch_directory(&args.placements, clock, engine.clone())?;
    let ended = serve(&args, engine, thread).await;
    drop(std::fs::remove_file(&args.socket));
    ended
}

fn attach_mode(mode: XdpMode) -> AttachMode {
    match mode {
        XdpMode::Native => AttachMode::Native,
        XdpMode::Generic => AttachMode::Generic,
    }
}

fn balancer_config(args: &Args) -> Result<sluice_loader::Config> {
    let mut config = sluice_loader::Config::new(&args.pin_dir, Vec::new());
    config.backends = args.backends_max;
    config.vips = args.vips_max;
    config.flow_buckets = args.flow_buckets;
    config.secret = secret(args)?;
    config.icmp_per_second = args.icmp_per_second;
    config.outer_src4 = args.outer_source.unwrap_or(config.outer_src4);
    config.outer_src6 = args.outer_source6.unwrap_or(config.outer_src6);
    Ok(config)
}

/// The first eight bytes of the secret's file, made up when no file is named and none was made before.
fn secret(args: &Args) -> Result<u64> {
    let (path, make) = match &args.secret_file {
        Some(path) => (path.clone(), false),
        None => (args.state.join("secret"), true),
    };
    if make && !path.exists() {
        let mut bytes = [0; 8];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut f| f.read_exact(&mut bytes))
            .context("read /dev/urandom")?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
    }
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    match bytes.first_chunk::<8>() {
        Some(chunk) => Ok(u64::from_le_bytes(*chunk)),
        None => bail!("{} has fewer than 8 bytes", path.display()),
    }
}

fn supervisor(args: &Args, on_end: OnEnd) -> Result<Option<Supervisor>> {
    if args.no_proxy {
        return Ok(None);
    }
    let program = match &args.proxy_bin {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("find this program")?.with_file_name("sluice-proxy"),
    };
    Ok(Some(Supervisor::new(program, args.node.clone(), args.workers, args.state.clone(), on_end)))
}

fn release(mut host: LinuxHost) -> Result<()> {
    // Adopting tells what runs here; a layout that cannot be adopted is still removed.
    if let Err(error) = host.adopt() {
        eprintln!("not adopted before removal: {error}");
    }
    let errors = host.release();
    for error in &errors {
        eprintln!("{error}");
    }
    if errors.is_empty() { Ok(()) } else { bail!("{} things could not be removed", errors.len()) }
}

fn watch_directory(path: &Path, clock: SystemClock, engine: Engines) -> Result<()> {
    let path = path.to_owned();
    let deliver = Box::new(move |events, seen_us| drop(engine.send(Input::Source(events, seen_us))));
    let watch = move || sources::directory::watch(path, clock, deliver);
    std::thread::Builder::new().name("source".to_owned()).spawn(watch).context("start the source thread")?;
    Ok(())
}

fn means(args: &Args) -> Result<probe::Means> {
    let authorities = match &args.health_ca {
        Some(path) => Some(path.as_path()),
        None => Some(Path::new(probe::tls::CA_FILE)).filter(|path| path.exists()),
    };
    let tls = probe::tls::Clients::new(authorities)?;
    let scripts = probe::script::Scripts::new(args.health_scripts.as_deref())?;
    Ok(probe::Means { tls, scripts })
}

fn start_prober(
    targets: tokio::sync::watch::Receiver<probe::Targets>,
    means: probe::Means,
    report: probe::Report,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = move || runtime.block_on(probe::run(targets, means, report));
    std::thread::Builder::new().name("probes".to_owned()).spawn(body).context("start the probes' thread")?;
    Ok(())
}

async fn serve(args: &Args, engine: Engines, thread: std::thread::JoinHandle<()>) -> Result<()> {
    let probes = engine.clone();
    let report: probe::Report = Arc::new(move |told| {
        let input = match told {
            probe::Told::Result(target, outcome) => Input::Probe(target, outcome),
            probe::Told::Waited => Input::ProbeWaited,
        };
        probes.send(input).is_ok()
    });
    start_prober(engine.targets.clone(), means(args)?, report)?;
    let listener = bind(&args.socket)?;
    let router = http::router(engine.clone());
    let served = tokio::spawn(async move { axum::serve(listener, router).await });
    tracing::info!(node = args.node, socket = %args.socket.display(), "sluice-agent ready");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = tokio::task::spawn_blocking(move || thread.join());
    tokio::select! {
        _ = terminate.recv() => drop(engine.send(Input::Stop)),
        _ = interrupt.recv() => drop(engine.send(Input::Stop)),
        joined = ended => {
            // After a release; or a fault of the engine, which must not pass for an orderly end.
            if joined.is_err() || joined.is_ok_and(|thread| thread.is_err()) {
                bail!("the engine's thread panicked");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        result = served => bail!("the API ended: {result:?}"),
    }
    Ok(())
}

/// Binds the API's socket, replacing a file nobody serves.
fn bind(path: &Path) -> Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("another process serves {}", path.display());
    }
    drop(std::fs::remove_file(path));
    let listener = UnixListener::bind(path).with_context(|| format!("bind {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).context("protect the socket")?;
    Ok(listener)
}
