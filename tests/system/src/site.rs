//! A small site in network namespaces: two balancers, two backends and a router on one segment, a client behind it.
//!
//! ```text
//!  client ── router ──┬── front1   front2      (agents, XDP, BIRD)
//!                     └── back1    back2       (the VIPs on loopback, a server)
//! ```
//! The segment is a bridge in a namespace of its own. Servers and clients are the test binary itself, started
//! again inside a namespace with a role. Everything is removed when the site is dropped.

use crate::{Ran, bin_dir, need, run, run_in, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Port of the servers, and of the VIPs.
pub const PORT: u16 = 7777;
/// VIPs that both fronts balance.
pub const VIPS: [&str; 2] = ["198.51.100.10", "2001:db8:97::10"];
/// Hosts on the segment with the last part of their addresses.
const HOSTS: [(&str, u8); 5] = [("router", 1), ("front1", 2), ("front2", 3), ("back1", 11), ("back2", 12)];
/// Variable that tells a process started again what it is.
const ROLE: &str = "SLUICE_SITE_ROLE";
/// An answer of a role comes within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// IPv4 address of a host of the segment.
pub fn v4(host: &str) -> String {
    format!("10.97.1.{}", last(host))
}

/// IPv6 address of a host of the segment.
pub fn v6(host: &str) -> String {
    format!("fd97:1::{}", last(host))
}

fn last(host: &str) -> u8 {
    HOSTS.iter().find(|(name, _)| *name == host).unwrap_or_else(|| panic!("no host {host}")).1
}

/// A running site.
pub struct Site {
    prefix: String,
    dir: tempfile::TempDir,
    children: BTreeMap<String, Child>,
}

fn ip(args: &str) {
    let list: Vec<&str> = args.split_whitespace().collect();
    run("ip", &list).good();
}

impl Site {
    /// Namespaces, links, addresses and routes; nothing runs yet.
    pub fn new(name: &str) -> Site {
        let prefix = format!("ctl{name}{}", std::process::id());
        let dir = tempfile::tempdir().expect("directory");
        let site = Site { prefix, dir, children: BTreeMap::new() };
        std::fs::create_dir(site.path("bpf")).expect("directory");
        run("mount", &["-t", "bpf", "bpf", site.path("bpf").to_str().expect("path")]).good();
        let segment = site.netns("segment");
        ip(&format!("netns add {segment}"));
        ip(&format!("-n {segment} link add br0 type bridge"));
        ip(&format!("-n {segment} link set br0 up"));
        for (host, _) in HOSTS {
            site.host(host);
        }
        site.client();
        for back in ["back1", "back2"] {
            site.sysctl(back, "net/ipv4/conf/all/arp_ignore", "1");
            site.sysctl(back, "net/ipv4/conf/all/arp_announce", "2");
            site.in_ip(back, &format!("address add {}/32 dev lo", VIPS[0]));
            site.in_ip(back, &format!("address add {}/128 dev lo", VIPS[1]));
        }
        // A router spreads by ports too: one client is many flows.
        site.sysctl("router", "net/ipv4/fib_multipath_hash_policy", "1");
        site.sysctl("router", "net/ipv6/fib_multipath_hash_policy", "1");
        site
    }

    /// A host on the segment; frames sent by XDP at its end need the bridge's end to take them.
    fn host(&self, host: &str) {
        let (netns, segment) = (self.netns(host), self.netns("segment"));
        ip(&format!("netns add {netns}"));
        ip(&format!("-n {netns} link add eth0 type veth peer name {host} netns {segment}"));
        run_in(&segment, "ethtool", &["-K", host, "gro", "on"]).good();
        // A frame that XDP forwards must be whole: nobody fills a checksum in later.
        for (ns, iface) in [(&segment, host), (&netns, "eth0")] {
            run_in(ns, "ethtool", &["-K", iface, "tx", "off"]).good();
        }
        ip(&format!("-n {segment} link set {host} master br0 up"));
        self.in_ip(host, "link set lo up");
        self.sysctl(host, "net/ipv6/conf/eth0/accept_dad", "0");
        self.in_ip(host, &format!("address add {}/24 dev eth0", v4(host)));
        self.in_ip(host, &format!("address add {}/64 dev eth0 nodad", v6(host)));
        self.in_ip(host, "link set eth0 up");
        if host == "router" {
            self.sysctl(host, "net/ipv4/ip_forward", "1");
            self.sysctl(host, "net/ipv6/conf/all/forwarding", "1");
        } else {
            self.in_ip(host, &format!("route add default via {}", v4("router")));
            self.in_ip(host, &format!("-6 route add default via {}", v6("router")));
        }
    }

    fn client(&self) {
        let (client, router) = (self.netns("client"), self.netns("router"));
        ip(&format!("netns add {client}"));
        ip(&format!("-n {client} link add eth0 type veth peer name eth1 netns {router}"));
        for (ns, iface) in [(&client, "eth0"), (&router, "eth1")] {
            run_in(ns, "ethtool", &["-K", iface, "tx", "off"]).good();
        }
        for (host, iface, n) in [("router", "eth1", 1), ("client", "eth0", 2)] {
            self.sysctl(host, &format!("net/ipv6/conf/{iface}/accept_dad"), "0");
            self.in_ip(host, &format!("address add 10.97.2.{n}/24 dev {iface}"));
            self.in_ip(host, &format!("address add fd97:2::{n}/64 dev {iface} nodad"));
            self.in_ip(host, &format!("link set {iface} up"));
        }
        self.in_ip("client", "link set lo up");
        self.in_ip("client", "route add default via 10.97.2.1");
        self.in_ip("client", "-6 route add default via fd97:2::1");
    }

    /// Name of a host's namespace.
    pub fn netns(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A path in the site's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `ip` inside a host.
    pub fn in_ip(&self, host: &str, args: &str) -> Ran {
        let netns = self.netns(host);
        let mut all = vec!["-n", &netns];
        all.extend(args.split_whitespace());
        run("ip", &all).good()
    }

    /// Writes a kernel setting of a host.
    pub fn sysctl(&self, host: &str, key: &str, value: &str) {
        let write = format!("echo {value} > /proc/sys/{key}");
        run_in(&self.netns(host), "sh", &["-c", &write]).good();
    }

    /// Starts a program inside a host, its output logged, under a name.
    pub fn start(&mut self, name: &str, host: &str, program: &Path, args: &[String]) {
        let log =
            File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).expect("log");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.netns(host)])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("start {name}: {e}"));
        self.children.insert(name.to_owned(), child);
    }

    /// Kills a program at once.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.children.remove(name).unwrap_or_else(|| panic!("{name} does not run"));
        // Fails only when it is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// What a program wrote.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Starts the agent of a front on the documents in the directory `placements`.
    pub fn start_agent(&mut self, front: &str) {
        need(&["sluice", "sluice-agent"]);
        let text = |path: PathBuf| path.to_str().expect("path").to_owned();
        std::fs::create_dir_all(self.path("placements")).expect("directory");
        std::fs::write(self.path("secret"), b"one secret for both").expect("secret");
        let mut args: Vec<String> = [
            "--node",
            front,
            "--iface",
            "eth0",
            "--announce",
            "none",
            "--no-proxy",
            "--flow-buckets",
            "1024",
        ]
        .map(str::to_owned)
        .to_vec();
        for (flag, name) in [
            ("--placements", "placements".to_owned()),
            ("--state", format!("state-{front}")),
            ("--socket", format!("{front}.sock")),
            ("--pin-dir", format!("bpf/{front}")),
            ("--secret-file", "secret".to_owned()),
            ("--bird-socket", format!("{front}.ctl")),
            ("--bird-include", format!("sluice-{front}.conf")),
        ] {
            args.extend([flag.to_owned(), text(self.path(&name))]);
        }
        let program = bin_dir().join("sluice-agent");
        self.start(&format!("agent {front}"), front, &program, &args);
    }

    /// Writes a document where both agents read it.
    pub fn document(&self, name: &str, document: &Value) {
        let dir = self.path("placements");
        std::fs::create_dir_all(&dir).expect("directory");
        let fresh = dir.join(format!(".{name}"));
        std::fs::write(&fresh, document.to_string()).expect("write");
        std::fs::rename(fresh, dir.join(format!("{name}.json"))).expect("rename");
    }

    /// `sluice` against the agent of a front.
    pub fn sluice(&self, front: &str, args: &[&str]) -> Ran {
        let socket = self.path(&format!("{front}.sock"));
        let mut all = vec!["--socket", socket.to_str().expect("path")];
        all.extend(args);
        crate::sluice(&all)
    }

    /// Status of a front's agent; null while it does not answer.
    pub fn status(&self, front: &str) -> Value {
        let ran = self.sluice(front, &["--output", "json", "get", "status"]);
        serde_json::from_str(&ran.out).unwrap_or(Value::Null)
    }

    /// Packets a front forwarded to each backend.
    pub fn packets(&self, front: &str) -> Vec<u64> {
        let stats = self.sluice(front, &["--output", "json", "stats"]).json();
        let backends = stats["backends"].as_array().cloned().unwrap_or_default();
        backends.iter().map(|b| b["packets"].as_u64().unwrap_or(0)).collect()
    }

    /// Starts this test binary again inside a host, in a role.
    pub fn role(&self, host: &str, role: &str) -> Role {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.netns(host)])
            .arg(std::env::current_exe().expect("own path"))
            .args(["--exact", "in_a_namespace", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the test binary again");
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test harness writes lines of its own.
                if let Some(answer) = line.strip_prefix("role: ")
                    && sender.send(answer.to_owned()).is_err()
                {
                    break;
                }
            }
        });
        Role { child, stdin, answers }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            signal(u64::from(child.id()), Signal::KILL);
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|e| e == "log") {
                    let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                    eprintln!("--- {}\n{text}", entry.path().display());
                }
            }
        }
        // Pinned links and programs go with the mount, interfaces with the namespaces.
        run("umount", &[self.path("bpf").to_str().unwrap_or_default()]);
        for host in HOSTS.map(|(host, _)| host).into_iter().chain(["client", "segment"]) {
            run("ip", &["netns", "delete", &self.netns(host)]);
        }
    }
}

