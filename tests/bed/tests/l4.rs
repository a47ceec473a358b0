//! The balancer on other kernels and on NICs that are not veth.
//!
//! What runs inside the bed is this test program itself (the ignored tests below) and the loader's own packet
//! and differential tests. Without QEMU or without the kernels' packages each test prints `skipped: reason`.

#![forbid(unsafe_code)]

use sluice_abi::slot::Slot;
use sluice_bed::{Bed, Error, Outcome, Series};
use sluice_loader::{AttachMode, BackendSpec, Balancer, Config, Mode, Proto, VipKey, VipSpec};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Seconds the balancer inside the bed serves before it ends by itself, should its shell not end it.
const SERVES_AT_MOST: Duration = Duration::from_secs(60);

fn bed(series: Series) -> Option<Bed> {
    match Bed::new(series) {
        Ok(bed) => Some(bed.limit(Duration::from_secs(240))),
        Err(Error::Unavailable(why)) => {
            println!("skipped: {why}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn run(bed: &Bed, script: &str) -> Outcome {
    let outcome = bed.run(script).unwrap_or_else(|e| panic!("{e}"));
    println!("kernel {}, {:.1} s\n{}", bed.kernel().release(), outcome.took.as_secs_f32(), outcome.output);
    assert_eq!(outcome.status, 0, "kernel log:\n{}", outcome.kernel_log);
    outcome
}

/// The loader's test programs by name, built if need be.
fn loader_tests(names: &[&str]) -> Vec<(String, PathBuf)> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--no-run", "--quiet", "--message-format=json", "-p", "sluice-loader"]);
    cargo.args(names.iter().flat_map(|name| ["--test", name])).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.output().expect("start cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<(String, PathBuf)> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            let path = message["executable"].as_str()?.into();
            names.contains(&name.as_str()).then_some((name, path))
        })
        .collect();
    assert_eq!(found.len(), names.len(), "cargo built {found:?}");
    found
}

/// Runs test programs of the loader with these filters; each load costs the bed's software processor seconds, so
/// only what judges the whole program is run.
fn packets_and_model(series: Series, programs: &[(&str, &str)]) {
    let Some(mut bed) = bed(series) else { return };
    let mut script = String::from("set -e\nuname -r\n");
    let names: Vec<&str> = programs.iter().map(|&(name, _)| name).collect();
    for (name, path) in loader_tests(&names) {
        bed = bed.file(path, &format!("/bin/{name}"));
    }
    for (name, filter) in programs {
        script += &format!("{name} {filter} --test-threads=1\n");
    }
    let outcome = run(&bed, &script);
    let skipped = outcome.output.lines().filter(|l| l.contains("skipped:") && !l.contains("of metadata"));
    assert_eq!(skipped.count(), 0, "only what this kernel's test run cannot be asked");
    assert_eq!(outcome.output.matches("test result: ok").count(), programs.len(), "all programs ran");
    assert!(!outcome.output.contains("test result: ok. 0 passed"), "a filter found nothing");
}

#[test]
fn verifier_and_packets_on_the_oldest_kernel() {
    packets_and_model(Series::Oldest, &[("packets", "run::"), ("differential", "program_and_model_agree")]);
}

#[test]
fn verifier_and_packets_on_the_backports_kernel() {
    packets_and_model(Series::Backports, &[("packets", "run::balancer")]);
}

/// Client, balancer and backend each have a NIC on one hub; the balancer sends to the backend by MAC, which
/// answers the client itself. `$1`: the balancer's NIC, `$2`: attach mode.
const DIRECT_RETURN: &str = r#"
nic_of() { for d in /sys/class/net/*; do [ "$(cat $d/address)" = "$1" ] && basename $d; done; }
in_ns() { nsenter --net=/proc/$1/ns/net -- sh -c "$2"; }
unshare --net sleep 100 & client=$!
unshare --net sleep 100 & backend=$!
sleep 0.2
c=$(nic_of 52:54:00:00:00:03); b=$(nic_of 52:54:00:00:00:04)
ip link set $c netns $client; ip link set $b netns $backend
for ns in $client $backend; do in_ns $ns 'ip link set lo up'; done
in_ns $client "ip addr add 10.1.0.3/24 dev $c; ip link set $c up; ip route add 10.9.0.0/24 via 10.1.0.1"
in_ns $backend "ip addr add 10.1.0.4/24 dev $b; ip link set $b up; ip addr add 10.9.0.1/32 dev lo"
in_ns $backend 'inside --ignored --exact answers_with_bytes --nocapture' > /tmp/backend.log 2>&1 & server=$!
failed=0
serve() { # MAC of the balancer's NIC, mode, expectation
    nic=$(nic_of $1)
    ip addr add 10.1.0.1/24 dev $nic; ip link set $nic up
    rm -f /tmp/ready; mkfifo /tmp/end.$2.$nic
    SLUICE_NIC=$nic SLUICE_MODE=$2 inside --ignored --exact balances_until_told --nocapture < /tmp/end.$2.$nic > /tmp/log 2>&1 & pid=$!
    exec 3> /tmp/end.$2.$nic
    n=0; while [ ! -e /tmp/ready ] && kill -0 $pid 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
    if [ "$3" = refused ]; then
        if grep -q 'REFUSED' /tmp/log; then echo "ok: $1 $2: $(grep REFUSED /tmp/log)"; else echo "not refused: $1 $2"; cat /tmp/log; failed=1; fi
    else
        if in_ns $client 'inside --ignored --exact reads_the_bytes --nocapture' > /tmp/client.log 2>&1
        then echo "ok: $1 $2"; else echo "failed: $1 $2"; cat /tmp/client.log /tmp/backend.log /tmp/log; failed=1; fi
    fi
    exec 3>&-
    wait $pid || { [ "$3" = refused ] || { echo "balancer failed: $1 $2"; cat /tmp/log; failed=1; }; }
    ip addr flush dev $nic; ip link set $nic down
}
serve 52:54:00:00:00:01 native forwards
serve 52:54:00:00:00:01 generic forwards
serve 52:54:00:00:00:02 native refused
serve 52:54:00:00:00:02 generic forwards
kill $client $backend $server
exit $failed
"#;

#[test]
fn native_and_generic_on_nics_that_are_not_veth() {
    let Some(bed) = bed(Series::Oldest) else { return };
    let nic = |n: u8, model: &str| {
        [
            "-netdev".to_owned(),
            format!("hubport,id=h{n},hubid=0"),
            "-device".to_owned(),
            format!("{model},netdev=h{n},mac=52:54:00:00:00:0{n},romfile="),
        ]
    };
    let mut bed = bed.module("virtio_pci").module("virtio_net").module("e1000e");
    for (n, model) in [(1, "virtio-net-pci"), (2, "e1000e"), (3, "virtio-net-pci"), (4, "virtio-net-pci")] {
        let args = nic(n, model);
        bed = bed.device(&args.each_ref().map(String::as_str));
    }
    let own = std::env::current_exe().expect("own path");
    let outcome = run(&bed.file(own, "/bin/inside"), DIRECT_RETURN);
    assert_eq!(outcome.output.matches("ok: ").count(), 4, "four ways were tried");
}

const SERVICE: &str = "10.9.0.1:80";

/// What a backend sends on each connection.
fn bytes() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Runs inside the bed, in the backend's namespace, until its shell ends it.
#[test]
#[ignore = "runs inside the bed"]
fn answers_with_bytes() {
    let listener = std::net::TcpListener::bind(SERVICE).expect("listen");
    for connection in listener.incoming() {
        let mut connection = connection.expect("accept");
        // A client that gave up is its own failure.
        let _ = std::io::Write::write_all(&mut connection, &bytes());
    }
}

/// Runs inside the bed, in the client's namespace.
#[test]
#[ignore = "runs inside the bed"]
fn reads_the_bytes() {
    let address = SERVICE.parse().expect("an address");
    let limit = Duration::from_secs(10);
    let mut connection = std::net::TcpStream::connect_timeout(&address, limit).expect("connect");
    connection.set_read_timeout(Some(limit)).expect("time limit");
    let mut got = Vec::new();
    std::io::Read::read_to_end(&mut connection, &mut got).expect("read");
    assert!(got == bytes(), "{} bytes came", got.len());
}

/// Runs inside the bed: balances `10.9.0.1:80` over the one backend until its standard input ends.
#[test]
#[ignore = "runs inside the bed"]
fn balances_until_told() {
    let nic = std::env::var("SLUICE_NIC").expect("SLUICE_NIC");
    let mode = std::env::var("SLUICE_MODE").expect("SLUICE_MODE");
    let mut config = Config::new("/sys/fs/bpf/sluice", vec![nic.clone()]);
    config.mode = if mode == "native" { AttachMode::Native } else { AttachMode::Generic };
    let mut balancer = match Balancer::open_or_adopt(&config) {
        Ok((balancer, _)) => balancer,
        Err(e) => {
            let mut why = format!("REFUSED {e}");
            let mut source = std::error::Error::source(&e);
            while let Some(e) = source {
                why += &format!(": {e}");
                source = e.source();
            }
            panic!("{why}");
        }
    };
    let link = Balancer::link(&nic, [0x52, 0x54, 0, 0, 0, 4]).expect("the NIC's link");
    let backend =
        BackendSpec { id: 1, addr4: Some([10, 1, 0, 4].into()), addr6: None, link: Some(link), alive: true };
    balancer.set_backend(&backend).expect("backend");
    let key = VipKey { addr: [10, 9, 0, 1].into(), port: 80, proto: Proto::Tcp };
    let spec = VipSpec { key, mode: Mode::L2Direct, flow_idle_ms: 60_000, options: Default::default() };
    balancer.set_vip(&spec, &vec![Slot::settled(1); sluice_abi::SLOTS as usize]).expect("VIP");
    std::fs::write("/tmp/ready", "").expect("say so");
    let (ended, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut Vec::new());
        let _ = ended.send(());
    });
    wait.recv_timeout(SERVES_AT_MOST).expect("told to end in time");
    let packets = balancer.counters().expect("counters").backends[&1].packets;
    balancer.detach_and_unpin().expect("detached");
    assert!(packets > 10, "{packets} packets went through the balancer");
}
