//! The node's table: frame in, verdict and frame out of the decapsulating program.
//!
//! World: the node is 10.8.0.1 and fd08::1; VIPs 10.9.0.2 and fd00::2 are local to it.

use super::frame::*;
use sluice_abi::reason::DropReason;

/// What becomes of a frame.
#[derive(Clone, Debug)]
pub enum Want {
    /// Passed up as it came.
    Pass,
    /// Passed up without its outer header.
    Decap(Vec<u8>),
    /// Dropped.
    Drop(DropReason),
}
use Want::{Decap, Drop, Pass};

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What the frame is.
    pub name: &'static str,
    /// Frame in.
    pub frame: Vec<u8>,
    /// Verdict and frame out.
    pub want: Want,
}

const IPIP: u8 = 4;
const IPV6: u8 = 41;
/// Balancers, as outer sources.
const FROM4: &str = "172.16.195.214";
const FROM6: &str = "100::5425";
const CLIENT4: &str = "10.9.0.101";
const CLIENT6: &str = "fd00::65";
/// As frames arrive, and as they go up.
const ETH_V4: &str = "020000000001 020000000002 0800";
const ETH_V6: &str = "020000000001 020000000002 86dd";
const INNER_V4: &str = "45 28 002d 1234 4000 40 06 13f7 0a090065 0a090002";
const INNER_V6: &str =
    "6b812345 0019 06 40 fd000000000000000000000000000065 fd000000000000000000000000000002";

/// The whole table.
pub fn table() -> Vec<Row> {
    [taken_off(), gue(), not_ours(), unknown(), malformed(), gue_malformed()].concat()
}

fn row(name: &'static str, frame: Vec<u8>, want: Want) -> Row {
    Row { name, frame, want }
}

fn inner4() -> Vec<u8> {
    ipv4(CLIENT4, "10.9.0.2", TCP, &tcp(80, ACK))
}

fn inner6() -> Vec<u8> {
    ipv6(CLIENT6, "fd00::2", TCP, &tcp(80, ACK))
}

fn in4(inner: &[u8]) -> Vec<u8> {
    ethernet(V4, &ipv4(FROM4, "10.8.0.1", IPIP, inner))
}

fn in6(next: u8, inner: &[u8]) -> Vec<u8> {
    ethernet(V6, &ipv6(FROM6, "fd08::1", next, inner))
}

fn taken_off() -> Vec<Row> {
    let ack = tcp(80, ACK);
    let options = ipv4_options(CLIENT4, "10.9.0.2", TCP, &[1; 4], &ack);
    let datagram = udp(80, b"query");
    let nested = ipv4(CLIENT4, "10.9.0.2", IPIP, &inner4());
    vec![
        row("4in4", in4(&inner4()), Decap(layers(&[ETH_V4, INNER_V4], &ack))),
        row("4in6", in6(IPIP, &inner4()), Decap(layers(&[ETH_V4, INNER_V4], &ack))),
        row("6in6", in6(IPV6, &inner6()), Decap(layers(&[ETH_V6, INNER_V6], &ack))),
        row(
            "4in4, inner options",
            in4(&options),
            Decap(layers(&[ETH_V4, "46 28 0031 1234 4000 40 06 10f1 0a090065 0a090002 01010101"], &ack)),
        ),
        row(
            "4in4, UDP",
            in4(&ipv4(CLIENT4, "10.9.0.2", UDP, &datagram)),
            Decap(layers(&[ETH_V4, "45 28 0021 1234 4000 40 11 13f8 0a090065 0a090002"], &datagram)),
        ),
        row(
            "4in4 padded by Ethernet",
            [in4(&inner4()), vec![0; 7]].concat(),
            Decap(layers(&[ETH_V4, INNER_V4], &[ack.clone(), vec![0; 7]].concat())),
        ),
        row(
            "4in4in4 to a VIP: one layer goes, the stack judges the rest",
            in4(&nested),
            Decap(layers(&[ETH_V4, "45 28 0041 1234 4000 40 04 13e5 0a090065 0a090002", INNER_V4], &ack)),
        ),
    ]
}

