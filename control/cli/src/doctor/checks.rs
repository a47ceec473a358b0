//! From facts to findings. Pure; each check is one function and names the trouble a user would see.

use super::facts::{Facts, Link, Netns, Place, Xdp};
use super::segment::Segments;
use serde::Serialize;

/// What the operator said is meant to happen, beyond what is attached now.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    /// Interfaces asked about; empty: all.
    pub ifaces: Vec<String>,
    /// These interfaces are to run XDP.
    pub expect_xdp: bool,
    /// Packets are to be encapsulated.
    pub expect_ipip: bool,
}

impl Intent {
    fn wants_xdp(&self, link: &Link) -> bool {
        link.xdp != Xdp::None
            || (self.expect_xdp
                && (self.ifaces.is_empty() || self.ifaces.contains(&link.name))
                && link.name != "lo")
    }

    fn transmits(&self, link: &Link) -> bool {
        self.wants_xdp(link) && !RECEIVE_ONLY.contains(&link.xdp_program.as_str())
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Packets or programs fail.
    Problem,
    /// It may fail, or be slow, depending on what is meant.
    Warning,
}

/// A command that repairs a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `--fix` may run it: it is quick, and undone as easily.
    pub automatic: bool,
}

impl Fix {
    fn run<const N: usize>(argv: [&str; N]) -> Self {
        Fix { argv: argv.iter().map(|a| (*a).to_owned()).collect(), automatic: true }
    }

    fn by_hand<const N: usize>(argv: [&str; N]) -> Self {
        Fix { automatic: false, ..Fix::run(argv) }
    }

    /// Inside the namespace of `place`.
    fn at(self, place: &Place) -> Self {
        let Some(netns) = &place.netns else { return self };
        let mut argv: Vec<String> = ["ip", "netns", "exec", netns].map(str::to_owned).to_vec();
        argv.extend(self.argv);
        Fix { argv, ..self }
    }

    /// As one would type it.
    pub fn command(&self) -> String {
        self.argv.iter().map(|a| shell_word(a)).collect::<Vec<_>>().join(" ")
    }
}

/// Interface names may hold nearly any byte.
fn shell_word(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,@+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Something that keeps packets or programs from working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable name of the check.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// Where; `None`: the machine.
    pub place: Option<Place>,
    /// What was found and what comes of it.
    pub what: String,
    /// What repairs it.
    pub fix: Option<Fix>,
}

fn problem(check: &'static str, place: Option<Place>, what: impl Into<String>, fix: Option<Fix>) -> Finding {
    Finding { check, level: Level::Problem, place, what: what.into(), fix }
}

fn warning(check: &'static str, place: Option<Place>, what: impl Into<String>, fix: Option<Fix>) -> Finding {
    Finding { level: Level::Warning, ..problem(check, place, what, fix) }
}

/// Bytes that an outer IPv6 header adds; an outer IPv4 header adds 20.
const ENCAP_BYTES: u32 = 40;
/// Largest packet the outside sends.
const OUTSIDE_MTU: u32 = 1500;
/// One page less headroom and the trailing `skb_shared_info`: what most drivers take in XDP without fragments.
const DRIVER_XDP_MTU_MAX: u32 = 3498;
/// io_uring with `DEFER_TASKRUN` and multishot receive.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// From here on BPF memory is charged to the memory cgroup, not to the lock limit.
const KERNEL_BPF_MEMCG: (u32, u32) = (5, 11);
/// Tables of a small node, bytes.
const MEMLOCK_MIN: u64 = 256 << 20;
/// Two descriptors for each of 32,768 connections of a small node.
const NOFILE_MIN: u64 = 65_536;
/// Drivers with native XDP in kernel 6.1.
const XDP_DRIVERS: [&str; 28] = [
    "veth",
    "virtio_net",
    "tun",
    "bond",
    "ena",
    "gve",
    "hv_netvsc",
    "vmxnet3",
    "xen-netfront",
    "mlx4_en",
    "mlx5_core",
    "i40e",
    "ice",
    "iavf",
    "ixgbe",
    "ixgbevf",
    "igb",
    "igc",
    "bnxt_en",
    "qede",
    "sfc",
    "nfp",
    "thunder_xcv",
    "dpaa2-eth",
    "mvneta",
    "mvpp2",
    "cpsw",
    "stmmac",
];

