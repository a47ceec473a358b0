//! A backend of direct return has the VIP on loopback and must not answer ARP for it (ip-sysctl: `arp_ignore`,
//! `arp_announce`). IPv6 needs nothing: neighbour discovery answers only for addresses of the interface asked.

use std::io;
use std::path::Path;

const SAVED: &str = "arp.saved";

/// Answer only for addresses of the interface asked (1), and never name a VIP as source (2). Former values are
/// kept in the state directory the first time.
pub fn hide(state: &Path, iface: Option<&str>) -> io::Result<()> {
    let scope = iface.unwrap_or("all");
    let mut saved = String::new();
    for (name, value) in [("arp_ignore", 1u8), ("arp_announce", 2)] {
        let path = format!("/proc/sys/net/ipv4/conf/{scope}/{name}");
        let now = std::fs::read_to_string(&path)?;
        // The kernel takes the larger of `all` and the interface's own value.
        if now.trim().parse::<u8>().is_ok_and(|now| now >= value) {
            continue;
        }
        saved.push_str(&format!("{path} {}\n", now.trim()));
        std::fs::write(&path, value.to_string())?;
    }
    if !saved.is_empty() && !state.join(SAVED).exists() {
        std::fs::write(state.join(SAVED), saved)?;
    }
    Ok(())
}

/// Gives the former values back.
pub fn show(state: &Path) -> io::Result<()> {
    let path = state.join(SAVED);
    let saved = match std::fs::read_to_string(&path) {
        Ok(saved) => saved,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for (setting, value) in saved.lines().filter_map(|line| line.split_once(' ')) {
        if setting.starts_with("/proc/sys/net/ipv4/conf/") && Path::new(setting).exists() {
            std::fs::write(setting, value)?;
        }
    }
    std::fs::remove_file(path)
}
