//! Every trouble that can be made in a namespace: made, found by name, repaired by `--fix`, gone.

use serde_json::Value;
use sluice_system_tests::{run, run_in, skip, sluice, sluice_path};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Namespaces of one test: `HOST — fabric (bridge) — HOST`, removed on drop.
struct Net {
    name: String,
    hosts: Vec<String>,
}

impl Net {
    fn new(test: &str, hosts: &[&str]) -> Net {
        let name = format!("sluicedoc-{test}{}", std::process::id());
        let net = Net { name, hosts: hosts.iter().map(|h| (*h).to_owned()).collect() };
        let fabric = net.ns("fabric");
        run("ip", &["netns", "add", &fabric]).good();
        net.ip("fabric", "link add br0 mtu 1600 type bridge stp_state 0 forward_delay 0");
        net.ip("fabric", "link set br0 up");
        for (n, host) in net.hosts.iter().enumerate() {
            let ns = net.ns(host);
            run("ip", &["netns", "add", &ns]).good();
            let end = format!("ve-{host}");
            net.ip(
                "fabric",
                &format!("link add {end} mtu 1600 type veth peer name eth0 mtu 1600 netns {ns}"),
            );
            net.ip("fabric", &format!("link set {end} master br0 up"));
            net.ip(host, &format!("addr add 10.7.0.{}/24 dev eth0", n + 1));
            net.ip(host, "link set eth0 up");
            net.ip(host, "link set lo up");
            run_in(&ns, "ethtool", &["-K", "eth0", "tx", "off"]).good();
            run_in(&fabric, "ethtool", &["-K", &end, "tx", "off"]).good();
        }
        net
    }