/// Programs of ours that transmit nothing.
const RECEIVE_ONLY: [&str; 2] = ["sluice_decap", "sluice_pass"];

/// All findings, problems first.
pub fn check(facts: &Facts, intent: &Intent) -> Vec<Finding> {
    let mut found = machine(facts);
    let segments = Segments::of(facts);
    for netns in &facts.namespaces {
        for link in &netns.links {
            let place = netns.place(link);
            if link.up {
                found.extend(tx_checksum(facts, &segments, &place, link, intent));
                found.extend(transmit_peer(facts, &place, link, intent));
                found.extend(redirect_peer(facts, netns, &place, link, intent));
                found.extend(encapsulation_room(facts, &segments, &place, link, intent));
                found.extend(driver_mode(&place, link, intent));
                found.extend(receive_merging(&place, link, intent));
                found.extend(bridge_port(&place, link));
            }
            found.extend(link_down(&place, link, intent));
        }
        found.extend(missing_interfaces(netns, intent));
        found.extend(direct_return(netns));
        found.extend(neighbours(netns, intent));
    }
    found.sort_by_key(|f| f.level);
    found
}

fn machine(facts: &Facts) -> Vec<Finding> {
    let m = &facts.machine;
    let mut found = Vec::new();
    for program in &m.missing_programs {
        let fix = Fix::run(["apt-get", "install", "-y", program]);
        found.push(problem(
            "program-missing",
            None,
            format!("`{program}` is not installed: parts of this report are missing"),
            Some(fix),
        ));
    }
    if m.kernel < KERNEL_MIN {
        let what = format!(
            "kernel {}.{} is too old: {}.{} is needed for io_uring with deferred task work",
            m.kernel.0, m.kernel.1, KERNEL_MIN.0, KERNEL_MIN.1
        );
        found.push(problem(
            "kernel-old",
            None,
            what,
            Some(Fix::by_hand(["apt-get", "install", "linux-image-amd64"])),
        ));
    }
    if !m.btf {
        let what =
            "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF): some maps cannot be described, tracing is off";
        found.push(warning("btf-missing", None, what, None));
    }
    match m.io_uring_disabled {
        Some(2) => found.push(problem(
            "io-uring-disabled",
            None,
            "io_uring is switched off on this machine: the proxy cannot start",
            Some(Fix::run(["sysctl", "-w", "kernel.io_uring_disabled=0"])),
        )),
        Some(1) if !m.root => found.push(problem(
            "io-uring-disabled",
            None,
            "io_uring is for privileged users only: the proxy cannot start as this user",
            Some(Fix::run(["sysctl", "-w", "kernel.io_uring_disabled=0"])),
        )),
        _ => {}
    }
    if m.bpf_jit == Some(0) {
        let fix = Fix::run(["sysctl", "-w", "net.core.bpf_jit_enable=1"]);
        found.push(problem(
            "bpf-jit-off",
            None,
            "BPF programs are interpreted, several times slower",
            Some(fix),
        ));
    }
    if m.bpffs.is_empty() {
        let fix = Fix::run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"]);
        let what =
            "no BPF file system is mounted: tables cannot be pinned, so forwarding would end with the agent";
        found.push(problem("bpffs-missing", None, what, Some(fix)));
    }
    let shell = m.shell_pid.to_string();
    if m.nofile_hard.is_some_and(|limit| limit < NOFILE_MIN) {
        let limit = m.nofile_hard.unwrap_or_default();
        let what = format!("at most {limit} open files: connections are refused beyond about {}", limit / 2);
        let fix = Fix::run(["prlimit", "--pid", &shell, &format!("--nofile={NOFILE_MIN}:1048576")]);
        found.push(problem("nofile-low", None, what, Some(fix)));
    }
    if m.kernel < KERNEL_BPF_MEMCG && m.memlock.is_some_and(|limit| limit < MEMLOCK_MIN) {
        let what = "this kernel charges BPF tables to the locked-memory limit, which is too low for them";
        let fix = Fix::run(["prlimit", "--pid", &shell, "--memlock=unlimited"]);
        found.push(problem("memlock-low", None, what, Some(fix)));
    }
    if m.huge_pages == 0 {
        let what = "no huge pages are reserved: virtual machines and large stores fall back to small pages";
        found.push(warning(
            "huge-pages-none",
            None,
            what,
            Some(Fix::by_hand(["sysctl", "-w", "vm.nr_hugepages=512"])),
        ));
    }
    found
}