/// This test binary inside a namespace.
pub struct Role {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Role {
    /// Sends a line.
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("the role listens");
    }

    /// The next answer.
    pub fn answer(&self) -> String {
        self.answers.recv_timeout(ANSWER_TIMEOUT).expect("an answer of the role")
    }

    /// Sends a line and waits for the answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.answer()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        signal(u64::from(self.child.id()), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// In a process that [`Site::role`] started: plays the role until its input ends. Elsewhere nothing.
pub fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.split_once(' ') {
        Some(("server", name)) => serve(name),
        Some(("client", count)) => ask(count.parse().expect("a number")),
        _ => panic!("no role {role:?}"),
    }
}

/// Answers each line of each connection with its name.
fn serve(name: &str) {
    let listener = std::net::TcpListener::bind(("::", PORT)).expect("listen");
    println!("role: ready");
    let line = format!("{name}\n");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let line = line.clone();
        std::thread::spawn(move || {
            let Ok(copy) = stream.try_clone() else { return };
            for _ in BufReader::new(copy).lines().map_while(Result::ok) {
                if stream.write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        });
    }
}

struct Connection {
    stream: BufReader<std::net::TcpStream>,
    server: String,
}

impl Connection {
    fn open(vip: &str) -> std::io::Result<Connection> {
        let address: std::net::IpAddr = vip.parse().expect("address");
        let stream = std::net::TcpStream::connect_timeout(&(address, PORT).into(), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut connection = Connection { stream: BufReader::new(stream), server: String::new() };
        connection.server = connection.ask()?;
        Ok(connection)
    }

    fn ask(&mut self) -> std::io::Result<String> {
        self.stream.get_mut().write_all(b"who\n")?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

/// Keeps connections to every VIP. `open`: opens them; `ask`: asks on each; both answer what they found.
fn ask(count: usize) {
    let mut kept: Vec<Connection> = Vec::new();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.as_str() {
            "open" => {
                let all = VIPS.iter().flat_map(|vip| std::iter::repeat_n(*vip, count));
                let opened: Vec<std::io::Result<Connection>> = all.map(Connection::open).collect();
                let failed = opened.iter().filter(|c| c.is_err()).count();
                let fresh: Vec<Connection> = opened.into_iter().flatten().collect();
                let mut servers: BTreeMap<String, usize> = BTreeMap::new();
                fresh.iter().for_each(|c| *servers.entry(c.server.clone()).or_default() += 1);
                kept.extend(fresh);
                println!("role: failed {failed} servers {servers:?}");
            }
            "ask" => {
                let mut found = BTreeMap::from([("same", 0), ("moved", 0), ("lost", 0)]);
                for connection in &mut kept {
                    let what = match connection.ask() {
                        Ok(server) if server == connection.server => "same",
                        Ok(server) if !server.is_empty() => "moved",
                        _ => "lost",
                    };
                    *found.entry(what).or_default() += 1;
                }
                println!("role: {found:?}");
            }
            other => panic!("no order {other:?}"),
        }
    }
}
