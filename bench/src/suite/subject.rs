//! The programs compared, started side by side on one CPU; only one works at a time.

use super::config::{self, Ports};
use super::process::{Process, free_address};
use super::{Context, domains};
use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

/// RAM of the cache under measurement: all objects of the cases fit.
const CACHE: &str = "256M";

/// One listening address and the process behind it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Who.
    pub process: Rc<Process>,
}

/// A program that is measured.
#[derive(Debug)]
pub struct Subject {
    /// Its name in the rows.
    pub name: String,
    /// Proxies without storing.
    pub proxy: Option<Endpoint>,
    /// Stores.
    pub cache: Option<Endpoint>,
}

/// The origin behind all of them.
#[derive(Debug)]
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

impl Origin {
    /// Starts it beside the load generator.
    pub fn start(context: &Context) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(context.bin("sluice-origin"));
        command.args(["--listen", &address.to_string()]);
        let log = context.tmp.path().join("origin.log");
        let mut process = Process::start("sluice-origin", command, context.load_cpu, &log)?;
        process.wait_for(address)?;
        Ok(Self { address, _process: process })
    }

    /// Requests it has answered.
    pub fn total(&self) -> Result<u64> {
        let (status, body) = get(self.address, "origin", "/.origin/stats")?;
        if status != 200 {
            bail!("the origin's statistics answered {status}");
        }
        let stats: serde_json::Value = serde_json::from_slice(&body)?;
        stats["total"].as_u64().context("no total in the origin's statistics")
    }
}

/// One request over a connection of its own.
pub fn get(address: SocketAddr, host: &str, target: &str) -> Result<(u16, Vec<u8>)> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    match head.parse(&answer)? {
        httparse::Status::Complete(len) => Ok((head.code.unwrap_or(0), answer.split_off(len))),
        httparse::Status::Partial => bail!("{address} answered no whole response"),
    }
}

/// Starts every program there is; those that cannot start are noted.
pub fn start_all(context: &Context, origin: SocketAddr) -> Vec<Subject> {
    type Start = fn(&Context, SocketAddr) -> Result<Subject>;
    let list: [(&str, Start); 4] =
        [("sluice", sluice), ("nginx", nginx), ("haproxy", haproxy), ("floor", relay)];
    let mut subjects = Vec::new();
    for (name, start) in list {
        match start(context, origin) {
            Ok(subject) => subjects.push(subject),
            Err(e) => context.note(format!("{name} is not measured: {e:#}")),
        }
    }
    subjects
}

/// `sluice-proxy` with the given name and further arguments.
pub fn sluice_with(context: &Context, name: &str, origin: SocketAddr, args: &[&str]) -> Result<Endpoint> {
    let address = free_address()?;
    let mut command = Command::new(context.bin("sluice-proxy"));
    command.args(["--listen", &address.to_string(), "--to", &format!("http://{origin}"), "--workers", "1"]);
    command.args(args);
    start(context, name, command, address)
}

fn sluice(context: &Context, origin: SocketAddr) -> Result<Subject> {
    let proxy = sluice_with(context, "sluice-plain", origin, &["--cache", "0"])?;
    let cache = sluice_with(context, "sluice-cache", origin, &["--cache", CACHE])?;
    Ok(Subject { name: "sluice".to_owned(), proxy: Some(proxy), cache: Some(cache) })
}

fn nginx(context: &Context, origin: SocketAddr) -> Result<Subject> {
    let ports = Ports { proxy: free_address()?, cache: free_address()? };
    let dir = context.tmp.path().join("nginx");
    std::fs::create_dir_all(&dir)?;
    let text = config::nginx(&dir, context.subject_cpu, ports, origin);
    let command = domains::nginx_command(&dir, &text)?;
    two("nginx", start(context, "nginx", command, ports.proxy)?, ports)
}

fn haproxy(context: &Context, origin: SocketAddr) -> Result<Subject> {
    let ports = Ports { proxy: free_address()?, cache: free_address()? };
    let path = context.tmp.path().join("haproxy.cfg");
    std::fs::write(&path, config::haproxy(context.subject_cpu, ports, origin))?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&path);
    two("haproxy", start(context, "haproxy", command, ports.proxy)?, ports)
}

fn relay(context: &Context, origin: SocketAddr) -> Result<Subject> {
    let proxy = floor(context, "relay", &["--to", &origin.to_string()])?;
    Ok(Subject { name: "floor".to_owned(), proxy: Some(proxy), cache: None })
}

/// The answerer of one object: the floor of its hits.
pub fn answerer(context: &Context, target: &str) -> Result<Endpoint> {
    floor(context, "answerer", &["--answer", target])
}

fn floor(context: &Context, name: &str, args: &[&str]) -> Result<Endpoint> {
    let address = free_address()?;
    let mut command = Command::new(context.bin("sluice-relay"));
    command.args(["--listen", &address.to_string()]).args(args);
    start(context, name, command, address)
}

fn two(name: &str, proxy: Endpoint, ports: Ports) -> Result<Subject> {
    let cache = Endpoint { address: ports.cache, process: proxy.process.clone() };
    Ok(Subject { name: name.to_owned(), proxy: Some(proxy), cache: Some(cache) })
}

/// Starts a program on the subject's CPU and waits for its port.
pub fn start(context: &Context, name: &str, command: Command, address: SocketAddr) -> Result<Endpoint> {
    let log = context.tmp.path().join(format!("{name}.log"));
    let mut process = Process::start(name, command, context.subject_cpu, &log)?;
    process.wait_for(address)?;
    Ok(Endpoint { address, process: Rc::new(process) })
}
