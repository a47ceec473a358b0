//! The bed: an emulated bare-metal server that runs a script on a kernel and hardware of choice.
//!
//! QEMU's software processor needs no virtualization beneath it, so the bed runs wherever its Debian packages
//! do. A run builds an initial RAM disk (busybox, kernel modules, the files under test with the libraries they
//! need), boots it, runs a busybox shell script as root and hands back what it printed and its exit status.
//!
//! ```text
//! Bed { kernel, files, devices } -> initrd -> QEMU: kernel -> /init -> script
//!                                                ttyS1 -> output     ttyS2 -> exit status     ttyS0 -> kernel log
//! ```
//! Nothing stays behind but the installed packages and the kernels in the cache directory.

#![forbid(unsafe_code)]

mod kernel;
mod lz4;
mod tree;

pub use kernel::{Kernel, Series};

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Programs the bed needs and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("apt-get", "apt"),
];

/// Why a run did not come to the script's end.
#[derive(Debug, Error)]
pub enum Error {
    /// The bed cannot be had on this machine: a test says `skipped:` with it.
    #[error("no bed here: {0}")]
    Unavailable(String),
    /// A step of the bed's own failed.
    #[error("{step}: {why}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// What came of it.
        why: String,
    },
    /// The server did not stop in time.
    #[error("the server was not done after {after:?}; its kernel log ends:\n{log}")]
    Timeout {
        /// The limit.
        after: Duration,
        /// End of the kernel log.
        log: String,
    },
}

/// Result of the bed.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn step<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Error {
    move |why| Error::Step { step, why: why.to_string() }
}

/// Runs a program of the bed's own to its end.
pub(crate) fn command(what: &'static str, command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(step(what))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Step { step: what, why: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// A server to boot.
#[derive(Clone, Debug)]
pub struct Bed {
    kernel: Kernel,
    memory_mib: u32,
    cpus: u32,
    limit: Duration,
    modules: Vec<String>,
    files: Vec<(PathBuf, String)>,
    devices: Vec<String>,
    kernel_args: String,
}

/// What a script came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: i32,
    /// What it printed.
    pub output: String,
    /// The server's kernel log.
    pub kernel_log: String,
    /// From QEMU's start to its end.
    pub took: Duration,
}

impl Bed {
    /// A server of two processors and 1 GiB on the newest kernel of a series.
    pub fn new(series: Series) -> Result<Bed> {
        install()?;
        Ok(Bed {
            kernel: Kernel::get(series)?,
            memory_mib: 1024,
            cpus: 2,
            limit: Duration::from_secs(300),
            modules: Vec::new(),
            files: Vec::new(),
            devices: Vec::new(),
            kernel_args: String::new(),
        })
    }

    /// The kernel it boots.
    pub const fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Memory of the server.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Bed {
        self.memory_mib = mib;
        self
    }

    /// Time after which the server is stopped.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Bed {
        self.limit = limit;
        self
    }

    /// Puts a kernel module in, with those it depends on, and loads it at start.
    #[must_use]
    pub fn module(mut self, name: &str) -> Bed {
        self.modules.push(name.to_owned());
        self
    }

    /// Puts a file in, with the shared libraries it needs.
    #[must_use]
    pub fn file(mut self, from: impl Into<PathBuf>, to: &str) -> Bed {
        self.files.push((from.into(), to.to_owned()));
        self
    }

    /// Adds arguments of QEMU.
    #[must_use]
    pub fn device(mut self, args: &[&str]) -> Bed {
        self.devices.extend(args.iter().map(|&a| a.to_owned()));
        self
    }

    /// Adds arguments of the server's kernel.
    #[must_use]
    pub fn kernel_args(mut self, args: &str) -> Bed {
        self.kernel_args = args.to_owned();
        self
    }

    /// Boots the server and runs a busybox shell script in it.
    pub fn run(&self, script: &str) -> Result<Outcome> {
        let work =
            tempfile::Builder::new().prefix("sluice-bed-").tempdir().map_err(step("make a directory"))?;
        let initrd = work.path().join("initrd");
        tree::build(work.path(), &initrd, &self.kernel, &self.modules, &self.files, script)?;
        let at = |name: &str| work.path().join(name);
        for name in ["console", "output", "status"] {
            std::fs::write(at(name), "").map_err(step("make a file"))?;
        }
        let serial = |name: &str| format!("file:{}", at(name).display());
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-nodefaults",
            "-no-user-config",
        ])
        .args(["-display", "none", "-no-reboot"])
        .args(["-m", &self.memory_mib.to_string(), "-smp", &self.cpus.to_string()])
        .args(["-serial", &serial("console"), "-serial", &serial("output"), "-serial", &serial("status")])
        .args(&self.devices)
        .arg("-kernel")
        .arg(self.kernel.image())
        .arg("-initrd")
        .arg(&initrd)
        .args(["-append", &format!("console=ttyS0 panic=-1 quiet loglevel=6 {}", self.kernel_args)]);
        let started = Instant::now();
        let child = qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(step("start QEMU"))?;
        let text =
            |name: &str| String::from_utf8_lossy(&std::fs::read(at(name)).unwrap_or_default()).into_owned();
        loop {
            if child.try_wait().map_err(step("wait for QEMU"))?.is_some() {
                break;
            }
            if started.elapsed() > self.limit {
                child.kill().map_err(step("stop QEMU"))?;
                child.wait().map_err(step("wait for QEMU"))?;
                return Err(Error::Timeout {
                    after: self.limit,
                    log: end_of(&(text("console") + &text("output"))),
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let output = child.wait_with_output().map_err(step("wait for QEMU"))?;
        let Ok(status) = text("status").trim().parse() else {
            let why = format!(
                "no exit status; {}{}",
                String::from_utf8_lossy(&output.stderr),
                end_of(&text("console"))
            );
            return Err(Error::Step { step: "run the script", why });
        };
        let kernel_log = text("console");
        Ok(Outcome { status, output: text("output").replace('\r', ""), kernel_log, took: started.elapsed() })
    }
}

/// Writes an initial RAM disk for a guest of the server: it loads `modules`, runs a busybox shell script on its
/// console, prints `guest status N` and powers off.
pub fn guest_initrd(kernel: &Kernel, modules: &[&str], script: &str, to: &Path) -> Result<()> {
    let work =
        tempfile::Builder::new().prefix("sluice-guest-").tempdir().map_err(step("make a directory"))?;
    let modules: Vec<String> = modules.iter().map(|&m| m.to_owned()).collect();
    tree::build_guest(work.path(), to, kernel, &modules, script)
}

/// The last lines of a log.
fn end_of(log: &str) -> String {
    const LINES: usize = 30;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn has(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|dir| std::path::Path::new(dir).join(program).exists())
}

/// Installs what is missing, as root on Debian; elsewhere says what is.
fn install() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS.iter().filter(|(p, _)| !has(p)).map(|&(_, package)| package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !has("apt-get") {
        return Err(Error::Unavailable(format!("{} not installed, and no apt-get", missing.join(", "))));
    }
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "--no-install-recommends", "seabios", "ipxe-qemu"])
        .args(&missing);
    command("apt-get install", &mut apt)
        .map(drop)
        .map_err(|e| Error::Unavailable(format!("cannot install {}: {e}", missing.join(", "))))
}