/// Pitfall 1: packets made on this machine leave with a checksum still owed; XDP forwards the bytes as they are.
fn tx_checksum(
    facts: &Facts,
    segments: &Segments,
    place: &Place,
    link: &Link,
    intent: &Intent,
) -> Option<Finding> {
    let near_xdp = || segments.members(place).filter_map(|p| facts.link(p)).any(|l| intent.wants_xdp(l));
    if link.kind != "veth" || !link.tx_checksum || !near_xdp() {
        return None;
    }
    let what = "transmit checksum offload is on where XDP forwards: packets made on this machine carry no \
                checksum, and TCP through the balancer dies without an error";
    let fix = Fix::run(["ethtool", "-K", &link.name, "tx", "off"]).at(place);
    Some(problem("tx-checksum-offload", Some(place.clone()), what, Some(fix)))
}

/// Pitfall 3: XDP_TX into a veth whose other end has no XDP program.
fn transmit_peer(facts: &Facts, place: &Place, link: &Link, intent: &Intent) -> Option<Finding> {
    if link.kind != "veth" || !intent.transmits(link) {
        return None;
    }
    let peer_place = link.peer.as_ref()?;
    let peer = facts.link(peer_place)?;
    if peer.xdp != Xdp::None {
        return None;
    }
    let what = format!(
        "the other end of {} has no XDP program: every packet the balancer sends back out of it is lost, and no \
         counter shows it",
        link.name
    );
    let fix = veth_pass(peer_place);
    Some(problem("xdp-tx-peer", Some(place.clone()), what, Some(fix)))
}

fn veth_pass(place: &Place) -> Fix {
    let mut argv = vec!["sluice".to_owned(), "veth-pass".into(), "--iface".into(), place.iface.clone()];
    if let Some(netns) = &place.netns {
        argv.extend(["--netns".into(), netns.clone()]);
    }
    Fix { argv, automatic: true }
}

/// Pitfall 2: XDP_REDIRECT into a veth whose other end has neither GRO nor an XDP program.
fn redirect_peer(
    facts: &Facts,
    netns: &Netns,
    place: &Place,
    link: &Link,
    intent: &Intent,
) -> Option<Finding> {
    let source = netns.links.iter().find(|l| l.name != link.name && l.up && intent.transmits(l))?;
    if link.kind != "veth" || intent.wants_xdp(link) {
        return None;
    }
    let peer_place = link.peer.as_ref()?;
    let peer = facts.link(peer_place)?;
    if peer.gro || peer.xdp != Xdp::None {
        return None;
    }
    let what = format!(
        "packets that XDP on {} redirects into {} are lost: its other end has generic receive offload off and no \
         XDP program",
        source.name, link.name
    );
    let fix = Fix::run(["ethtool", "-K", &peer_place.iface, "gro", "on"]).at(peer_place);
    Some(problem("xdp-redirect-peer", Some(place.clone()), what, Some(fix)))
}

