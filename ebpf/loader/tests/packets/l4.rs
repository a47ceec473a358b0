//! The balancer's table: frame in, verdict and frame out.
//!
//! World: client 10.9.0.101 or fd00::65, port 31337. VIPs at 10.9.0.N and fd00::N, port 80, TCP and UDP:
//!
//! | N | mode | slots |
//! |---|---|---|
//! | 1 | l2_direct | backend 1 |
//! | 2 | ipip | backend 1, with both addresses |
//! | 3 | local | |
//! | 4 | ipip | backend 2, IPv6 address only |
//! | 5 | ipip | backend 3, IPv4 address only |
//! | 6 | l2_direct | backend 4, next hop not resolved |
//! | 7 | l2_direct | nobody |
//! | 8 | l2_direct | backend 5, which is not in the table |
//! | 9 | ipip | backend 6, behind a link of 100 bytes |
//! | 10 | ipip | backend 7, behind another interface |
//! | 11 | l2_direct | window open: backend 8 follows 1 |
//! | 12 | l2_direct, but TCP 443 is local | backend 1 |
//! | 13 | ipip, TCP over IPv4 only | its table is missing |
//! | 14 | l2_direct, TCP only | backend 1 |
//! | 15 | ipip | backend 9, behind a link of 1400 bytes |
//! | 41 | gue, port 6080 | backend 1 |
//! | 42 | gue | backend 2, IPv6 address only |
//! | 43 | gue | backend 3, IPv4 address only |
//! | 44 | gue | backend 6, behind a link of 100 bytes |
//!
//! Backend B is 10.8.0.B and fd08::B, MAC 02:00:00:00:01:0B from 02:00:00:00:02:0B. The flow table has one bucket.

use super::frame::*;
use super::{fragment, icmp};
use sluice_abi::reason::{DropReason, Event};

