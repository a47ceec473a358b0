//! The process: command line, start, signals, end.

use crate::admin::{Admin, Notice};
use crate::control::Order;
use crate::handover;
use crate::limits::Tuning;
use crate::runtime::{Ended, Options, Shared};
use crate::worker::Mode;
use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use sluice_api::placement::{Origin, Route, Site};
use sluice_api::proxy_admin::Apply;
use sluice_uring::ring::Poll;
use sluice_uring::sys::{self, Signals};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Name of the site and origin of `--to`.
const DEFAULT_ORIGIN: &str = "default";
/// Smallest cache that can hold anything of use, bytes.
const CACHE_BYTES_MIN: u64 = 1 << 20;
/// Workers at most: one per core of the largest machines, with room.
const WORKERS_MAX: usize = 1024;

/// A caching reverse proxy on io_uring.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluice-proxy", version, args_override_self = true)]
pub struct Args {
    /// Address and port to listen on; may be given more than once.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Serve all hosts from this origin, without an agent.
    #[arg(long, value_name = "http://HOST[:PORT]")]
    pub to: Option<String>,
    /// Host field sent to that origin instead of the client's.
    #[arg(long, value_name = "HOST", requires = "to")]
    pub to_host: Option<String>,
    /// Freshness of responses from that origin that state none, ms; 0: they are not stored.
    #[arg(long, value_name = "MS", default_value_t = 0, requires = "to")]
    pub default_ttl_ms: u64,
    /// RAM of the cache (plain bytes, or with K, M, G); 0 for none.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub cache: u64,
    /// Name of this node in Via, hop marks and Cache-Status.
    #[arg(long)]
    pub name: Option<String>,
    /// Worker threads; by default one per CPU this process may use.
    #[arg(long)]
    pub workers: Option<usize>,
    /// Admin socket to make (JSON lines).
    #[arg(long, value_name = "PATH")]
    pub admin: Option<PathBuf>,
    /// Admin socket of a running proxy whose listeners are taken over once this one is configured.
    #[arg(long, value_name = "PATH")]
    pub takeover: Option<PathBuf>,
    /// How rings learn of completions.
    #[arg(long, value_enum, default_value = "interrupt")]
    pub poll: PollArg,
    /// Do not bind workers to CPUs.
    #[arg(long)]
    pub no_pin: bool,
    /// From the first byte of a request head to its last, ms.
    #[arg(long, value_name = "MS", default_value_t = Tuning::default().head_ms)]
    pub head_ms: u64,
    /// Between two parts of a request body, ms.
    #[arg(long, value_name = "MS", default_value_t = Tuning::default().body_ms)]
    pub body_ms: u64,
    /// A client connection without a request, ms.
    #[arg(long, value_name = "MS", default_value_t = Tuning::default().idle_ms)]
    pub idle_ms: u64,
    /// A client connection without a request while draining, ms.
    #[arg(long, value_name = "MS", default_value_t = Tuning::default().drain_idle_ms)]
    pub drain_idle_ms: u64,
    /// TCP handshake with an upstream, ms.
    #[arg(long, value_name = "MS", default_value_t = Tuning::default().connect_ms)]
    pub connect_ms: u64,
    /// From a request to the head of its response, and between two parts of its body, ms.
    #[arg(long, value_name = "MS", default_value_t = Tuning::default().response_ms)]
    pub response_ms: u64,
    /// Time connections have to end after a signal or a handover, ms.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub drain_ms: u64,
}

/// See [`Poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PollArg {
    /// Sleep until an interrupt.
    Interrupt,
    /// A kernel thread polls the submission queue.
    Sqpoll,
    /// Busy-poll the device queue before sleeping.
    Napi,
}

impl From<PollArg> for Poll {
    fn from(arg: PollArg) -> Self {
        match arg {
            PollArg::Interrupt => Poll::Interrupt,
            PollArg::Sqpoll => Poll::Sqpoll,
            PollArg::Napi => Poll::Napi,
        }
    }
}

/// `1G`, `256M`, `64K` or bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| "is not a size like 256M or 1G".to_owned())?;
    let bytes = number.checked_shl(shift).filter(|b| b >> shift == number).ok_or("is too large")?;
    if bytes != 0 && bytes < CACHE_BYTES_MIN {
        return Err("is less than 1M".into());
    }
    Ok(bytes)
}

