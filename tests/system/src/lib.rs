//! System tests: the real programs in network namespaces, steered from outside as an operator would.
//!
//! A test drives `sluice` and `sluice lab --output json` only, so what is tested is what is shipped. Each lab of
//! a test has a name of its own; whatever a failing test leaves is removed when its guard is dropped. Tests
//! need root and print `skipped: reason` without it.

#![forbid(unsafe_code)]

pub mod l4;
pub mod site;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Programs under test.
const PROGRAMS: [(&str, &str); 5] = [
    ("sluice", "sluice"),
    ("sluice-agent", "sluice-agent"),
    ("sluice-proxy", "sluice-proxy"),
    ("sluice-load", "sluice-bench"),
    ("sluice-origin", "sluice-bench"),
];
/// A lab that is not up by then has failed.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// A lab that is asked to end cleans up well within this.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Says why a test cannot run here; `true`: it cannot.
pub fn skip() -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        Some("network namespaces and XDP need root")
    } else if Command::new("ip").args(["netns", "list"]).output().map(|o| !o.status.success()).unwrap_or(true)
    {
        Some("`ip netns` does not work here")
    } else if !Path::new("/sys/fs/bpf").exists() {
        Some("the kernel has no BPF")
    } else {
        None
    };
    if let Some(reason) = reason {
        println!("skipped: {reason}");
    }
    reason.is_some()
}

/// Directory of the programs: `SLUICE_BIN_DIR`, or the one this test was built into.
pub fn bin_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| match std::env::var_os("SLUICE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        // target/PROFILE/deps/test-HASH
        None => {
            std::env::current_exe().expect("own path").ancestors().nth(2).expect("a directory").to_owned()
        }
    })
}

/// Builds those of the programs that are missing in [`bin_dir`].
pub(crate) fn need(programs: &[&str]) {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(bin, _)| programs.contains(bin) && !bin_dir().join(bin).exists())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return;
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    build.args(missing.iter().flat_map(|p| ["-p", p]));
    if bin_dir().ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().expect("start cargo");
    assert!(status.success(), "could not build {missing:?}");
}

/// Path of `sluice`.
pub fn sluice_path() -> PathBuf {
    need(&["sluice"]);
    bin_dir().join("sluice")
}

