//! What 100,000 domains cost in memory and in time to load.
//!
//! Sluice takes them as rows over its admin socket; nginx as one server block each, the form its
//! documentation gives for hosts with settings of their own.

use super::Context;
use super::config;
use super::process::{Process, free_address};
use super::row::{Better, Case, Row};
use super::subject::{Endpoint, Origin, get, start};
use anyhow::{Context as _, Result, bail};
use sluice_api::placement::{Origin as OriginRow, Site};
use sluice_api::proxy_admin::{Answer, Apply, Reply, Request};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const GROUP: &str = "proxy";
const BASE: &[&str] = &["nginx"];
/// Rows in one admin request; as many as fit a line of about a quarter of a megabyte.
const ROWS_PER_APPLY: usize = 2_000;
/// A program that does not answer for a host by then never will.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Memory and load time, for growing numbers of domains.
pub fn run(context: &Context, origin: &Origin) -> Result<Vec<Row>> {
    println!("  domains");
    let counts: &[usize] = if context.quick { &[200] } else { &[10_000, 100_000] };
    let mut rows = Vec::new();
    for &count in counts {
        let mut memory = Case::new(format!("{count} domains, memory each"), "bytes", Better::Lower);
        let mut time = Case::new(format!("{count} domains, load"), "s", Better::Lower);
        for (name, measure) in [("sluice", sluice as Measure), ("nginx", nginx)] {
            context.check_stop()?;
            match measure(context, origin.address, count) {
                Ok((bytes, seconds)) => {
                    memory.push(name, bytes / count as f64);
                    time.push(name, seconds);
                }
                Err(e) => context.note(format!("{count} domains: {name} is not measured: {e:#}")),
            }
        }
        rows.extend(memory.rows(GROUP, BASE));
        rows.extend(time.rows(GROUP, BASE));
    }
    Ok(rows)
}

/// Bytes more than without the domains, and seconds to load them until the last one is answered for.
type Measure = fn(&Context, SocketAddr, usize) -> Result<(f64, f64)>;

fn sluice(context: &Context, origin: SocketAddr, count: usize) -> Result<(f64, f64)> {
    let (endpoint, mut admin) = sluice_with_admin(context, "sluice-domains")?;
    admin.apply(Apply { revision: 1, origins: vec![origin_row(origin)], ..Apply::default() })?;
    let before = endpoint.process.pss_bytes()?;
    let started = Instant::now();
    admin.load_sites(2, 0..count)?;
    wait_answer(endpoint.address, &host(count - 1))?;
    let seconds = started.elapsed().as_secs_f64();
    Ok((endpoint.process.pss_bytes()?.saturating_sub(before) as f64, seconds))
}

fn nginx(context: &Context, origin: SocketAddr, count: usize) -> Result<(f64, f64)> {
    let one = nginx_with(context, origin, 1)?;
    let before = one.process.pss_bytes()?;
    drop(one);
    let started = Instant::now();
    let endpoint = nginx_with(context, origin, count)?;
    wait_answer(endpoint.address, &host(count - 1))?;
    let seconds = started.elapsed().as_secs_f64();
    Ok((endpoint.process.pss_bytes()?.saturating_sub(before) as f64, seconds))
}

fn nginx_with(context: &Context, origin: SocketAddr, count: usize) -> Result<Endpoint> {
    let dir = context.tmp.path().join("nginx-domains");
    std::fs::create_dir_all(&dir)?;
    let listen = free_address()?;
    let text = config::nginx_sites(&dir, context.subject_cpu, listen, origin, count, &[]);
    start(context, "nginx-domains", nginx_command(&dir, &text)?, listen)
}

/// Host name of a numbered domain.
pub fn host(number: usize) -> String {
    format!("site-{number}.example")
}

/// Polls until a request for `host` is answered 200; how long that took.
pub fn wait_answer(address: SocketAddr, host: &str) -> Result<Duration> {
    let started = Instant::now();
    while started.elapsed() < ANSWER_TIMEOUT {
        // A refused or broken poll is one not yet answered well.
        if let Ok((200, _)) = get(address, host, "/obj/ready?size=16&cc=no-store") {
            return Ok(started.elapsed());
        }
    }
    bail!("{address} does not answer for {host}")
}

/// Writes a configuration and makes the command that runs it.
pub fn nginx_command(dir: &Path, text: &str) -> Result<Command> {
    let path = dir.join("nginx.conf");
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(&path);
    Ok(command)
}

/// The only origin of the rows.
pub fn origin_row(address: SocketAddr) -> OriginRow {
    OriginRow { name: "o".to_owned(), addresses: vec![address.to_string()], host: None }
}

/// A site row.
pub fn site_row(host: String) -> Site {
    Site { host, routes: Vec::new(), origin: "o".to_owned(), group: "bench".to_owned() }
}

/// A proxy without any row, and its admin socket.
pub fn sluice_with_admin(context: &Context, name: &str) -> Result<(Endpoint, Admin)> {
    let socket = context.tmp.path().join(format!("{name}.sock"));
    let address = free_address()?;
    let mut command = Command::new(context.bin("sluice-proxy"));
    command
        .args(["--listen", &address.to_string(), "--workers", "1", "--cache", "0", "--admin"])
        .arg(&socket);
    let endpoint = start(context, name, command, address)?;
    let admin = Admin::connect(&socket)?;
    Ok((endpoint, admin))
}

/// A connection to a proxy's admin socket.
#[derive(Debug)]
pub struct Admin {
    stream: BufReader<UnixStream>,
}

impl Admin {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("connect {}", path.display()))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Publishes a change.
    pub fn apply(&mut self, apply: Apply) -> Result<u64> {
        let mut line = serde_json::to_vec(&Request::Apply(Box::new(apply)))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        match serde_json::from_str(&answer).with_context(|| format!("admin answered {answer:?}"))? {
            Reply::Ok(Answer::Applied { sites, .. }) => Ok(sites),
            Reply::Ok(other) => bail!("admin answered {other:?} to apply"),
            Reply::Error { field, message } => bail!("apply refused: {field}: {message}"),
        }
    }

    /// Adds the numbered sites, many at a time; the next revision.
    pub fn load_sites(&mut self, mut revision: u64, numbers: std::ops::Range<usize>) -> Result<u64> {
        let all: Vec<_> = numbers.collect();
        for part in all.chunks(ROWS_PER_APPLY) {
            let sites = part.iter().map(|&n| site_row(host(n))).collect();
            self.apply(Apply { revision, sites, ..Apply::default() })?;
            revision += 1;
        }
        Ok(revision)
    }
}

/// Ends a running nginx's configuration generation and starts the next.
pub fn nginx_reload(process: &Process) -> Result<()> {
    let pid = i32::try_from(process.pid()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.context("no process id")?;
    // What `nginx -s reload` sends, without the time to start that program.
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::HUP)?)
}