/// The change that `--to` stands for.
fn single_origin(args: &Args, to: &str) -> Result<Apply> {
    if to.starts_with("https://") {
        bail!("--to {to}: https origins are not supported yet");
    }
    let rest = to.strip_prefix("http://").with_context(|| format!("--to {to}: must start with http://"))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
        bail!("--to {to}: only http://HOST[:PORT] is supported, without path or user");
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let with_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let addresses: Vec<String> = with_port
        .to_socket_addrs()
        .with_context(|| format!("--to {to}: cannot resolve {authority}"))?
        .map(|a| a.to_string())
        .collect();
    if addresses.is_empty() {
        bail!("--to {to}: {authority} has no address");
    }
    let origin = Origin { name: DEFAULT_ORIGIN.into(), addresses, host: args.to_host.clone() };
    let route = Route { path: "/".into(), origin: None, cache: true, default_ttl_ms: args.default_ttl_ms };
    let site = Site {
        host: "*".into(),
        routes: vec![route],
        origin: DEFAULT_ORIGIN.into(),
        group: DEFAULT_ORIGIN.into(),
    };
    Ok(Apply { revision: 1, full: true, origins: vec![origin], sites: vec![site], ..Apply::default() })
}

fn options(args: &Args) -> Result<Options> {
    let workers = args.workers.unwrap_or_else(|| sys::allowed_cpus().len());
    if !(1..=WORKERS_MAX).contains(&workers) {
        bail!("--workers must be 1..={WORKERS_MAX}");
    }
    let name = match &args.name {
        Some(name)
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) =>
        {
            name.clone()
        }
        Some(name) => bail!("--name {name:?}: letters, digits, `-`, `.` and `_` only"),
        // Two proxies in a row must not take each other for a loop.
        None => format!("sluice-{:x}-{:x}", std::process::id(), started_ns() & 0xffff),
    };
    Ok(Options {
        workers,
        pin: !args.no_pin,
        poll: args.poll.into(),
        cache_bytes: args.cache,
        name,
        tuning: Tuning {
            head_ms: args.head_ms,
            body_ms: args.body_ms,
            idle_ms: args.idle_ms,
            drain_idle_ms: args.drain_idle_ms,
            connect_ms: args.connect_ms,
            response_ms: args.response_ms,
            ..Tuning::default()
        },
    })
}

fn started_ns() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::from(d.subsec_nanos()))
}

/// What the main thread waits for.
enum Wake {
    Notice(Notice),
    Signal,
    Ended(Ended),
}

/// Runs until a signal, a handover, or a broken worker ends it.
pub fn run(args: &Args) -> Result<()> {
    if args.listen.is_empty() && args.takeover.is_none() {
        bail!("nothing to listen on: give --listen, or --takeover");
    }
    if args.to.is_none() && args.admin.is_none() {
        bail!("nothing to serve: give --to, or --admin for an agent");
    }
    let signals = Signals::block().context("blocking signals")?;
    let first = args.to.as_deref().map(|to| single_origin(args, to)).transpose()?;
    let predecessor = match &args.takeover {
        Some(path) => Some(handover::reach(path).with_context(|| format!("--takeover {}", path.display()))?),
        None => None,
    };
    let (shared, mailboxes) = Shared::new(options(args)?).context("making the store")?;
    let (wake, woken) = channel();
    let (ended, notices) = (forward(&wake, Wake::Ended), forward(&wake, Wake::Notice));
    shared.start(&mailboxes, &ended).context("starting workers")?;
    let admin = Admin::new(shared.clone(), notices);
    if predecessor.is_none() {
        shared.listen(&args.listen, Vec::new()).with_context(|| format!("listening on {:?}", args.listen))?;
    }
    if let Some(path) = &args.admin {
        admin.serve(bind_admin(path, predecessor.is_some())?).context("starting the admin thread")?;
    }
    if let Some(change) = first {
        let applied = admin.apply(&change);
        applied.map_err(|(field, message)| anyhow::anyhow!("{field}: {message}"))?;
    }
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || while signals.wait().is_ok() && wake.send(Wake::Signal).is_ok() {})?;
    if predecessor.is_none() {
        say_ready(&shared, args);
    }
    let result = supervise(&shared, args, predecessor, &woken);
    if let Some(path) = &args.admin
        && shared.mode() == Mode::Leaving
    {
        remove_own(path);
    }
    result
}

fn forward<T: Send + 'static>(wake: &Sender<Wake>, wrap: fn(T) -> Wake) -> Sender<T> {
    let (sender, receiver) = channel();
    let wake = wake.clone();
    std::thread::spawn(move || {
        while let Ok(value) = receiver.recv() {
            if wake.send(wrap(value)).is_err() {
                return;
            }
        }
    });
    sender
}

