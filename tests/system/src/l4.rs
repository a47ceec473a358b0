//! A small site for tests of the balancer: hosts on one segment, real agents, and TCP and UDP peers that check
//! every byte.
//!
//! ```text
//!            10.5.0.0/24, fd05::/64, a bridge in the namespace of the fabric
//!   client .2 ──┬── front .10 (balances) ──┬── node1 .21 ── node2 .22
//!               └── route to 10.9.0.0/24 and fd09::/64 by front
//! ```
//! Namespaces are entered by threads of the test itself. Whatever a failing test leaves goes with the guard.

use crate::{Ran, need, run, sluice, until};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use sluice_loader::{AttachMode, Node, NodeConfig};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// MTU of hosts; the client's is 1500, so an outer header of up to 48 bytes fits.
pub const MTU: u32 = 1600;
const CLIENT_MTU: u32 = 1500;
/// An agent has carried a document out well within this.
const CONVERGED: Duration = Duration::from_secs(60);
/// A peer that says nothing for so long has failed.
const SILENCE: Duration = Duration::from_secs(15);
/// Interface of every host.
pub const IFACE: &str = "eth0";

/// The site.
pub struct Site {
    name: String,
    dir: tempfile::TempDir,
    hosts: Vec<(&'static str, u8)>,
    agents: Vec<(&'static str, Child)>,
}

impl Site {
    /// Makes a site with a client, a front and nodes.
    pub fn start(name: &str, nodes: usize) -> Site {
        need(&["sluice", "sluice-agent"]);
        let mut hosts = vec![("client", 2), ("front", 10)];
        hosts.extend([("node1", 21), ("node2", 22), ("node3", 23)].into_iter().take(nodes));
        let name = format!("{name}{}", std::process::id() % 100_000);
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("placements")).expect("a directory");
        let site = Site { name, dir, hosts, agents: Vec::new() };
        site.make();
        site
    }

    /// Namespace of a host, or of the `fabric`.
    pub fn netns(&self, host: &str) -> String {
        format!("xa-{}-{host}", self.name)
    }

    fn make(&self) {
        let fabric = self.netns("fabric");
        ip(&format!("netns add {fabric}"));
        ip(&format!(
            "-n {fabric} link add br0 mtu {MTU} type bridge stp_state 0 mcast_snooping 0 forward_delay 0"
        ));
        ip(&format!("-n {fabric} link set br0 up"));
        for (host, last) in &self.hosts {
            let netns = self.netns(host);
            ip(&format!("netns add {netns}"));
            self.settings(host);
            ip(&format!(
                "-n {fabric} link add v-{host} mtu {MTU} type veth peer name {IFACE} mtu {MTU} netns {netns}"
            ));
            for (place, iface) in [(&netns, IFACE.to_owned()), (&fabric, format!("v-{host}"))] {
                run("ip", &["netns", "exec", place, "ethtool", "-K", &iface, "tx", "off"]).good();
            }
            ip(&format!("-n {fabric} link set v-{host} master br0 up"));
            ip(&format!("-n {netns} link set lo up"));
            ip(&format!("-n {netns} addr add 10.5.0.{last}/24 dev {IFACE}"));
            ip(&format!("-n {netns} addr add fd05::{last}/64 dev {IFACE} nodad"));
            let mtu = if *host == "client" { CLIENT_MTU } else { MTU };
            ip(&format!("-n {netns} link set {IFACE} mtu {mtu} up"));
        }
        let client = self.netns("client");
        ip(&format!("-n {client} route add 10.9.0.0/24 via 10.5.0.10"));
        ip(&format!("-n {client} route add fd09::/64 via fd05::10"));
        // What the front transmits from XDP enters the fabric only where XDP runs too.
        self.let_transmit("v-front");
    }

    /// Attaches the passing program to an interface of the fabric.
    fn let_transmit(&self, iface: &str) {
        let config = NodeConfig {
            pin_dir: self.pass_pins(),
            ifaces: vec![iface.to_owned()],
            mode: AttachMode::Native,
        };
        self.within("fabric", || Node::open_or_adopt(&config).map(drop)).expect("attach to the fabric");
    }

    fn pass_pins(&self) -> PathBuf {
        self.dir.path().join("pass.bpf")
    }

    fn settings(&self, host: &str) {
        let mut set = vec!["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"];
        if host.starts_with("node") {
            set.extend([
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
                "net.ipv4.ip_nonlocal_bind=1",
                "net.ipv6.ip_nonlocal_bind=1",
            ]);
        }
        for one in set {
            run("ip", &["netns", "exec", &self.netns(host), "sysctl", "-qw", one]).good();
        }
    }

    /// Runs `what` in a thread inside the namespace of a host.
    pub fn within<T: Send>(&self, host: &str, what: impl FnOnce() -> T + Send) -> T {
        let netns = self.netns(host);
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                enter(&netns);
                what()
            });
            inside.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    /// Starts a thread inside the namespace of a host that goes on by itself.
    pub fn spawn(&self, host: &str, what: impl FnOnce() + Send + 'static) {
        let netns = self.netns(host);
        std::thread::spawn(move || {
            enter(&netns);
            what();
        });
    }

