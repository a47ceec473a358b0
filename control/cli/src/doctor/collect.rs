//! Collects [`Facts`] from `ip -json`, `ethtool -k`/`-i`, `/proc` and `/sys`.
//!
//! `ip` and `ethtool` are used instead of netlink crates: both are needed by the fixes anyway, their output here
//! is documented (JSON) or has not changed in fifteen years, and `sluice` stays free of two netlink stacks.

use super::facts::*;
use crate::lab::netns::{NETNS_DIR, NetnsError, in_netns, run, sysctl_path};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

#[derive(Deserialize)]
struct IpLink {
    ifindex: u32,
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    link_index: Option<u32>,
    /// Name of the other end when it is in the same namespace.
    #[serde(default)]
    link: Option<String>,
    #[serde(default)]
    link_netnsid: Option<i64>,
    #[serde(default)]
    master: Option<String>,
    #[serde(default)]
    linkinfo: Option<LinkInfo>,
    #[serde(default)]
    xdp: Option<IpXdp>,
}

#[derive(Deserialize, Default)]
struct LinkInfo {
    #[serde(default)]
    info_kind: Option<String>,
    #[serde(default)]
    info_slave_data: Option<SlaveData>,
}

#[derive(Deserialize)]
struct SlaveData {
    #[serde(default)]
    state: Option<String>,
}

#[derive(Deserialize)]
struct IpXdp {
    /// `XDP_ATTACHED_*`: 1 driver, 2 generic, 3 offload, 4 several.
    mode: u32,
    #[serde(default)]
    prog: Option<IpProgram>,
}

#[derive(Deserialize)]
struct IpProgram {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
struct IpAddr2 {
    ifname: String,
    #[serde(default)]
    addr_info: Vec<AddrInfo>,
}

#[derive(Deserialize)]
struct AddrInfo {
    #[serde(default)]
    local: Option<IpAddr>,
}

#[derive(Deserialize)]
struct IpNeighbour {
    dst: String,
    dev: String,
    #[serde(default)]
    state: Vec<String>,
}

#[derive(Deserialize)]
struct NetnsId {
    nsid: i64,
    #[serde(default)]
    name: Option<String>,
}

/// A namespace as found, before the ends of its cables are matched.
struct RawNetns {
    name: Option<String>,
    links: Vec<IpLink>,
    ids: BTreeMap<i64, Option<String>>,
}

/// Looks at the machine and at the namespaces named; `None` is the one doctor runs in.
pub fn collect(names: &[Option<String>]) -> Result<Facts, NetnsError> {
    let mut machine = machine();
    for program in ["ip", "ethtool"] {
        if run(None, program, &["--version"]).is_err() && run(None, program, &["-V"]).is_err() {
            let package = if program == "ip" { "iproute2" } else { program };
            machine.missing_programs.push(package.to_owned());
        }
    }
    if machine.missing_programs.iter().any(|p| p == "iproute2") {
        return Ok(Facts { machine, namespaces: Vec::new() });
    }
    let raw: Vec<RawNetns> = names.iter().map(|n| raw_netns(n.as_deref())).collect::<Result<_, _>>()?;
    let namespaces = raw.iter().map(|n| netns(n, &raw)).collect::<Result<_, _>>()?;
    Ok(Facts { machine, namespaces })
}

/// Names of all namespaces of the machine.
pub fn all_netns() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn json<T: for<'de> Deserialize<'de>>(netns: Option<&str>, args: &[&str]) -> Result<Vec<T>, NetnsError> {
    let mut all = vec!["-j"];
    if let Some(name) = netns {
        all.extend(["-n", name]);
    }
    all.extend(args);
    let text = run(None, "ip", &all)?;
    let text = if text.trim().is_empty() { "[]" } else { text.as_str() };
    // Lists may hold empty objects for what does not apply; they are skipped, not guessed at.
    let values: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|e| NetnsError::Command {
        command: format!("ip {}", all.join(" ")),
        stderr: format!("answered what is no JSON: {e}"),
    })?;
    Ok(values.into_iter().filter_map(|v| serde_json::from_value(v).ok()).collect())
}

fn raw_netns(name: Option<&str>) -> Result<RawNetns, NetnsError> {
    let links = json(name, &["-d", "link", "show"])?;
    let ids: Vec<NetnsId> = json(name, &["netns", "list-id"])?;
    Ok(RawNetns {
        name: name.map(str::to_owned),
        links,
        ids: ids.into_iter().map(|i| (i.nsid, i.name)).collect(),
    })
}