/// What a command ended in.
#[derive(Debug)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    fn of(mut command: Command) -> Ran {
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output as JSON, of a command that succeeded.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts success.
    pub fn good(self) -> Ran {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// Runs `sluice`.
pub fn sluice(args: &[&str]) -> Ran {
    let mut command = Command::new(sluice_path());
    command.args(args);
    Ran::of(command)
}

/// Runs any program.
pub fn run(program: &str, args: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command.args(args);
    Ran::of(command)
}

/// Runs a program inside a network namespace.
pub fn run_in(netns: &str, program: &str, args: &[&str]) -> Ran {
    let mut all = vec!["netns", "exec", netns, program];
    all.extend(args);
    run("ip", &all)
}

/// Signals a process by id.
pub fn signal(pid: u64, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}

/// The process lives (a zombie does not).
pub fn alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Waits for something to become true.
pub fn until(what: &str, timeout: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + timeout;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {} s", timeout.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A running `sluice lab --output json`.
pub struct Lab {
    name: String,
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    /// The ready document.
    pub ready: Value,
}

impl Lab {
    /// Starts a lab under a name of its own and waits until it is up.
    pub fn start(name: &str, args: &[&str]) -> Lab {
        // Runs of the test side by side must not meet.
        let name = format!("t{name}{}", std::process::id());
        Lab::start_named(&name, args)
    }

    /// Starts a lab of exactly this name.
    pub fn start_named(name: &str, args: &[&str]) -> Lab {
        need(&PROGRAMS.map(|(bin, _)| bin));
        let mut child = Command::new(sluice_path())
            .args(["lab", "--prefix", name, "--output", "json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start sluice lab");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut lab = Lab { name: name.to_owned(), child, lines, ready: Value::Null };
        lab.ready = lab.next_document("ready", READY_TIMEOUT);
        lab
    }

    /// Name of the instance.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id of the lab itself.
    pub fn pid(&self) -> u64 {
        u64::from(self.child.id())
    }

    fn next_document(&self, event: &str, timeout: Duration) -> Value {
        let line = self
            .lines
            .recv_timeout(timeout)
            .unwrap_or_else(|e| panic!("the lab sent no {event} document: {e}"));
        let document: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(document["event"], event, "{document}");
        document
    }

    /// Waits for the summary of a lab that ends by itself.
    pub fn summary(&mut self, timeout: Duration) -> (Value, ExitStatus) {
        let summary = self.next_document("summary", timeout);
        (summary, self.child.wait().expect("wait for the lab"))
    }

    /// Ends the lab as Ctrl-C does; its summary.
    pub fn end(&mut self) -> Value {
        signal(self.pid(), Signal::INT);
        let (summary, status) = self.summary(END_TIMEOUT);
        assert!(status.success(), "{status}");
        summary
    }

    /// Kills the lab itself at once and reaps it.
    pub fn kill(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Namespace of a host.
    pub fn netns(&self, host: &str) -> &str {
        self.ready["namespaces"][host].as_str().unwrap_or_else(|| panic!("no namespace {host}"))
    }

    /// Agent socket of a host.
    pub fn socket(&self, host: &str) -> &str {
        self.ready["sockets"][host].as_str().unwrap_or_else(|| panic!("no socket {host}"))
    }

    /// Runs `sluice` against the agent of a host.
    pub fn sluice(&self, host: &str, args: &[&str]) -> Ran {
        let mut all = vec!["--socket", self.socket(host)];
        all.extend(args);
        sluice(&all)
    }

    /// GET of a path of a VIP from the client, with curl; head and body.
    pub fn curl(&self, vip: &str, path: &str) -> Ran {
        let url = format!("http://{}{path}", self.vip(vip));
        run_in(self.netns("client"), "curl", &["-sS", "-i", "-m", "10", "-H", "Host: www.lab.test", &url])
    }

    /// `address:port` of a VIP.
    pub fn vip(&self, name: &str) -> String {
        let vips = self.ready["vips"].as_array().expect("vips");
        let vip = vips.iter().find(|v| v["name"] == name).unwrap_or_else(|| panic!("no VIP {name}"));
        let address = vip["address"].as_str().expect("address");
        let port = vip["port"].as_u64().expect("port");
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill();
        sluice(&["lab", "--clean", "--prefix", &self.name]);
    }
}

/// Everything of an instance that is still on the machine; empty when nothing is.
pub fn leftovers(name: &str) -> Vec<String> {
    let mut left = Vec::new();
    let own = format!("sluice-{name}-");
    if let Ok(entries) = std::fs::read_dir("/run/netns") {
        left.extend(
            entries
                .filter_map(|e| e.ok()?.file_name().into_string().ok())
                .filter(|n| n.starts_with(&own))
                .map(|n| format!("namespace {n}")),
        );
    }
    let dir = format!("/run/sluice-{name}");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    left.extend(mounts.lines().filter(|l| l.contains(&format!("{dir}/"))).map(|l| format!("mount {l}")));
    if Path::new(&dir).exists() {
        left.push(format!("directory {dir}"));
    }
    left.extend(processes_naming(&format!("{dir}/")).into_iter().map(|p| format!("process {p}")));
    left
}

/// Processes whose command line names a path of the instance.
fn processes_naming(text: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u64>().ok()) else { continue };
        let mut line = Vec::new();
        let read =
            std::fs::File::open(entry.path().join("cmdline")).and_then(|mut f| f.read_to_end(&mut line));
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if read.is_ok() && line.contains(text) && alive(pid) {
            found.push(format!("{pid} {line}"));
        }
    }
    found
}

/// Ids of BPF programs on the machine, by name.
pub fn bpf_programs(name: &str) -> usize {
    let listed = run("bpftool", &["-j", "prog", "list"]);
    let programs: Value = serde_json::from_str(&listed.out).unwrap_or(Value::Null);
    programs.as_array().map_or(0, |all| all.iter().filter(|p| p["name"] == name).count())
}