    /// Starts the agent of a host, with more arguments.
    pub fn agent(&mut self, host: &'static str, more: &[&str]) {
        let (netns, program) = (self.netns(host), crate::bin_dir().join("sluice-agent"));
        let path = |what: &str| self.dir.path().join(what);
        let log = File::create(path(&format!("{host}.log"))).expect("a log file");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &netns]).arg(program).args(["--node", host, "--iface", IFACE]);
        command.arg("--placements").arg(path("placements")).arg("--state").arg(path(host));
        command.arg("--socket").arg(self.socket(host)).arg("--pin-dir").arg(path(&format!("{host}.bpf")));
        command.args(["--no-proxy", "--flow-buckets", "1024"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.agents.push((host, command.spawn().expect("start an agent")));
    }

    fn socket(&self, host: &str) -> String {
        self.dir.path().join(format!("{host}.sock")).to_str().expect("UTF-8").to_owned()
    }

    /// Runs `sluice` against the agent of a host.
    pub fn sluice(&self, host: &str, args: &[&str]) -> Ran {
        let socket = self.socket(host);
        let mut all = vec!["--socket", &socket];
        all.extend(args);
        sluice(&all)
    }

    /// Puts document `l4` in force on every agent and waits until it is carried out. `body` is what follows the
    /// generation; networks are added.
    pub fn place(&self, generation: u64, body: &str) {
        let head = format!("apiVersion: sluice/v1\nname: l4\ngeneration: {generation}\nnetworks:\n");
        let networks = "  - {name: four, cidr: 10.5.0.0/24}\n  - {name: six, cidr: 'fd05::/64'}\n";
        let text = format!("{head}{networks}{body}");
        let path = self.dir.path().join("placements");
        std::fs::write(path.join("l4.new"), &text).expect("write the document");
        std::fs::rename(path.join("l4.new"), path.join("l4.yaml")).expect("name the document");
        for (host, _) in &self.agents {
            let carried_out = || {
                let status = self.sluice(host, &["get", "status", "-o", "json"]);
                let Ok(status) = serde_json::from_str::<Value>(&status.out) else { return false };
                let seen = status["documents"].as_array().is_some_and(|all| {
                    all.iter().any(|d| d["observed_generation"].as_u64() >= Some(generation))
                });
                seen && status["converged"] == true
            };
            let end = std::time::Instant::now() + CONVERGED;
            while !carried_out() {
                if std::time::Instant::now() > end {
                    let status = self.sluice(host, &["get", "status", "-o", "json"]);
                    panic!("{host} has not converged: {status:?}\n{}", self.log(host));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// What the agent of a host wrote.
    pub fn log(&self, host: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{host}.log"))).unwrap_or_default()
    }

    fn counter(&self, host: &str, list: &str, name: &str) -> u64 {
        self.sluice(host, &["stats", "-o", "json"]).json()[list][name].as_u64().unwrap_or(0)
    }

    /// Events of a name counted at a host.
    pub fn events(&self, host: &str, name: &str) -> u64 {
        self.counter(host, "packet_events", name)
    }

    /// Packets dropped at a host for a reason.
    pub fn dropped(&self, host: &str, reason: &str) -> u64 {
        self.counter(host, "drops", reason)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for (_, agent) in &mut self.agents {
            // Both fail only when it is gone already.
            let _ = agent.kill();
            let _ = agent.wait();
        }
        // What is left of it goes with the namespaces.
        let _ = Node::remove_pins(&self.pass_pins());
        for host in self.hosts.iter().map(|h| h.0).chain(["fabric"]) {
            run("ip", &["netns", "del", &self.netns(host)]);
        }
    }
}

fn ip(line: &str) {
    run("ip", &line.split(' ').collect::<Vec<_>>()).good();
}

fn enter(netns: &str) {
    let file = File::open(format!("/run/netns/{netns}")).expect("a namespace");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter a namespace");
}

/// The bytes both ends expect: byte `n` of direction `way`.
fn pattern(way: u8, at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ way).collect()
}

const CHUNK: usize = 16 << 10;

/// Sends what the other end expects.
fn send_pattern(stream: &mut TcpStream, way: u8, bytes: usize) -> std::io::Result<()> {
    for at in (0..bytes).step_by(CHUNK) {
        stream.write_all(&pattern(way, at, CHUNK.min(bytes - at)))?;
    }
    Ok(())
}

/// Reads and compares; the place of the first wrong byte is the error.
fn check_pattern(stream: &mut TcpStream, way: u8, bytes: usize) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    for at in (0..bytes).step_by(CHUNK) {
        let part = &mut buffer[..CHUNK.min(bytes - at)];
        stream.read_exact(part)?;
        if part != pattern(way, at, part.len()) {
            return Err(std::io::Error::other(format!("wrong bytes after {at}")));
        }
    }
    Ok(())
}

/// A server's side of [`transfer`], for each connection: says its name and who it sees as its peer, takes
/// `bytes`, and sends as many.
pub fn serve_tcp(name: &'static str, listen: SocketAddr, bytes: usize) {
    let listener = TcpListener::bind(listen).unwrap_or_else(|e| panic!("bind {listen}: {e}"));
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut stream = stream;
            let result = (|| {
                stream.set_read_timeout(Some(SILENCE))?;
                let hello = format!("{name} {}\n", stream.peer_addr()?);
                stream.write_all(hello.as_bytes())?;
                check_pattern(&mut stream, 1, bytes)?;
                send_pattern(&mut stream, 2, bytes)
            })();
            if let Err(error) = result {
                eprintln!("{name}: {error}");
            }
        });
    }
}