/// What becomes of a frame.
#[derive(Clone, Debug)]
pub enum Want {
    /// Passed up as it came.
    Pass,
    /// Dropped and counted for a VIP, or for `address` when several VIPs share it.
    Drop(DropReason, &'static str),
    /// Sent out of the interface it came from.
    Tx(Vec<u8>),
    /// Sent out of another interface.
    Redirect(Vec<u8>),
    /// Dropped and counted as by [`Want::Drop`], and this goes back out of the interface it came from.
    Answer(Vec<u8>, DropReason, &'static str),
}
use Want::{Drop, Pass, Redirect, Tx};

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What the frame is.
    pub name: String,
    /// Frame in.
    pub frame: Vec<u8>,
    /// Bytes of metadata before the frame, which take from its headroom.
    pub meta: usize,
    /// Verdict and frame out.
    pub want: Want,
    /// Events counted.
    pub events: &'static [Event],
}

pub fn row(name: &str, frame: Vec<u8>, want: Want) -> Row {
    Row { name: name.into(), frame, meta: 0, want, events: &[] }
}

pub const CLIENT4: &str = "10.9.0.101";
pub const CLIENT6: &str = "fd00::65";
/// Backend 1's Ethernet headers.
pub const ETH1_V4: &str = "020000000101 020000000201 0800";
pub const ETH1_V6: &str = "020000000101 020000000201 86dd";
/// `address`: the drop is counted for no VIP in particular.
pub const ADDRESS: &str = "address";

pub fn to4(n: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(V4, &ipv4(CLIENT4, &format!("10.9.0.{n}"), protocol, payload))
}

pub fn to6(n: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(V6, &ipv6(CLIENT6, &format!("fd00::{n:x}"), protocol, payload))
}

pub fn tcp4(n: u8) -> Vec<u8> {
    to4(n, TCP, &tcp(80, ACK))
}

fn tcp6(n: u8) -> Vec<u8> {
    to6(n, TCP, &tcp(80, ACK))
}

/// The whole table, in the order it is to be run in.
pub fn table() -> Vec<Row> {
    [
        direct(),
        encapsulated(),
        families_mixed(),
        passed(),
        cut_short(),
        headers4(),
        headers6(),
        transports(),
        backends(),
        sizes(),
        icmp::rows(),
        super::gue::rows(),
        fragment::rows(),
        flows(),
        icmp::rows_in_a_window(),
    ]
    .concat()
}

fn direct() -> Vec<Row> {
    let (ack, dns) = (tcp(80, ACK), udp(80, b"query"));
    let l4_4 = |text: &str, l4: &[u8]| Tx(layers(&[ETH1_V4, text], l4));
    let l4_6 = |text: &str, l4: &[u8]| Tx(layers(&[ETH1_V6, text], l4));
    let ip4 = "45 28 002d 1234 4000 3f 06 14f8 0a090065 0a090001";
    let syn = tcp(80, SYN);
    vec![
        row("l2_direct, v4 TCP", tcp4(1), l4_4(ip4, &ack)),
        row("l2_direct, v4 SYN", to4(1, TCP, &syn), l4_4(ip4, &syn)),
        row(
            "l2_direct, v4 UDP",
            to4(1, UDP, &dns),
            l4_4("45 28 0021 1234 4000 3f 11 14f9 0a090065 0a090001", &dns),
        ),
        row(
            "l2_direct, v6 TCP",
            tcp6(1),
            l4_6(
                "6b812345 0019 06 3f fd000000000000000000000000000065 fd000000000000000000000000000001",
                &ack,
            ),
        ),
        row(
            "l2_direct, v6 UDP",
            to6(1, UDP, &dns),
            l4_6(
                "6b812345 000d 11 3f fd000000000000000000000000000065 fd000000000000000000000000000001",
                &dns,
            ),
        ),
    ]
}

fn encapsulated() -> Vec<Row> {
    let (ack, dns) = (tcp(80, ACK), udp(80, b"query"));
    vec![
        row(
            "ipip, v4 TCP: 4in4",
            tcp4(2),
            Tx(layers(
                &[
                    ETH1_V4,
                    "45 28 0041 0000 4000 40 04 c0a1 ac10c3d6 0a080001",
                    "45 28 002d 1234 4000 3f 06 14f7 0a090065 0a090002",
                ],
                &ack,
            )),
        ),
        row(
            "ipip, v4 UDP: 4in4",
            to4(2, UDP, &dns),
            Tx(layers(
                &[
                    ETH1_V4,
                    "45 28 0035 0000 4000 40 04 51ae ac1032d6 0a080001",
                    "45 28 0021 1234 4000 3f 11 14f8 0a090065 0a090002",
                ],
                &dns,
            )),
        ),
        row(
            "ipip, v6 TCP: 6in6",
            tcp6(2),
            Tx(layers(
                &[
                    ETH1_V6,
                    "6b82554b 0041 29 40 01000000000000000000000000005425 fd080000000000000000000000000001",
                    "6b812345 0019 06 3f fd000000000000000000000000000065 fd000000000000000000000000000002",
                ],
                &ack,
            )),
        ),
        row(
            "ipip, v6 UDP: 6in6",
            to6(2, UDP, &dns),
            Tx(layers(
                &[
                    ETH1_V6,
                    "6b86e48f 0035 29 40 0100000000000000000000000000486e fd080000000000000000000000000001",
                    "6b812345 000d 11 3f fd000000000000000000000000000065 fd000000000000000000000000000002",
                ],
                &dns,
            )),
        ),
        row(
            "ipip, v4 padded by Ethernet: the IP length counts, padding goes along",
            [to4(2, UDP, &dns), vec![0; 13]].concat(),
            Tx(layers(
                &[
                    ETH1_V4,
                    "45 28 0035 0000 4000 40 04 51ae ac1032d6 0a080001",
                    "45 28 0021 1234 4000 3f 11 14f8 0a090065 0a090002",
                ],
                &[dns, vec![0; 13]].concat(),
            )),
        ),
    ]
}

fn families_mixed() -> Vec<Row> {
    let (ack, dns) = (tcp(80, ACK), udp(80, b"query"));
    let eth = "020000000102 020000000202 86dd";
    vec![
        row(
            "ipip, v4 TCP to a backend with IPv6 only: 4in6",
            tcp4(4),
            Tx(layers(
                &[
                    eth,
                    "62812057 002d 04 40 01000000000000000000000000000512 fd080000000000000000000000000002",
                    "45 28 002d 1234 4000 3f 06 14f5 0a090065 0a090004",
                ],
                &ack,
            )),
        ),
        row(
            "ipip, v4 UDP to a backend with IPv6 only: 4in6",
            to4(4, UDP, &dns),
            Tx(layers(
                &[
                    eth,
                    "628189d1 0021 04 40 01000000000000000000000000009d18 fd080000000000000000000000000002",
                    "45 28 0021 1234 4000 3f 11 14f6 0a090065 0a090004",
                ],
                &dns,
            )),
        ),
        row(
            "ipip, v6 to a backend with IPv4 only",
            tcp6(5),
            Drop(DropReason::BackendUnreachable, "[fd00::5]:80/tcp"),
        ),
        Row {
            meta: 200,
            ..row("no room for 4in4", tcp4(2), Drop(DropReason::NoHeadroom, "10.9.0.2:80/tcp"))
        },
        Row {
            meta: 200,
            ..row("no room for 6in6", tcp6(2), Drop(DropReason::NoHeadroom, "[fd00::2]:80/tcp"))
        },
    ]
}

fn passed() -> Vec<Row> {
    let local = |name, frame| Row { events: &[Event::PassLocal], ..row(name, frame, Pass) };
    // 802.1Q, VLAN 5. Tagged frames are not looked into: an appliance gets its VLANs untagged.
    let mut tagged = hex("020000000001 020000000002 8100 0005");
    tagged.extend(&tcp4(1)[12..]);
    vec![
        local("local, v4 TCP", tcp4(3)),
        local("local, v4 UDP", to4(3, UDP, &udp(80, b"query"))),
        local("local, v6 TCP", tcp6(3)),
        local("local, v6 UDP", to6(3, UDP, &udp(80, b"query"))),
        row("v4 address that is no VIP", tcp4(99), Pass),
        row("v6 address that is no VIP", tcp6(99), Pass),
        row("v4 port that is no VIP", to4(1, TCP, &tcp(81, ACK)), Pass),
        row("v6 port that is no VIP", to6(1, TCP, &tcp(81, ACK)), Pass),
        row("v4 TCP where only UDP differs: 14 has no UDP", to4(14, UDP, &udp(80, b"query")), Pass),
        row("v4 GRE to a VIP's address", to4(1, 47, &[0; 24]), Pass),
        row("v6 GRE to a VIP's address", to6(1, 47, &[0; 24]), Pass),
        row("ARP", ethernet(0x0806, &[0; 46]), Pass),
        row("LLDP", ethernet(0x88cc, &[0; 46]), Pass),
        row("802.1Q", tagged, Pass),
    ]
}

fn cut_short() -> Vec<Row> {
    let truncated = |key| Drop(DropReason::Truncated, key);
    vec![
        row("cut in the v4 header", cut(&tcp4(1), IP + 19), Pass),
        row("Ethernet header only", cut(&tcp4(1), IP), Pass),
        row("cut in the v6 header", cut(&tcp6(1), IP + 39), Pass),
        row("cut after the v4 header", cut(&tcp4(1), IP + 20), truncated(ADDRESS)),
        row("cut after the v4 ports", cut(&tcp4(1), IP + 27), truncated(ADDRESS)),
        row("cut after the v4 ports, one VIP", cut(&tcp4(14), IP + 27), truncated("10.9.0.14:80/tcp")),
        row("cut after the v4 ports, a local VIP beside", cut(&tcp4(12), IP + 27), Pass),
        row("cut after the v4 ports, no VIP", cut(&tcp4(99), IP + 27), Pass),
        row("cut after the v6 header", cut(&tcp6(1), IP + 40), truncated(ADDRESS)),
        row("cut in the v6 UDP header", cut(&to6(1, UDP, &udp(80, b"")), IP + 47), truncated(ADDRESS)),
        row(
            "cut in the v4 TCP header",
            cut(&tcp4(1), IP + 39),
            Drop(DropReason::BadLength, "10.9.0.1:80/tcp"),
        ),
        row("cut in the v4 payload", cut(&tcp4(1), IP + 44), Drop(DropReason::BadLength, "10.9.0.1:80/tcp")),
        row("cut in the v6 payload", cut(&tcp6(1), IP + 64), Drop(DropReason::BadLength, "[fd00::1]:80/tcp")),
    ]
}

fn headers4() -> Vec<Row> {
    let frame = tcp4(1);
    let options = |options: &[u8], n: u8| {
        ethernet(V4, &ipv4_options(CLIENT4, &format!("10.9.0.{n}"), TCP, options, &tcp(80, ACK)))
    };
    let total = |bytes: u16| edit(&frame, IP + 2, &bytes.to_be_bytes());
    let bad_length = || Drop(DropReason::BadLength, "10.9.0.1:80/tcp");
    let expired = || Drop(DropReason::TtlExpired, "10.9.0.1:80/tcp");
    let alert = [1, 1, 1, 1, 0x94, 4, 0, 0];
    vec![
        row("version 5", edit(&frame, IP, &[0x55]), Drop(DropReason::BadIpHeader, ADDRESS)),
        row("header length 16", edit(&frame, IP, &[0x44]), Drop(DropReason::BadIpHeader, ADDRESS)),
        row("header length 16, no VIP", edit(&tcp4(99), IP, &[0x44]), Pass),
        row(
            "options",
            options(&alert, 1),
            Tx(layers(
                &[ETH1_V4, "47 28 0035 1234 4000 3f 06 7ce9 0a090065 0a090001 0101010194040000"],
                &tcp(80, ACK),
            )),
        ),
        row(
            "options, 4in4: the outer header has none",
            options(&alert, 2),
            Tx(layers(
                &[
                    ETH1_V4,
                    "45 28 0049 0000 4000 40 04 c099 ac10c3d6 0a080001",
                    "47 28 0035 1234 4000 3f 06 7ce8 0a090065 0a090002 0101010194040000",
                ],
                &tcp(80, ACK),
            )),
        ),
        row(
            "all the options there can be",
            options(&[1; 40], 1),
            Tx(layers(
                &[ETH1_V4, "4f 28 0055 1234 4000 3f 06 f6bb 0a090065 0a090001", &"01".repeat(40)],
                &tcp(80, ACK),
            )),
        ),
        row(
            "header length beyond the frame: what lies there are no options",
            edit(&frame, IP, &[0x4f]),
            Drop(DropReason::BadIpHeader, ADDRESS),
        ),
        row("total length one too long", total(46), bad_length()),
        row("total length 65535", total(65_535), bad_length()),
        row("total length inside the TCP header", total(39), bad_length()),
        row("total length inside the IP header", total(19), bad_length()),
        row("total length 0", total(0), bad_length()),
        row(
            "TTL 2",
            edit(&edit(&frame, IP + 8, &[2]), IP + 10, &hex("51f8")),
            Tx(layers(&[ETH1_V4, "45 28 002d 1234 4000 01 06 52f8 0a090065 0a090001"], &tcp(80, ACK))),
        ),
        row("TTL 1", edit(&frame, IP + 8, &[1]), expired()),
        row("TTL 0", edit(&frame, IP + 8, &[0]), expired()),
        row("TTL 1, 4in4", edit(&tcp4(2), IP + 8, &[1]), Drop(DropReason::TtlExpired, "10.9.0.2:80/tcp")),
        row("TTL 1, 4in6", edit(&tcp4(4), IP + 8, &[1]), Drop(DropReason::TtlExpired, "10.9.0.4:80/tcp")),
    ]
}

fn headers6() -> Vec<Row> {
    let frame = tcp6(1);
    let length = |bytes: u16| edit(&frame, IP + 4, &bytes.to_be_bytes());
    let bad_length = || Drop(DropReason::BadLength, "[fd00::1]:80/tcp");
    vec![
        row("version 4 in an IPv6 frame", edit(&frame, IP, &[0x4b]), Drop(DropReason::BadIpHeader, ADDRESS)),
        row("no next header", to6(1, 59, &[]), Pass),
        row("payload length one too long", length(26), bad_length()),
        row("payload length inside the TCP header", length(19), bad_length()),
        row("payload length 0", length(0), bad_length()),
        row(
            "hop limit 2",
            edit(&frame, IP + 7, &[2]),
            Tx(layers(
                &[
                    ETH1_V6,
                    "6b812345 0019 06 01 fd000000000000000000000000000065 fd000000000000000000000000000001",
                ],
                &tcp(80, ACK),
            )),
        ),
        row("hop limit 1", edit(&frame, IP + 7, &[1]), Drop(DropReason::TtlExpired, "[fd00::1]:80/tcp")),
        row(
            "hop limit 1, 6in6",
            edit(&tcp6(2), IP + 7, &[1]),
            Drop(DropReason::TtlExpired, "[fd00::2]:80/tcp"),
        ),
    ]
}

fn transports() -> Vec<Row> {
    let (v4, v6) = ("10.9.0.1:80/tcp", "[fd00::1]:80/tcp");
    let offset4 = |words: u8| edit(&tcp4(1), IP + 32, &[words << 4]);
    let offset6 = |words: u8| edit(&tcp6(1), IP + 52, &[words << 4]);
    let flags4 = |flags| to4(1, TCP, &tcp(80, flags));
    let flags6 = |flags| to6(1, TCP, &tcp(80, flags));
    let udp_length = |bytes: u16| edit(&to4(1, UDP, &udp(80, b"query")), IP + 24, &bytes.to_be_bytes());
    let bad_datagram = || Drop(DropReason::BadLength, "10.9.0.1:80/udp");
    vec![
        row("data offset 16", offset4(4), Drop(DropReason::BadTcpHeader, v4)),
        row("data offset 28 in 25 bytes", offset4(7), Drop(DropReason::BadTcpHeader, v4)),
        row("v6, data offset 16", offset6(4), Drop(DropReason::BadTcpHeader, v6)),
        row("v6, data offset 60 in 25 bytes", offset6(15), Drop(DropReason::BadTcpHeader, v6)),
        row("SYN and FIN", flags4(SYN | FIN), Drop(DropReason::BadTcpFlags, v4)),
        row("SYN and RST", flags4(SYN | RST), Drop(DropReason::BadTcpFlags, v4)),
        row("v6, SYN and FIN", flags6(SYN | FIN), Drop(DropReason::BadTcpFlags, v6)),
        row("UDP length 7", udp_length(7), bad_datagram()),
        row("UDP length one too long", udp_length(14), bad_datagram()),
        row(
            "UDP length shorter than the packet",
            udp_length(8),
            Tx(edit(
                &layers(&[ETH1_V4, "45 28 0021 1234 4000 3f 11 14f9 0a090065 0a090001"], &udp(80, b"query")),
                IP + 24,
                &[0, 8],
            )),
        ),
    ]
}

fn backends() -> Vec<Row> {
    vec![
        row("slot without an owner", tcp4(7), Drop(DropReason::NoBackend, "10.9.0.7:80/tcp")),
        row("v6 slot without an owner", tcp6(7), Drop(DropReason::NoBackend, "[fd00::7]:80/tcp")),
        row("owner not in the table", tcp4(8), Drop(DropReason::NoBackend, "10.9.0.8:80/tcp")),
        row("next hop not resolved", tcp4(6), Drop(DropReason::BackendUnreachable, "10.9.0.6:80/tcp")),
        row("v6 next hop not resolved", tcp6(6), Drop(DropReason::BackendUnreachable, "[fd00::6]:80/tcp")),
        row("VIP without a table", tcp4(13), Drop(DropReason::NoTable, "10.9.0.13:80/tcp")),
        row(
            "backend behind another interface",
            tcp4(10),
            Redirect(layers(
                &[
                    "020000000107 020000000207 0800",
                    "45 28 0041 0000 4000 40 04 fa6a ac108a07 0a080007",
                    "45 28 002d 1234 4000 3f 06 14ef 0a090065 0a09000a",
                ],
                &tcp(80, ACK),
            )),
        ),
    ]
}

/// Against a link of 100 bytes.
fn sizes() -> Vec<Row> {
    let body = [0x61; 52];
    vec![
        row(
            "4in4 of 100 bytes fits",
            to4(9, UDP, &udp(80, &body[..52])),
            Tx(layers(
                &[
                    "020000000106 020000000206 0800",
                    "45 28 0064 0000 4000 40 04 1054 ac1073fc 0a080006",
                    "45 28 0050 1234 4000 3f 11 14c2 0a090065 0a090009",
                ],
                &udp(80, &body[..52]),
            )),
        ),
        row(
            "6in6 of 100 bytes fits",
            to6(9, UDP, &udp(80, &body[..12])),
            Tx(layers(
                &[
                    "020000000106 020000000206 86dd",
                    "6b884b88 003c 29 40 0100000000000000000000000000b884 fd080000000000000000000000000006",
                    "6b812345 0014 11 3f fd000000000000000000000000000065 fd000000000000000000000000000009",
                ],
                &udp(80, &body[..12]),
            )),
        ),
    ]
}

/// The one bucket of the flow table, filled by flows that talk.
fn flows() -> Vec<Row> {
    let ip = "45 28 002d 1234 4000 3f 06 14ee 0a090065 0a09000b";
    let from = |port, flags| tcp_from(port, 80, flags);
    let previous = |port, flags| Tx(layers(&[ETH1_V4, ip], &from(port, flags)));
    let current = |port, flags| Tx(layers(&["020000000108 020000000208 0800", ip], &from(port, flags)));
    let talk = |name: String, port, flags, want, events| Row {
        events,
        ..row(&name, to4(11, TCP, &from(port, flags)), want)
    };
    let mut rows = Vec::new();
    for port in 1..=7 {
        let begun = format!("window: flow {port} from before");
        rows.push(talk(begun, port, ACK, previous(port, ACK), &[Event::FlowKept]));
        let again = format!("window: flow {port} talks");
        rows.push(talk(again, port, ACK, previous(port, ACK), &[Event::FlowHit]));
    }
    rows.extend([
        talk("window: a flow begins".into(), 8, SYN, current(8, SYN), &[Event::FlowNew]),
        talk(
            "window: another pushes it out, it has not talked".into(),
            9,
            SYN,
            current(9, SYN),
            &[Event::FlowEvicted, Event::FlowNew],
        ),
        talk("window: the other talks".into(), 9, ACK, current(9, ACK), &[Event::FlowHit]),
        talk(
            "window: the bucket is full of flows that talk".into(),
            10,
            SYN,
            Drop(DropReason::FlowTableFull, "10.9.0.11:80/tcp"),
            &[],
        ),
        talk(
            "window: a flow from before that finds no room".into(),
            11,
            ACK,
            previous(11, ACK),
            &[Event::FlowUntracked],
        ),
        talk("window: flow 1 is still there".into(), 1, FIN | ACK, previous(1, FIN | ACK), &[Event::FlowHit]),
        talk("window: flow 1 begins anew".into(), 1, SYN, current(1, SYN), &[]),
        talk("window: and talks".into(), 1, ACK, current(1, ACK), &[Event::FlowHit]),
    ]);
    rows
}