/// Finds the other end of a cable: named, or by both indices in the namespace its id stands for.
fn peer_of(own: &RawNetns, link: &IpLink, all: &[RawNetns]) -> Option<Place> {
    if let Some(name) = &link.link {
        return Some(Place { netns: own.name.clone(), iface: name.clone() });
    }
    let there = own.ids.get(&link.link_netnsid?)?;
    // An id without a name is a namespace without one; of those, only doctor's own is looked at.
    let netns = all.iter().find(|n| &n.name == there)?;
    let peer = netns.links.iter().find(|l| {
        Some(l.ifindex) == link.link_index && l.link_index == Some(link.ifindex) && kind(l) == "veth"
    })?;
    Some(Place { netns: netns.name.clone(), iface: peer.ifname.clone() })
}

fn kind(link: &IpLink) -> &str {
    link.linkinfo.as_ref().and_then(|i| i.info_kind.as_deref()).unwrap_or_default()
}

fn netns(raw: &RawNetns, all: &[RawNetns]) -> Result<Netns, NetnsError> {
    let name = raw.name.as_deref();
    let mut links = Vec::new();
    for link in &raw.links {
        links.push(one_link(raw, link, all)?);
    }
    let addresses: Vec<IpAddr2> = json(name, &["addr", "show", "dev", "lo"])?;
    let neighbours: Vec<IpNeighbour> = json(name, &["neigh", "show", "nud", "failed"])?;
    Ok(Netns {
        name: raw.name.clone(),
        links,
        local_vips: addresses
            .iter()
            .filter(|a| a.ifname == "lo")
            .flat_map(|a| a.addr_info.iter().filter_map(|i| i.local))
            .filter(|a| !a.is_loopback())
            .collect(),
        arp_ignore: sysctl(name, "net.ipv4.conf.all.arp_ignore")?.unwrap_or(0),
        arp_announce: sysctl(name, "net.ipv4.conf.all.arp_announce")?.unwrap_or(0),
        rp_filter: sysctl(name, "net.ipv4.conf.all.rp_filter")?.unwrap_or(0),
        failed_neighbours: neighbours
            .into_iter()
            .filter(|n| n.state.iter().any(|s| s == "FAILED"))
            .map(|n| Neighbour { address: n.dst, iface: n.dev })
            .collect(),
    })
}

fn one_link(raw: &RawNetns, link: &IpLink, all: &[RawNetns]) -> Result<Link, NetnsError> {
    let name = raw.name.as_deref();
    // Without ethtool the offloads stay unknown, which `program-missing` says.
    let features = run(name, "ethtool", &["-k", &link.ifname]).unwrap_or_default();
    let features = parse_features(&features);
    let on = |feature: &str| features.get(feature).copied().unwrap_or(false);
    let driver = run(name, "ethtool", &["-i", &link.ifname]).unwrap_or_default();
    let driver = driver.lines().find_map(|l| l.strip_prefix("driver: ")).unwrap_or_default();
    let info = link.linkinfo.as_ref();
    let master = link.master.clone();
    Ok(Link {
        name: link.ifname.clone(),
        kind: kind(link).to_owned(),
        driver: driver.to_owned(),
        up: link.flags.iter().any(|f| f == "UP"),
        mtu: link.mtu,
        xdp: match link.xdp.as_ref().map(|x| x.mode) {
            None | Some(0) => Xdp::None,
            Some(2) => Xdp::Generic,
            Some(3) => Xdp::Offload,
            Some(_) => Xdp::Driver,
        },
        xdp_program: link.xdp.as_ref().and_then(|x| x.prog.as_ref()?.name.clone()).unwrap_or_default(),
        peer: if kind(link) == "veth" { peer_of(raw, link, all) } else { None },
        port_state: info.and_then(|i| i.info_slave_data.as_ref()).and_then(|d| d.state.clone()),
        master,
        tx_checksum: on("tx-checksumming"),
        gro: on("generic-receive-offload"),
        lro: on("large-receive-offload"),
        hardware_gro: on("rx-gro-hw"),
        rp_filter: sysctl(name, &format!("net.ipv4.conf.{}.rp_filter", link.ifname.replace('.', "\0")))?
            .unwrap_or(0),
    })
}

/// `name: on|off [fixed]` lines of `ethtool -k`.
fn parse_features(text: &str) -> BTreeMap<String, bool> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.trim().split_once(": ")?;
            Some((name.to_owned(), value.starts_with("on")))
        })
        .collect()
}