/// `inner` behind a UDP header for GUE with this checksum.
fn in_udp(check: &str, inner: &[u8]) -> Vec<u8> {
    let mut udp = hex("e295 17c0");
    udp.extend((8 + inner.len() as u16).to_be_bytes());
    udp.extend(hex(check));
    udp.extend(inner);
    udp
}

fn gue4(inner: &[u8]) -> Vec<u8> {
    ethernet(V4, &ipv4(FROM4, "10.8.0.1", UDP, &in_udp("0000", inner)))
}

fn gue6(inner: &[u8]) -> Vec<u8> {
    ethernet(V6, &ipv6(FROM6, "fd08::1", UDP, &in_udp("0000", inner)))
}

fn gue() -> Vec<Row> {
    let ack = tcp(80, ACK);
    let v4 = || Decap(layers(&[ETH_V4, INNER_V4], &ack));
    let v6 = || Decap(layers(&[ETH_V6, INNER_V6], &ack));
    let checked = ethernet(V4, &ipv4(FROM4, "10.8.0.1", UDP, &in_udp("beef", &inner4())));
    let later = edit(&gue4(&inner4()), IP + 6, &[0x20, 0]);
    vec![
        row("GUE over v4, inner v4", gue4(&inner4()), v4()),
        row("GUE over v4, inner v6", gue4(&inner6()), v6()),
        row("GUE over v6, inner v4", gue6(&inner4()), v4()),
        row("GUE over v6, inner v6", gue6(&inner6()), v6()),
        row("GUE with an outer checksum, which is not verified", checked, v4()),
        row("GUE to a port that is not listed", edit(&gue4(&inner4()), IP + 22, &[0x17, 0xc1]), Pass),
        row("GUE over v6 to a port that is not listed", edit(&gue6(&inner4()), IP + 42, &[0x17, 0xc1]), Pass),
        row(
            "GUE to another address",
            ethernet(V4, &ipv4(FROM4, "10.8.0.9", UDP, &in_udp("0000", &inner4()))),
            Pass,
        ),
        row("GUE in fragments goes to the stack", later, Pass),
        row("GUE behind outer options goes to the stack", edit(&gue4(&inner4()), IP, &[0x46]), Pass),
        row("GUE cut in the UDP header", cut(&gue4(&inner4()), IP + 27), Pass),
    ]
}

fn gue_malformed() -> Vec<Row> {
    let drop = || Drop(DropReason::DecapMalformed);
    let (v4, v6) = (gue4(&inner4()), gue6(&inner6()));
    let unknown = || Drop(DropReason::DecapUnknownVip);
    vec![
        row("GUE variant 0", edit(&v4, IP + 28, &[0x00]), drop()),
        row("GUE without anything inside", gue4(&[]), drop()),
        row("GUE cut in the inner header", cut(&v4, IP + 28 + 19), drop()),
        row("GUE, UDP length one too long", edit(&v4, IP + 24, &[0, 54]), drop()),
        row("GUE, UDP length inside its header", edit(&v4, IP + 24, &[0, 7]), drop()),
        row("GUE, UDP length ends in the inner packet", edit(&v4, IP + 24, &[0, 52]), drop()),
        row("GUE over v6, outer length one too long", edit(&v6, IP + 4, &[0, 74]), drop()),
        row("GUE, outer length inside its header", edit(&v4, IP + 2, &[0, 19]), drop()),
        row("GUE for no VIP of this node", gue4(&ipv4(CLIENT4, "10.9.0.3", TCP, &tcp(80, ACK))), unknown()),
        row("GUE over v6 for no VIP", gue6(&ipv6(CLIENT6, "fd00::3", TCP, &tcp(80, ACK))), unknown()),
    ]
}

