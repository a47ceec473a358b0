//! ICMP at a VIP's address, in the world of [`super::l4`]. Two parts: one with the flow table empty, and one after
//! its rows filled the one bucket.

use super::frame::*;
use super::l4::Want::{Answer, Drop, Pass, Tx};
use super::l4::{ADDRESS, CLIENT4, CLIENT6, ETH1_V4, ETH1_V6, Row, row, to4, to6};
use sluice_abi::reason::{DropReason, Event};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

fn steered(name: &str, frame: Vec<u8>, want: Vec<u8>) -> Row {
    Row { events: &[Event::IcmpSteered], ..row(name, frame, Tx(want)) }
}

fn passed(name: &str, frame: Vec<u8>) -> Row {
    Row { events: &[Event::PassIcmp], ..row(name, frame, Pass) }
}

/// The first 28 bytes of a packet from VIP `n` to the client.
fn quote4(n: u8, protocol: u8, l4: &[u8]) -> Vec<u8> {
    cut(&ipv4(&format!("10.9.0.{n}"), CLIENT4, protocol, l4), 28)
}

fn quote6(n: u8, l4: &[u8]) -> Vec<u8> {
    cut(&ipv6(&format!("fd00::{n:x}"), CLIENT6, TCP, l4), 48)
}

/// Fragmentation needed, 1400 bytes.
fn needed(quote: &[u8]) -> Vec<u8> {
    layers(&["0304 0000 0000 0578"], quote)
}

/// A segment from the VIP to the client's port.
fn reply(port: u16) -> Vec<u8> {
    tcp_from(80, port, ACK)
}

/// Before the flow table has anything in it.
pub fn rows() -> Vec<Row> {
    [echo(), errors4(), errors6(), wrong(), too_big()].concat()
}

fn echo() -> Vec<Row> {
    let echo = hex("0800 f7ff 0000 0000");
    let echo6 = hex("8000 0000 0000 0000");
    let answered = |name, frame, want| Row { events: &[Event::EchoAnswered], ..row(name, frame, Tx(want)) };
    let group = |frame: Vec<u8>| edit(&frame, 0, &hex("01005e000001"));
    vec![
        answered(
            "echo request to a VIP",
            to4(1, ICMP, &echo),
            layers(
                &[
                    "020000000002 020000000001 0800",
                    "45 28 001c 1234 4000 40 01 140e 0a090001 0a090065",
                    "0000 ffff 0000 0000",
                ],
                &[],
            ),
        ),
        answered(
            "echo request with TTL 1 and a body, and the frame's padding goes along",
            [
                edit(
                    &edit(&to4(1, ICMP, &hex("0800 5599 0102 0304 9c5d")), IP + 8, &[1]),
                    IP + 10,
                    &hex("530c"),
                ),
                vec![0; 9],
            ]
            .concat(),
            layers(
                &[
                    "020000000002 020000000001 0800",
                    "45 28 001e 1234 4000 40 01 140c 0a090001 0a090065",
                    "0000 5d99 0102 0304 9c5d 000000000000000000",
                ],
                &[],
            ),
        ),
        answered(
            "v6 echo request to a VIP",
            to6(1, ICMPV6, &echo6),
            layers(
                &[
                    "020000000002 020000000001 86dd",
                    "6b812345 0008 3a 40 fd000000000000000000000000000001 fd000000000000000000000000000065",
                    "8100 feff 0000 0000",
                ],
                &[],
            ),
        ),
        passed("echo request to an address with a local VIP", to4(3, ICMP, &echo)),
        passed("v6 echo request to an address with a local VIP", to6(3, ICMPV6, &echo6)),
        row("echo request to another address", to4(99, ICMP, &echo), Pass),
        row("v6 echo request to another address", to6(99, ICMPV6, &echo6), Pass),
        passed("echo request to a group of machines", group(to4(1, ICMP, &echo))),
        passed("v6 echo request to a group of machines", group(to6(1, ICMPV6, &echo6))),
        passed("echo request from a group address", edit(&to4(1, ICMP, &echo), IP + 12, &[224])),
        passed("echo request from the VIP itself", edit(&to4(1, ICMP, &echo), IP + 12, &[10, 9, 0, 1])),
        passed("v6 echo request from nobody", edit(&to6(1, ICMPV6, &echo6), IP + 8, &[0; 16])),
        passed(
            "echo request with IP options",
            ethernet(V4, &ipv4_options(CLIENT4, "10.9.0.1", ICMP, &[1; 4], &echo)),
        ),
        passed("echo reply to a VIP", to4(1, ICMP, &hex("0000 ffff 0000 0000"))),
        passed("v6 neighbour solicitation for a VIP", to6(1, ICMPV6, &hex("8700 0000 0000 0000"))),
    ]
}

