//! ICMP at the balancer, between real kernels: too-big messages mend an upload, echo is answered by the program,
//! errors about a flow reach the backend that has it.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use sluice_system_tests::{Lab, run_in, skip, until};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// An answer of the balancer takes microseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs something in a namespace, on a thread of its own that ends there.
fn within<T: Send + 'static>(netns: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let place = format!("/run/netns/{netns}");
    let body = move || {
        let file = std::fs::File::open(&place).unwrap_or_else(|e| panic!("{place}: {e}"));
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter a namespace");
        work()
    };
    std::thread::spawn(body).join().expect("the thread in the namespace")
}

fn stats(lab: &Lab) -> Value {
    lab.sluice("front", &["stats", "-o", "json"]).json()
}

fn count(stats: &Value, group: &str, name: &str) -> u64 {
    stats[group][name].as_u64().unwrap_or(0)
}

#[test]
fn icmp_between_real_kernels() {
    if skip() {
        return;
    }
    let mut lab = Lab::start("icmp", &["--no-load"]);
    echo_is_answered(&lab);
    errors_reach_the_backend(&lab);
    an_upload_learns_what_fits(&lab);
    lab.end();
}

/// One echo request from the client; the reply, from its ICMP header on.
fn echo(lab: &Lab, vip: IpAddr) -> Option<Vec<u8>> {
    within(lab.netns("client"), move || {
        let (family, protocol) = match vip {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let raw = socket(family, SocketType::RAW, Some(protocol)).expect("a raw socket");
        sockopt::set_socket_timeout(&raw, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT)).expect("a timeout");
        // Id 0x5353, sequence 1, eight bytes; the kernel fills in the checksum of ICMPv6 only.
        let mut message = vec![8, 0, 0, 0, 0x53, 0x53, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
        if vip.is_ipv6() {
            message[0] = 128;
        } else {
            let sum: u32 = message.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
            message[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        }
        sendto(&raw, &message, SendFlags::empty(), &SocketAddr::new(vip, 0)).expect("send an echo request");
        // The kernel hands every ICMP message over, neighbour discovery too.
        for _ in 0..64 {
            let mut buffer = [0; 2048];
            let (length, _) = recv(&raw, &mut buffer[..], RecvFlags::empty()).ok()?;
            let from = if vip.is_ipv4() { 20 } else { 0 };
            let reply = &buffer[from..length];
            if reply.get(4..8) == Some(&[0x53, 0x53, 0, 1]) && (reply[0] == 0 || reply[0] == 129) {
                return Some(reply.to_vec());
            }
        }
        None
    })
}

fn echo_is_answered(lab: &Lab) {
    for (name, kind) in [("web4", 0), ("web4-ipip", 0), ("web6", 129)] {
        let before = count(&stats(lab), "packet_events", "echo_answered");
        let vip: SocketAddr = lab.vip(name).parse().expect("an address");
        let reply = echo(lab, vip.ip()).unwrap_or_else(|| panic!("{name}: no echo reply"));
        assert_eq!((reply[0], &reply[8..]), (kind, &[1, 2, 3, 4, 5, 6, 7, 8][..]), "{name}");
        assert_eq!(
            count(&stats(lab), "packet_events", "echo_answered"),
            before + 1,
            "{name}: by the program"
        );
    }
}

/// `InDestUnreachs` and the like of a host: what its kernel took as an ICMP message of a kind.
fn received(lab: &Lab, host: &str, counter: &str) -> u64 {
    let snmp = run_in(lab.netns(host), "cat", &["/proc/net/snmp"]).good().out;
    let rows: Vec<Vec<&str>> =
        snmp.lines().filter(|l| l.starts_with("Icmp:")).map(|l| l.split_whitespace().collect()).collect();
    let column = rows[0].iter().position(|name| *name == counter).expect("a counter of the kernel");
    rows[1][column].parse().expect("a number")
}

fn errors_reach_the_backend(lab: &Lab) {
    for name in ["echo", "echo-ipip"] {
        let steered = || count(&stats(lab), "packet_events", "icmp_steered");
        let nodes = ["node1", "node2", "node3"];
        let unreachable = || nodes.iter().map(|n| received(lab, n, "InDestUnreachs")).sum::<u64>();
        let (before, received_before) = (steered(), unreachable());
        let vip: SocketAddr = lab.vip(name).parse().expect("an address");
        // The answer finds the port closed, and the client's kernel says so to the VIP.
        until(name, SOON, || {
            within(lab.netns("client"), move || {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.send_to(b"nobody listens", vip).expect("send");
            });
            steered() > before && unreachable() > received_before
        });
    }
}

/// The way to the backends loses its room for an outer header; requests of several packets go on.
fn an_upload_learns_what_fits(lab: &Lab) {
    let pad = format!("X-Pad: {}", "x".repeat(6000));
    let url = format!("http://{}/obj/pmtu?size=10", lab.vip("web4-ipip"));
    let request = || {
        let args = ["-sS", "-i", "-m", "10", "-H", "Host: www.lab.test", "-H", &pad, &url];
        let got = run_in(lab.netns("client"), "curl", &args).good();
        assert!(got.out.starts_with("HTTP/1.1 200"), "{got:?}");
    };
    request();
    let told = |stats: &Value| count(stats, "packet_events", "too_big_sent");
    assert_eq!(told(&stats(lab)), 0, "a link of 1600 bytes has room");
    run_in(lab.netns("front"), "ip", &["link", "set", "dev", "eth0", "mtu", "1500"]).good();
    until("the client is told what fits", SOON, || {
        request();
        told(&stats(lab)) > 0
    });
    let after = stats(lab);
    assert!(
        count(&after, "drops", "too_big") >= told(&after),
        "each message is about a packet that was dropped"
    );
    // The client knows now: its requests fit from the first packet on.
    request();
    assert_eq!(count(&stats(lab), "drops", "too_big"), count(&after, "drops", "too_big"));
    let route = run_in(lab.netns("client"), "ip", &["route", "get", "10.9.0.2"]).good();
    assert!(route.out.contains("mtu 1480"), "1500 less an outer header of 20: {route:?}");
}