fn not_ours() -> Vec<Row> {
    let (v4, v6) = (in4(&inner4()), in6(IPV6, &inner6()));
    vec![
        row("not encapsulated, v4", ethernet(V4, &inner4()), Pass),
        row("not encapsulated, v6", ethernet(V6, &inner6()), Pass),
        row("to the node itself, v4 TCP", ethernet(V4, &ipv4(CLIENT4, "10.8.0.1", TCP, &tcp(22, SYN))), Pass),
        row("to the node itself, v6 TCP", ethernet(V6, &ipv6(CLIENT6, "fd08::1", TCP, &tcp(22, SYN))), Pass),
        row(
            "outer destination is another, 4in4",
            ethernet(V4, &ipv4(FROM4, "10.8.0.9", IPIP, &inner4())),
            Pass,
        ),
        row(
            "outer destination is another, 6in6",
            ethernet(V6, &ipv6(FROM6, "fd08::9", IPV6, &inner6())),
            Pass,
        ),
        row("6in4 is not what balancers send", ethernet(V4, &ipv4(FROM4, "10.8.0.1", IPV6, &inner6())), Pass),
        row("ARP", ethernet(0x0806, &[0; 46]), Pass),
        row("cut in the outer v4 header", cut(&v4, IP + 19), Pass),
        row("cut in the outer v6 header", cut(&v6, IP + 39), Pass),
    ]
}

fn unknown() -> Vec<Row> {
    let drop = || Drop(DropReason::DecapUnknownVip);
    let ack = tcp(80, ACK);
    vec![
        row("4in4 for no VIP of this node", in4(&ipv4(CLIENT4, "10.9.0.3", TCP, &ack)), drop()),
        row("4in6 for no VIP of this node", in6(IPIP, &ipv4(CLIENT4, "10.9.0.3", TCP, &ack)), drop()),
        row("6in6 for no VIP of this node", in6(IPV6, &ipv6(CLIENT6, "fd00::3", TCP, &ack)), drop()),
        row("4in4in4 to the node", in4(&ipv4(FROM4, "10.8.0.1", IPIP, &inner4())), drop()),
        row("6in6in6 to the node", in6(IPV6, &ipv6(FROM6, "fd08::1", IPV6, &inner6())), drop()),
    ]
}

fn malformed() -> Vec<Row> {
    let drop = || Drop(DropReason::DecapMalformed);
    let (v4, v46, v6) = (in4(&inner4()), in6(IPIP, &inner4()), in6(IPV6, &inner6()));
    // Offsets of the inner header.
    let (at4, at6) = (IP + 20, IP + 40);
    let outer_total = |bytes: u16| edit(&v4, IP + 2, &bytes.to_be_bytes());
    let outer_payload = |bytes: u16| edit(&v6, IP + 4, &bytes.to_be_bytes());
    let inner_total = |bytes: u16| edit(&v4, at4 + 2, &bytes.to_be_bytes());
    let inner_payload = |bytes: u16| edit(&v6, at6 + 4, &bytes.to_be_bytes());
    vec![
        row("outer options", edit(&v4, IP, &[0x46]), drop()),
        row("outer first fragment", edit(&v4, IP + 6, &[0x20, 0]), drop()),
        row("outer later fragment", edit(&v4, IP + 6, &[0, 1]), drop()),
        row("outer v4 length one too long", outer_total(66), drop()),
        row("outer v4 length without an inner header", outer_total(39), drop()),
        row("outer v6 length one too long", outer_payload(66), drop()),
        row("4in4 cut after the outer header", cut(&v4, at4), drop()),
        row("4in4 cut in the inner header", cut(&v4, at4 + 19), drop()),
        row("4in4 cut in the payload", cut(&v4, v4.len() - 1), drop()),
        row("4in6 cut in the inner header", cut(&v46, at6 + 19), drop()),
        row("6in6 cut in the inner header", cut(&v6, at6 + 39), drop()),
        row("6in6 cut in the payload", cut(&v6, v6.len() - 1), drop()),
        row("4in4, inner length one too long", inner_total(46), drop()),
        row("4in4, inner length inside its header", inner_total(19), drop()),
        row("4in4, inner version 6", edit(&v4, at4, &[0x65]), drop()),
        row("4in4, inner header length 16", edit(&v4, at4, &[0x44]), drop()),
        row("6in6, inner length one too long", inner_payload(26), drop()),
        row("6in6, inner version 4", edit(&v6, at6, &[0x45]), drop()),
        row("6in6, outer length ends in the inner header", outer_payload(39), drop()),
        row("4in6, outer length ends in the inner header", edit(&v46, IP + 4, &[0, 19]), drop()),
    ]
}