/// Pitfall 4: no room for the outer header.
fn encapsulation_room(
    facts: &Facts,
    segments: &Segments,
    place: &Place,
    link: &Link,
    intent: &Intent,
) -> Option<Finding> {
    // What only sends and receives inner packets may keep its MTU: an end without XDP that is no bridge port.
    let carries = intent.wants_xdp(link) || link.master.is_some() || link.kind == "bridge";
    let near_xdp = || segments.members(place).filter_map(|p| facts.link(p)).any(|l| intent.wants_xdp(l));
    if !carries || link.mtu >= OUTSIDE_MTU + ENCAP_BYTES || !near_xdp() {
        return None;
    }
    let needed = OUTSIDE_MTU + ENCAP_BYTES;
    let what = format!(
        "MTU {} leaves no room for the outer header of `ipip` VIPs: full packets ({OUTSIDE_MTU} bytes and up to \
         {ENCAP_BYTES}) are dropped, so uploads stall while small requests work; every interface on the way needs \
         {needed}",
        link.mtu
    );
    let fix = Fix::run(["ip", "link", "set", "dev", &link.name, "mtu", &needed.to_string()]).at(place);
    let make = if intent.expect_ipip { problem } else { warning };
    Some(make("encapsulation-room", Some(place.clone()), what, Some(fix)))
}

/// The program runs in the stack instead of the driver, or could only run there.
fn driver_mode(place: &Place, link: &Link, intent: &Intent) -> Option<Finding> {
    let at = Some(place.clone());
    if link.xdp == Xdp::Generic {
        let what = format!(
            "XDP runs in generic mode on {} (driver {}): every packet first becomes a socket buffer, several times \
             slower; take the program off, remove the cause (below, if any is listed), and start the agent again",
            link.name,
            if link.driver.is_empty() { "unknown" } else { &link.driver }
        );
        let fix = Fix::by_hand(["ip", "link", "set", "dev", &link.name, "xdpgeneric", "off"]).at(place);
        return Some(problem("xdp-generic-mode", at, what, Some(fix)));
    }
    if !intent.wants_xdp(link) || link.xdp != Xdp::None {
        return None;
    }
    if link.mtu > DRIVER_XDP_MTU_MAX {
        let what = format!(
            "MTU {} is above what a driver takes for XDP in one page: driver mode will be refused",
            link.mtu
        );
        let mtu = DRIVER_XDP_MTU_MAX.to_string();
        let fix = Fix::run(["ip", "link", "set", "dev", &link.name, "mtu", &mtu]).at(place);
        return Some(problem("xdp-mtu-large", at, what, Some(fix)));
    }
    let driver = if link.kind == "veth" || link.kind == "tun" { &link.kind } else { &link.driver };
    if !XDP_DRIVERS.contains(&driver.as_str()) {
        let shown = if driver.is_empty() { "unknown" } else { driver.as_str() };
        let what = format!(
            "driver {shown} is not known to run XDP itself: only the slow generic mode may be available"
        );
        return Some(warning("xdp-driver-unknown", at, what, None));
    }
    None
}

/// Merged packets are larger than XDP can see.
fn receive_merging(place: &Place, link: &Link, intent: &Intent) -> Vec<Finding> {
    if !intent.wants_xdp(link) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (on, feature, name) in [
        (link.lro, "lro", "large receive offload"),
        (link.hardware_gro, "rx-gro-hw", "hardware receive merging"),
    ] {
        if on {
            let what = format!("{name} is on: the driver refuses native XDP, or hands it merged packets");
            let fix = Fix::run(["ethtool", "-K", &link.name, feature, "off"]).at(place);
            found.push(problem("receive-merging", Some(place.clone()), what, Some(fix)));
        }
    }
    found
}