/// A numeric setting; `None`: the kernel has none of that name. `\0` in a key stands for a dot in a name.
fn sysctl(netns: Option<&str>, key: &str) -> Result<Option<u32>, NetnsError> {
    let path = sysctl_path(key).to_string_lossy().replace('\0', ".");
    let read = || fs::read_to_string(&path).ok().and_then(|t| t.trim().parse().ok());
    match netns {
        Some(name) => in_netns(name, read),
        None => Ok(read()),
    }
}

fn machine() -> Machine {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // Limits of the shell: what is started next has those, and a fix can change them.
    let shell_pid = rustix::process::getppid().map_or(1, |p| p.as_raw_nonzero().get().unsigned_abs());
    let limits = fs::read_to_string(format!("/proc/{shell_pid}/limits")).unwrap_or_default();
    let read = |key| sysctl(None, key).ok().flatten();
    Machine {
        kernel: parse_release(&release),
        btf: fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false),
        io_uring_disabled: read("kernel.io_uring_disabled"),
        bpf_jit: read("net.core.bpf_jit_enable"),
        nofile_hard: parse_limit(&limits, "Max open files").and_then(|l| l.1),
        memlock: parse_limit(&limits, "Max locked memory").and_then(|l| l.0),
        bpffs: parse_bpffs(&mounts),
        huge_pages: u64::from(read("vm.nr_hugepages").unwrap_or(0)),
        root: rustix::process::geteuid().is_root(),
        shell_pid,
        missing_programs: Vec::new(),
    }
}

/// Soft and hard limit of a line of `/proc/PID/limits`; `None` inside: unlimited.
fn parse_limit(limits: &str, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let rest = limits.lines().find_map(|l| l.strip_prefix(name))?;
    let mut values = rest.split_whitespace().map(|v| v.parse().ok());
    Some((values.next()?, values.next()?))
}

fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn parse_bpffs(mounts: &str) -> Vec<String> {
    mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .filter(|f| f.get(2) == Some(&"bpf"))
        .filter_map(|f| f.get(1).map(|p| (*p).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_with_and_without_remarks() {
        let text = "Features for eth0:\nrx-checksumming: on [fixed]\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\n\
                    generic-receive-offload: off\nlarge-receive-offload: off [requested on]\n";
        let features = parse_features(text);
        assert!(features["rx-checksumming"] && features["tx-checksumming"]);
        assert!(!features["tx-checksum-ipv4"] && !features["generic-receive-offload"]);
        assert!(!features["large-receive-offload"]);
    }

    #[test]
    fn ends_of_cables_are_matched_by_namespace_and_both_indices() {
        let link = |text: String| serde_json::from_str::<IpLink>(&text).unwrap();
        let veth = |name: &str, index: u32, peer: u32| {
            link(format!(
                r#"{{"ifindex":{index},"ifname":"{name}","link_index":{peer},"link_netnsid":0,
                    "linkinfo":{{"info_kind":"veth"}},"flags":["UP"],"mtu":1500}}"#
            ))
        };
        let all = [
            RawNetns {
                name: Some("a".into()),
                links: vec![veth("eth0", 2, 3)],
                ids: BTreeMap::from([(0, Some("fabric".into()))]),
            },
            // Same indices elsewhere: not the peer.
            RawNetns { name: Some("b".into()), links: vec![veth("x", 3, 2)], ids: BTreeMap::new() },
            RawNetns {
                name: Some("fabric".into()),
                links: vec![veth("other", 3, 9), veth("ve-a", 3, 2)],
                ids: BTreeMap::from([(0, Some("a".into()))]),
            },
        ];
        let peer = peer_of(&all[0], &all[0].links[0], &all).unwrap();
        assert_eq!(peer, Place { netns: Some("fabric".into()), iface: "ve-a".into() });
        assert_eq!(peer_of(&all[1], &all[1].links[0], &all), None);
    }

    #[test]
    fn kernel_releases_of_distributions_are_read() {
        assert_eq!(parse_release("6.1.0-28-amd64\n"), (6, 1));
        assert_eq!(parse_release("6.18.44-fc-v595"), (6, 18));
        assert_eq!(parse_release(""), (0, 0));
    }

    #[test]
    fn limits_are_read_and_unlimited_is_none() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max locked memory         8388608              unlimited            bytes\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(parse_limit(text, "Max open files"), Some((Some(1024), Some(524_288))));
        assert_eq!(parse_limit(text, "Max locked memory"), Some((Some(8_388_608), None)));
        assert_eq!(parse_limit("", "Max open files"), None);
    }

    #[test]
    fn every_bpf_file_system_is_found() {
        let mounts = "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\nnone /run/x/bpf bpf rw 0 0\n";
        assert_eq!(parse_bpffs(mounts), ["/sys/fs/bpf", "/run/x/bpf"]);
    }
}