    fn ns(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    fn ip(&self, host: &str, command: &str) {
        let ns = self.ns(host);
        let mut args = vec!["-n", ns.as_str()];
        args.extend(command.split(' '));
        run("ip", &args).good();
    }

    /// Runs doctor over these namespaces only.
    fn doctor(&self, more: &[&str]) -> Value {
        let names: Vec<String> =
            self.hosts.iter().map(String::as_str).chain(["fabric"]).map(|h| self.ns(h)).collect();
        let mut args = vec!["doctor", "--output", "json", "--only-netns"];
        args.extend(names.iter().flat_map(|n| ["--netns", n.as_str()]));
        args.extend(more);
        let ran = sluice(&args);
        let document: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        assert_eq!(ran.code == 0, document["healthy"] == true, "{ran:?}");
        document
    }

    /// Findings in the namespaces (the machine's own state is not this test's) as `check namespace interface`.
    fn found(&self, document: &Value, level: &str) -> Vec<String> {
        let all = document[level].as_array().expect("a list");
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        all.iter()
            .filter(|f| !f["netns"].is_null())
            .map(|f| {
                let ns = text(&f["netns"]).replace(&format!("{}-", self.name), "");
                format!("{} {ns} {}", text(&f["check"]), text(&f["interface"]))
            })
            .collect()
    }

    /// Asserts exactly these problems, repairs them, and asserts that none is left.
    fn found_and_fixed(&self, more: &[&str], expected: &[&str]) {
        let before = self.doctor(more);
        let mut problems = self.found(&before, "problems");
        problems.sort();
        let mut expected: Vec<&str> = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(problems, expected, "{before:#}");
        let mut with_fix = more.to_vec();
        with_fix.push("--fix");
        let fixed = self.doctor(&with_fix);
        assert_eq!(self.found(&fixed, "problems"), [""; 0], "{fixed:#}");
        assert!(!fixed["fixes_run"].as_array().expect("a list").is_empty());
        let after = self.doctor(more);
        assert_eq!(self.found(&after, "problems"), [""; 0], "{after:#}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            for (netns, iface) in
                [(self.ns(host), "eth0".to_owned()), (self.ns("fabric"), format!("ve-{host}"))]
            {
                // Most have none.
                sluice(&["veth-pass", "--detach", "--netns", &netns, "--iface", &iface]);
            }
        }
        for host in self.hosts.iter().map(String::as_str).chain(["fabric"]) {
            run("ip", &["netns", "del", &self.ns(host)]);
        }
    }
}

static BPFFS: Mutex<()> = Mutex::new(());

/// Attaching pins its link, which needs a BPF file system. Where there is none, one is mounted for the test and
/// taken away after it; tests that need it run one at a time. Every test of `--fix` holds it, since doctor would
/// mount one on the machine.
struct BpfFs {
    mounted: bool,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl BpfFs {
    /// `None`: none can be had, which is said.
    fn get() -> Option<BpfFs> {
        let guard = BPFFS.lock().unwrap_or_else(PoisonError::into_inner);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.lines().any(|l| l.contains(" /sys/fs/bpf bpf ")) {
            return Some(BpfFs { mounted: false, _one_at_a_time: guard });
        }
        let mounted = run("mount", &["-t", "bpf", "bpf", "/sys/fs/bpf"]);
        if mounted.code != 0 {
            println!("skipped: no BPF file system can be mounted: {}", mounted.err);
            return None;
        }
        Some(BpfFs { mounted: true, _one_at_a_time: guard })
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if self.mounted {
            run("umount", &["/sys/fs/bpf"]);
        }
    }
}

fn attach(net: &Net, host: &str, iface: &str) {
    sluice(&["veth-pass", "--netns", &net.ns(host), "--iface", iface]).good();
}

#[test]
fn checksum_offload_where_xdp_forwards() {
    if skip() {
        return;
    }
    let Some(_bpffs) = BpfFs::get() else { return };
    let net = Net::new("csum", &["client", "front"]);
    attach(&net, "front", "eth0");
    attach(&net, "fabric", "ve-front");
    assert_eq!(net.found(&net.doctor(&[]), "problems"), [""; 0]);
    run_in(&net.ns("client"), "ethtool", &["-K", "eth0", "tx", "on"]).good();
    run_in(&net.ns("fabric"), "ethtool", &["-K", "ve-client", "tx", "on"]).good();
    net.found_and_fixed(&[], &["tx-checksum-offload client eth0", "tx-checksum-offload fabric ve-client"]);
}

#[test]
fn a_peer_that_would_lose_what_xdp_transmits() {
    if skip() {
        return;
    }
    let Some(_bpffs) = BpfFs::get() else { return };
    let net = Net::new("tx", &["front"]);
    net.found_and_fixed(&["--iface", "eth0", "--expect-xdp"], &["xdp-tx-peer front eth0"]);
}

#[test]
fn a_peer_that_would_lose_what_xdp_redirects() {
    if skip() {
        return;
    }
    let Some(_bpffs) = BpfFs::get() else { return };
    let net = Net::new("redir", &["front"]);
    attach(&net, "fabric", "ve-front");
    let ns = net.ns("front");
    net.ip("fabric", &format!("link add ve-out mtu 1600 type veth peer name eth1 mtu 1600 netns {ns}"));
    net.ip("fabric", "link set ve-out up");
    net.ip("front", "link set eth1 up");
    run_in(&net.ns("fabric"), "ethtool", &["-K", "ve-out", "gro", "off"]).good();
    net.found_and_fixed(&["--iface", "eth0", "--expect-xdp"], &["xdp-redirect-peer front eth1"]);
}

#[test]
fn no_room_for_an_outer_header() {
    if skip() {
        return;
    }
    let Some(_bpffs) = BpfFs::get() else { return };
    let net = Net::new("mtu", &["front"]);
    attach(&net, "front", "eth0");
    net.ip("front", "link set eth0 mtu 1500");
    net.ip("fabric", "link set ve-front mtu 1500");
    let found = net.doctor(&[]);
    assert_eq!(net.found(&found, "problems"), [""; 0], "without ipip it may be meant");
    assert_eq!(net.found(&found, "warnings").len(), 3, "both ends and the bridge: {found:#}");
    let expected = [
        "encapsulation-room fabric br0",
        "encapsulation-room fabric ve-front",
        "encapsulation-room front eth0",
    ];
    net.found_and_fixed(&["--expect-ipip"], &expected);
}

#[test]
fn a_backend_that_announces_or_filters_the_vip() {
    if skip() {
        return;
    }
    let Some(_bpffs) = BpfFs::get() else { return };
    let net = Net::new("arp", &["node"]);
    net.ip("node", "addr add 10.9.0.1/32 dev lo");
    for setting in ["all.arp_ignore=0", "all.arp_announce=0", "all.rp_filter=1"] {
        run_in(&net.ns("node"), "sysctl", &["-w", &format!("net.ipv4.conf.{setting}")]).good();
    }
    net.found_and_fixed(&[], &["arp-announce node all", "arp-ignore node all", "rp-filter node eth0"]);
}

#[test]
fn links_down_and_ports_held_back() {
    if skip() {
        return;
    }
    let Some(_bpffs) = BpfFs::get() else { return };
    let net = Net::new("down", &["front"]);
    net.ip("front", "link set eth0 down");
    net.found_and_fixed(&["--iface", "eth0"], &["link-down front eth0"]);
    net.ip("fabric", "link set ve-front down");
    net.ip("fabric", "link set br0 type bridge stp_state 1 forward_delay 3000");
    net.ip("fabric", "link set ve-front up");
    let found = net.doctor(&[]);
    assert_eq!(net.found(&found, "problems"), ["bridge-port-blocked fabric ve-front"], "{found:#}");
    let fixed = net.doctor(&["--fix"]);
    let runs = fixed["fixes_run"].as_array().expect("a list");
    assert!(
        runs.iter().any(|f| f["command"].as_str().is_some_and(|c| c.ends_with("stp_state 0"))),
        "{fixed:#}"
    );
}

#[test]
fn a_missing_bpf_file_system_is_mounted() {
    if skip() {
        return;
    }
    // In a mount namespace of its own: nothing of the machine changes.
    let script = format!(
        "mount --make-rprivate / && while umount /sys/fs/bpf 2>/dev/null; do :; done; \
         for m in $(awk '$3==\"bpf\"{{print $2}}' /proc/self/mounts); do umount -l $m; done; \
         {0} doctor --output json --iface lo; {0} doctor --output json --iface lo --fix",
        sluice_path().display()
    );
    let ran = run("unshare", &["-m", "sh", "-c", &script]);
    let documents: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(documents.len(), 2, "{ran:?}");
    let has =
        |d: &Value| d["problems"].as_array().expect("a list").iter().any(|f| f["check"] == "bpffs-missing");
    assert!(has(&documents[0]) && !has(&documents[1]), "{ran:?}");
}

#[test]
fn a_low_limit_of_files_is_raised_for_the_shell() {
    if skip() {
        return;
    }
    let Some(_bpffs) = BpfFs::get() else { return };
    let script = format!(
        "{0} doctor --output json --iface lo; {0} doctor --output json --iface lo --fix; ulimit -Hn",
        sluice_path().display()
    );
    let ran = run("prlimit", &["--nofile=1024:1024", "sh", "-c", &script]);
    let lines: Vec<&str> = ran.out.lines().collect();
    let has = |line: &str| line.contains("nofile-low");
    assert!(lines.len() == 3 && has(lines[0]), "{ran:?}");
    let fixed: Value = serde_json::from_str(lines[1]).expect("JSON");
    if fixed["fixes_run"][0]["error"].as_str().is_some_and(|e| e.contains("not permitted")) {
        println!("skipped: root lacks CAP_SYS_RESOURCE here, so no limit can be raised");
        return;
    }
    let problems = fixed["problems"].as_array().expect("a list");
    assert!(!problems.iter().any(|p| p["check"] == "nofile-low"), "{ran:?}");
    assert_eq!(lines[2], "1048576");
}