fn say_ready(shared: &Shared, args: &Args) {
    let addrs: Vec<String> = shared.listen_addresses().iter().map(ToString::to_string).collect();
    let admin = args.admin.as_ref().map_or_else(String::new, |p| format!(" admin={}", p.display()));
    eprintln!(
        "sluice-proxy ready pid={} name={} workers={} listen={}{admin}",
        std::process::id(),
        shared.options.name,
        shared.options.workers,
        addrs.join(",")
    );
}

fn supervise(
    shared: &Arc<Shared>,
    args: &Args,
    mut predecessor: Option<UnixStream>,
    woken: &Receiver<Wake>,
) -> Result<()> {
    let mut running = shared.options.workers;
    let mut deadline: Option<Instant> = None;
    loop {
        let left = deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
        let wake = match woken.recv_timeout(left.min(Duration::from_secs(3600))) {
            Ok(wake) => wake,
            Err(RecvTimeoutError::Timeout) if deadline.is_some_and(|d| Instant::now() >= d) => {
                shared.order_all(|| Order::Cut);
                deadline = None;
                continue;
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => bail!("all threads are gone"),
        };
        match wake {
            Wake::Notice(Notice::Configured) => {
                if let Some(stream) = predecessor.take() {
                    take_over(shared, args, &stream)?;
                }
            }
            Wake::Notice(Notice::HandedOver(ms)) => {
                deadline = Some(Instant::now() + Duration::from_millis(ms));
            }
            Wake::Signal if shared.mode() == Mode::Leaving => bail!("second signal: ended at once"),
            Wake::Signal => {
                shared.set_mode(Mode::Leaving);
                shared.forget_listeners();
                deadline = Some(Instant::now() + Duration::from_millis(args.drain_ms));
            }
            Wake::Ended((index, result)) => {
                result.with_context(|| format!("worker {index}"))?;
                running -= 1;
                if running == 0 {
                    return Ok(());
                }
            }
        }
    }
}

fn take_over(shared: &Shared, args: &Args, predecessor: &UnixStream) -> Result<()> {
    let fds = handover::take(predecessor, args.drain_ms).context("taking over the listeners")?;
    shared.listen(&args.listen, fds).context("listening")?;
    say_ready(shared, args);
    Ok(())
}

/// Binds the admin socket. A path nobody serves is replaced; one that is served only by a successor.
fn bind_admin(path: &Path, successor: bool) -> Result<UnixListener> {
    let alive = UnixStream::connect(path).is_ok();
    if alive && !successor {
        bail!("--admin {}: another process serves this socket", path.display());
    }
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let listener = UnixListener::bind(&fresh).with_context(|| format!("--admin {}", path.display()))?;
    // Before it has its name: who may connect may change every row and take the listening sockets.
    let own = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&fresh, own).with_context(|| format!("--admin {}", path.display()))?;
    std::fs::rename(&fresh, path).with_context(|| format!("--admin {}", path.display()))?;
    Ok(listener)
}

/// Removes the admin socket unless a successor has put its own there.
fn remove_own(path: &Path) {
    let ours = UnixStream::connect(path)
        .and_then(|s| rustix::net::sockopt::socket_peercred(&s).map_err(Into::into))
        .is_ok_and(|peer| peer.pid.as_raw_nonzero().get() as u32 == std::process::id());
    if ours {
        // Nothing can be done about a failure at the end of the process.
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        assert_eq!(parse_size("256m"), Ok(256 << 20));
        assert_eq!(parse_size("2097152"), Ok(2 << 20));
        assert_eq!(parse_size("0"), Ok(0));
        for bad in ["", "G", "1T", "-1", "1.5G", "5", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_origin_becomes_a_change() {
        let args = |list: &[&str]| Args::try_parse_from([&["sluice-proxy"], list].concat()).unwrap();
        let change = |to: &str| single_origin(&args(&["--to", to]), to);
        assert_eq!(change("http://127.0.0.1:81/").unwrap().origins[0].addresses, ["127.0.0.1:81"]);
        assert_eq!(change("http://[::1]").unwrap().origins[0].addresses, ["[::1]:80"]);
        assert_eq!(change("http://127.0.0.1").unwrap().sites[0].host, "*");
        for bad in ["https://a", "127.0.0.1", "http://", "http://127.0.0.1/x", "http://u@127.0.0.1"] {
            assert!(change(bad).is_err(), "{bad}");
        }
    }
}