fn errors4() -> Vec<Row> {
    let tcp2 = needed(&quote4(2, TCP, &reply(31_337)));
    let unreachable = layers(&["0303 0000 0000 0000"], &quote4(1, UDP, &tcp_from(80, 31_337, 0)));
    vec![
        steered(
            "fragmentation needed about a flow, 4in4",
            to4(2, ICMP, &tcp2),
            layers(
                &[
                    ETH1_V4,
                    "45 28 004c 0000 4000 40 04 c096 ac10c3d6 0a080001",
                    "45 28 0038 1234 4000 3f 01 14f1 0a090065 0a090002",
                ],
                &tcp2,
            ),
        ),
        steered(
            "port unreachable about a UDP flow, l2_direct",
            to4(1, ICMP, &unreachable),
            layers(&[ETH1_V4, "45 28 0038 1234 4000 3f 01 14f2 0a090065 0a090001"], &unreachable),
        ),
        steered(
            "fragmentation needed from a router on the way: the source is not looked at",
            edit(&to4(2, ICMP, &tcp2), IP + 12, &[10, 9, 0, 102]),
            layers(
                &[
                    ETH1_V4,
                    "45 28 004c 0000 4000 40 04 c096 ac10c3d6 0a080001",
                    "45 28 0038 1234 4000 3f 01 14f1 0a090066 0a090002",
                ],
                &tcp2,
            ),
        ),
        passed("about a port that is no VIP", to4(2, ICMP, &needed(&quote4(2, TCP, &tcp(80, ACK))))),
        passed("about a flow of a local VIP", to4(3, ICMP, &needed(&quote4(3, TCP, &reply(31_337))))),
        passed("about a protocol without ports", to4(2, ICMP, &needed(&quote4(2, 47, &[0; 8])))),
        passed("about a later fragment", to4(2, ICMP, &edit(&tcp2, 14, &[0x00, 0xb9]))),
        passed("source quench: deprecated", to4(2, ICMP, &edit(&tcp2, 0, &[4, 0]))),
        row(
            "about a flow whose slot has no owner",
            to4(7, ICMP, &needed(&quote4(7, TCP, &reply(31_337)))),
            Drop(DropReason::NoBackend, "10.9.0.7:80/tcp"),
        ),
        row(
            "about a flow of a VIP without a table",
            to4(13, ICMP, &needed(&quote4(13, TCP, &reply(31_337)))),
            Drop(DropReason::NoTable, "10.9.0.13:80/tcp"),
        ),
        row(
            "hops of the error itself run out",
            edit(&to4(2, ICMP, &tcp2), IP + 8, &[1]),
            Drop(DropReason::TtlExpired, "10.9.0.2:80/tcp"),
        ),
        row(
            "an error that does not fit: no error about an error",
            to4(9, ICMP, &needed(&[quote4(9, TCP, &reply(31_337)), vec![0; 40]].concat())),
            Drop(DropReason::TooBig, "10.9.0.9:80/tcp"),
        ),
    ]
}

fn errors6() -> Vec<Row> {
    let big = layers(&["0200 0000 0000 0578"], &quote6(2, &reply(31_337)));
    let exceeded = layers(&["0300 0000 0000 0000"], &quote6(1, &reply(31_337)));
    vec![
        steered(
            "packet too big about a flow, 6in6",
            to6(2, ICMPV6, &big),
            layers(
                &[
                    ETH1_V6,
                    "6b82554b 0060 29 40 01000000000000000000000000005425 fd080000000000000000000000000001",
                    "6b812345 0038 3a 3f fd000000000000000000000000000065 fd000000000000000000000000000002",
                ],
                &big,
            ),
        ),
        steered(
            "time exceeded about a flow, l2_direct",
            to6(1, ICMPV6, &exceeded),
            layers(
                &[
                    ETH1_V6,
                    "6b812345 0038 3a 3f fd000000000000000000000000000065 fd000000000000000000000000000001",
                ],
                &exceeded,
            ),
        ),
        passed(
            "v6, about a port that is no VIP",
            to6(2, ICMPV6, &layers(&["0200 0000 0000 0578"], &quote6(2, &tcp(80, ACK)))),
        ),
        passed("v6, about a fragment", to6(2, ICMPV6, &edit(&big, 14, &[44]))),
        row(
            "v6, an error that does not fit",
            to6(9, ICMPV6, &layers(&["0100 0000 0000 0000"], &quote6(9, &reply(31_337)))),
            Drop(DropReason::TooBig, "[fd00::9]:80/tcp"),
        ),
    ]
}