fn bridge_port(place: &Place, link: &Link) -> Option<Finding> {
    let (state, master) = (link.port_state.as_deref()?, link.master.as_deref()?);
    if !matches!(state, "listening" | "learning" | "blocking") {
        return None;
    }
    let what =
        format!("port {} of bridge {master} is {state} (spanning tree): it forwards nothing yet", link.name);
    let fix = Fix::run(["ip", "link", "set", "dev", master, "type", "bridge", "stp_state", "0"]).at(place);
    Some(problem("bridge-port-blocked", Some(place.clone()), what, Some(fix)))
}

fn link_down(place: &Place, link: &Link, intent: &Intent) -> Option<Finding> {
    let asked = intent.ifaces.contains(&link.name);
    if link.up || !(asked || link.xdp != Xdp::None) {
        return None;
    }
    let fix = Fix::run(["ip", "link", "set", "dev", &link.name, "up"]).at(place);
    Some(problem("link-down", Some(place.clone()), format!("{} is down", link.name), Some(fix)))
}

fn missing_interfaces(netns: &Netns, intent: &Intent) -> Vec<Finding> {
    // In several namespaces a name need not be in each.
    let missing = |name: &&String| netns.name.is_none() && !netns.links.iter().any(|l| l.name == **name);
    intent
        .ifaces
        .iter()
        .filter(missing)
        .map(|name| {
            let place = Place { netns: netns.name.clone(), iface: name.clone() };
            problem("interface-missing", Some(place), format!("there is no interface {name}"), None)
        })
        .collect()
}

/// A VIP on the loopback of a backend: it must not be announced, and its answers must not be filtered.
fn direct_return(netns: &Netns) -> Vec<Finding> {
    let Some(vip) = netns.local_vips.iter().find(|a| a.is_ipv4()) else { return Vec::new() };
    let place = Place { netns: netns.name.clone(), iface: "all".into() };
    let mut found = Vec::new();
    if netns.arp_ignore == 0 {
        let what = format!(
            "this backend answers ARP for the VIP {vip} on its loopback: clients on the segment may pass the balancer by"
        );
        let fix = Fix::run(["sysctl", "-w", "net.ipv4.conf.all.arp_ignore=1"]).at(&place);
        found.push(problem("arp-ignore", Some(place.clone()), what, Some(fix)));
    }
    if netns.arp_announce < 2 {
        let what = format!(
            "this backend may ask for neighbours in the name of the VIP {vip}, which teaches them its MAC"
        );
        let fix = Fix::run(["sysctl", "-w", "net.ipv4.conf.all.arp_announce=2"]).at(&place);
        found.push(problem("arp-announce", Some(place.clone()), what, Some(fix)));
    }
    for link in netns.links.iter().filter(|l| l.up && l.name != "lo") {
        if netns.rp_filter.max(link.rp_filter) != 1 {
            continue;
        }
        let what = format!(
            "strict reverse-path filtering on {}: packets for the VIP {vip} that come in on one interface and are \
             answered on another are dropped silently",
            link.name
        );
        // The larger of `all` and the interface counts, so loose (2) here is enough.
        let setting = format!("net.ipv4.conf.{}.rp_filter=2", link.name.replace('.', "/"));
        let place = netns.place(link);
        let fix = Fix::run(["sysctl", "-w", &setting]).at(&place);
        found.push(problem("rp-filter", Some(place), what, Some(fix)));
    }
    found
}

fn neighbours(netns: &Netns, intent: &Intent) -> Vec<Finding> {
    let balances = |iface: &str| netns.links.iter().any(|l| l.name == iface && intent.wants_xdp(l));
    netns
        .failed_neighbours
        .iter()
        .filter(|n| balances(&n.iface))
        .map(|n| {
            let place = Place { netns: netns.name.clone(), iface: n.iface.clone() };
            let what = format!(
                "{} does not answer on {}: a backend at that address gets nothing, and its MAC is unknown",
                n.address, n.iface
            );
            let fix = Fix::by_hand(["ping", "-c", "1", "-I", &n.iface, &n.address]).at(&place);
            warning("neighbour-unresolved", Some(place), what, Some(fix))
        })
        .collect()
}
