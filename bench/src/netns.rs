//! Network namespaces of a measurement: made, wired and removed by name.
//!
//! Needs root and `ip`. Whatever a run that died left under the same names is removed first; everything goes
//! when the value is dropped.

use anyhow::{Context as _, Result, bail};
use std::process::{Command, Stdio};

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its namespace.
    pub space: &'a str,
    /// Its name.
    pub device: &'a str,
    /// Address and prefix length; empty: none.
    pub address: &'a str,
    /// Its MAC.
    pub mac: &'a str,
}

/// Namespaces that end with the value.
#[derive(Debug)]
pub struct Spaces {
    names: Vec<String>,
}

/// Runs a program to its end; its words are the error.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", args.join(" "), words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Spaces {
    /// Makes the namespaces, their loopback up.
    pub fn new(names: &[&str]) -> Result<Self> {
        let spaces = Self { names: names.iter().map(|n| (*n).to_owned()).collect() };
        spaces.remove();
        for name in names {
            run("ip", &["netns", "add", name])?;
            spaces.ip(name, &["link", "set", "lo", "up"])?;
        }
        Ok(spaces)
    }

    fn remove(&self) {
        for name in &self.names {
            // Absent is as good.
            let _removed = run("ip", &["netns", "delete", name]);
        }
    }

    /// `ip` in a namespace.
    pub fn ip(&self, space: &str, args: &[&str]) -> Result<String> {
        run("ip", &[&["-n", space], args].concat())
    }

    /// Any program in a namespace, to its end.
    pub fn exec(&self, space: &str, program: &[&str]) -> Result<String> {
        run("ip", &[&["netns", "exec", space], program].concat())
    }

    /// Any program in a namespace, to be started.
    pub fn command(&self, space: &str, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", space]).arg(program);
        command
    }

    /// A veth pair with one queue each way, both ends up. Checksums are written out (an XDP program that sends
    /// a frame on cannot finish them) and receive runs by NAPI, as with a NIC.
    pub fn veth(&self, a: End<'_>, b: End<'_>) -> Result<()> {
        let queues = ["numtxqueues", "1", "numrxqueues", "1"];
        let one = ["link", "add", a.device, "address", a.mac];
        let other = ["type", "veth", "peer", "name", b.device, "address", b.mac, "netns", b.space];
        self.ip(a.space, &[&one[..], &queues, &other, &queues].concat())?;
        for end in [a, b] {
            if !end.address.is_empty() {
                self.ip(end.space, &["address", "add", end.address, "dev", end.device])?;
            }
            self.exec(end.space, &["ethtool", "-K", end.device, "tx", "off", "gro", "on"])?;
            self.ip(end.space, &["link", "set", end.device, "up"])?;
        }
        Ok(())
    }

    /// Index of a device.
    pub fn index(&self, space: &str, device: &str) -> Result<u32> {
        let path = format!("/sys/class/net/{device}/ifindex");
        let text = self.exec(space, &["cat", &path])?;
        text.trim().parse().with_context(|| format!("index of {device}: {text}"))
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        self.remove();
    }
}
