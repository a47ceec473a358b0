//! `sluice veth-pass`: an XDP program that passes everything, at the veth ends whose peers transmit from XDP.
//!
//! veth takes a frame sent by XDP_TX at its peer only while it has an XDP program itself; without one the frame
//! is lost and no counter shows it. The program is the loader's decapsulator with no address to take off: it
//! passes all. Its links are pinned, so it stays when this process ends and goes with the interface or with
//! `--detach`.

use crate::args::VethPassArgs;
use crate::exit::{self, CommandResult};
use crate::lab::netns::in_netns;
use anyhow::{Context, Result};
use sluice_loader::{AttachMode, Node, NodeConfig};
use std::path::{Path, PathBuf};

/// Below it a directory for each namespace: links of one name in two namespaces are two links.
const PIN_ROOT: &str = "/sys/fs/bpf/sluice-veth-pass";

/// Runs the command.
pub fn run(args: &VethPassArgs) -> CommandResult {
    let netns = args.netns.as_deref();
    if args.detach {
        for iface in &args.iface {
            Node::remove_pins(&pin_dir(Path::new(PIN_ROOT), netns, iface))
                .context("remove the pinned link")?;
        }
        // Fails while other links are pinned there, and when it is gone.
        let _empty = std::fs::remove_dir(PIN_ROOT);
        return Ok(exit::OK);
    }
    attach(Path::new(PIN_ROOT), netns, &args.iface)?;
    Ok(exit::OK)
}

/// Attaches the program to `ifaces` of `netns`, with pins below `root`.
pub fn attach(root: &Path, netns: Option<&str>, ifaces: &[String]) -> Result<()> {
    for iface in ifaces {
        let config = NodeConfig {
            pin_dir: pin_dir(root, netns, iface),
            ifaces: vec![iface.clone()],
            mode: AttachMode::Native,
        };
        let open = || Node::open_or_adopt(&config).map(drop);
        let opened = match netns {
            Some(name) => in_netns(name, open)?,
            None => open(),
        };
        opened.with_context(|| format!("attach the passing XDP program to {iface}"))?;
    }
    Ok(())
}

fn pin_dir(root: &Path, netns: Option<&str>, iface: &str) -> PathBuf {
    // bpffs refuses dots in names; both parts are names the kernel or `ip` accepted, so they hold no slash.
    let name = format!("{}@{iface}", netns.unwrap_or("")).replace('.', "_");
    root.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_interface_of_two_namespaces_has_two_pins() {
        let root = Path::new("/r");
        assert_ne!(pin_dir(root, Some("a"), "eth0"), pin_dir(root, Some("b"), "eth0"));
        assert_eq!(pin_dir(root, None, "eth0.7"), Path::new("/r/@eth0_7"));
    }
}