fn wrong() -> Vec<Row> {
    let good = needed(&quote4(2, TCP, &reply(31_337)));
    let good6 = layers(&["0200 0000 0000 0578"], &quote6(2, &reply(31_337)));
    let bad = |name, frame| row(name, frame, Drop(DropReason::BadIcmp, ADDRESS));
    vec![
        bad("no quote", to4(2, ICMP, &good[..8])),
        bad("quote of 19 bytes", to4(2, ICMP, &good[..27])),
        bad("quote without all of the ports' 8 bytes", to4(2, ICMP, &good[..35])),
        bad("quoted header length 16", to4(2, ICMP, &edit(&good, 8, &[0x44]))),
        bad("quoted header length beyond the quote", to4(2, ICMP, &edit(&good, 8, &[0x4f]))),
        bad("quoted version 6", to4(2, ICMP, &edit(&good, 8, &[0x65]))),
        bad("a quote that another address sent", to4(2, ICMP, &edit(&good, 20, &[10, 9, 0, 1]))),
        bad("quote in the frame's padding only", [to4(2, ICMP, &good[..8]), good[8..].to_vec()].concat()),
        bad("v6, no quote", to6(2, ICMPV6, &good6[..8])),
        bad("v6, quote without all of the ports' 8 bytes", to6(2, ICMPV6, &good6[..55])),
        bad("v6, quoted version 4", to6(2, ICMPV6, &edit(&good6, 8, &[0x45]))),
        bad("v6, a quote that another address sent", to6(2, ICMPV6, &edit(&good6, 31, &[1]))),
        row("bad quote, a local VIP beside", to4(12, ICMP, &good), Pass),
        row("bad quote, no VIP", to4(99, ICMP, &good[..8]), Pass),
        row("ICMP of 7 bytes", to4(2, ICMP, &good[..7]), Drop(DropReason::Truncated, ADDRESS)),
        row(
            "ICMP shorter than its header says",
            cut(&to4(2, ICMP, &good), IP + 50),
            Drop(DropReason::BadLength, ADDRESS),
        ),
        row("v6, ICMP of 7 bytes", to6(2, ICMPV6, &good6[..7]), Drop(DropReason::Truncated, ADDRESS)),
        row(
            "v6, ICMP shorter than its header says",
            cut(&to6(2, ICMPV6, &good6), IP + 90),
            Drop(DropReason::BadLength, ADDRESS),
        ),
    ]
}

/// VIP 9 leads to a link of 100 bytes, VIP 15 to one of 1400.
fn too_big() -> Vec<Row> {
    let body = [0x61; 1313];
    let small = to4(9, UDP, &udp(80, &body[..53]));
    let answer4 = |quote: &[u8]| {
        layers(
            &[
                "020000000002 020000000001 0800",
                "45 c0 006c 0000 4000 40 01 2552 0a090009 0a090065",
                "0304 dee1 0000 0050",
            ],
            quote,
        )
    };
    let big6 = to6(15, UDP, &udp(80, &body));
    let answered = |name, frame, answer, key| Row {
        events: &[Event::TooBigSent],
        ..row(name, frame, Answer(answer, DropReason::TooBig, key))
    };
    let key = "10.9.0.9:80/udp";
    vec![
        answered(
            "4in4 of 101 bytes on 100: told that 80 fit",
            small.clone(),
            answer4(&small[IP..IP + 80]),
            key,
        ),
        answered(
            "the same with padding",
            [small.clone(), vec![0x77; 30]].concat(),
            answer4(&small[IP..IP + 80]),
            key,
        ),
        row("too big, from a group address", edit(&small, IP + 12, &[230]), Drop(DropReason::TooBig, key)),
        row("too big, to a group of machines", edit(&small, 0, &[1]), Drop(DropReason::TooBig, key)),
        answered(
            "6in6 of 1401 bytes on 1400: told that 1360 fit",
            big6.clone(),
            layers(
                &[
                    "020000000002 020000000001 86dd",
                    "60000000 04d8 3a 40 fd00000000000000000000000000000f fd000000000000000000000000000065",
                    "0200 e97e 0000 0550",
                ],
                &big6[IP..IP + 1232],
            ),
            "[fd00::f]:80/udp",
        ),
        row(
            "6in6 of 101 bytes on 100: IPv6 has no size so small",
            to6(9, UDP, &udp(80, &body[..13])),
            Drop(DropReason::TooBig, "[fd00::9]:80/udp"),
        ),
    ]
}

/// After the rows of the flow table: flows 2 to 7 of VIP 11 are backend 1's, flow 9 is backend 8's.
pub fn rows_in_a_window() -> Vec<Row> {
    let about = |port| needed(&quote4(11, TCP, &reply(port)));
    let ip = "45 28 0038 1234 4000 3f 01 14e8 0a090065 0a09000b";
    let to = |name, port, eth| steered(name, to4(11, ICMP, &about(port)), layers(&[eth, ip], &about(port)));
    vec![
        to("window: an error about a flow from before", 2, ETH1_V4),
        to("window: an error about a flow begun since", 9, "020000000108 020000000208 0800"),
        to("window: an error about a flow that has no entry", 77, ETH1_V4),
        to("window: and it made none", 77, ETH1_V4),
    ]
}