/// One connection that moves `bytes` each way, compared. Returns the server's name and the peer it saw.
pub fn transfer(to: SocketAddr, bytes: usize) -> (String, SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE).unwrap_or_else(|e| panic!("connect {to}: {e}"));
    stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let mut hello = Vec::new();
    let mut byte = [0];
    while byte[0] != b'\n' {
        stream.read_exact(&mut byte).unwrap_or_else(|e| panic!("{to} says nothing: {e}"));
        hello.push(byte[0]);
    }
    let hello = String::from_utf8(hello).expect("UTF-8");
    send_pattern(&mut stream, 1, bytes).unwrap_or_else(|e| panic!("send to {to}: {e}"));
    check_pattern(&mut stream, 2, bytes).unwrap_or_else(|e| panic!("read from {to}: {e}"));
    let (name, peer) = hello.trim().split_once(' ').expect("a name and a peer");
    (name.to_owned(), peer.parse().expect("an address"))
}

/// Answers every datagram with its name, who it saw, and the datagram.
pub fn serve_udp(name: &'static str, listen: SocketAddr) {
    let socket = UdpSocket::bind(listen).unwrap_or_else(|e| panic!("bind {listen}: {e}"));
    let mut buffer = vec![0; 64 << 10];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        let mut answer = format!("{name} {from}\n").into_bytes();
        answer.extend(&buffer[..len]);
        // Its sender may be gone.
        let _ = socket.send_to(&answer, from);
    }
}

/// Sends `count` datagrams of `len` bytes from one port, each answered before the next; the answerers' names and
/// the peer they saw. A lost datagram is sent again twice.
pub fn echo(to: SocketAddr, count: usize, len: usize) -> Vec<(String, SocketAddr)> {
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).expect("a socket");
    socket.connect(to).expect("a route");
    socket.set_read_timeout(Some(SILENCE / 3)).expect("a timeout");
    let mut buffer = vec![0; 64 << 10];
    (0..count)
        .map(|n| {
            let question = pattern(n as u8, n, len);
            let got = (0..3).find_map(|_| {
                socket.send(&question).ok()?;
                socket.recv(&mut buffer).ok()
            });
            let got = got.unwrap_or_else(|| panic!("{to} does not answer datagram {n}"));
            let end = buffer[..got].iter().position(|&b| b == b'\n').expect("a name");
            assert_eq!(&buffer[end + 1..got], &question[..], "{to}: datagram {n}");
            let text = std::str::from_utf8(&buffer[..end]).expect("UTF-8");
            let (name, peer) = text.split_once(' ').expect("a name and a peer");
            (name.to_owned(), peer.parse().expect("an address"))
        })
        .collect()
}

/// Waits until something listens for TCP.
pub fn wait_for(site: &Site, host: &str, listen: SocketAddr) {
    site.within(host, || {
        until("a server listens", SILENCE, || TcpStream::connect_timeout(&listen, SILENCE / 10).is_ok());
    });
}
