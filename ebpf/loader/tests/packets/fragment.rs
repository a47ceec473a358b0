//! Fragments, IPv6 extension headers and source routes, in the world of [`super::l4`].

use super::frame::*;
use super::l4::Want::{Drop, Pass, Tx};
use super::l4::{ADDRESS, CLIENT4, ETH1_V4, ETH1_V6, Row, row, tcp4, to6};
use sluice_abi::reason::{DropReason, Event};

fn first(name: &str, frame: Vec<u8>, want: Vec<u8>) -> Row {
    Row { events: &[Event::FragmentFirst], ..row(name, frame, Tx(want)) }
}

fn later(name: &str, frame: Vec<u8>, want: Vec<u8>) -> Row {
    Row { events: &[Event::FragmentFollowed], ..row(name, frame, Tx(want)) }
}

/// A fragment of datagram `id`; `word` is the flags and the offset in units of 8.
fn piece4(n: u8, protocol: u8, id: u16, word: u16, payload: &[u8]) -> Vec<u8> {
    let ip = ipv4(CLIENT4, &format!("10.9.0.{n}"), protocol, payload);
    let ip = edit(&edit(&ip, 4, &id.to_be_bytes()), 6, &word.to_be_bytes());
    let zeroed = edit(&ip[..20], 10, &[0, 0]);
    ethernet(V4, &edit(&ip, 10, &checksum(&zeroed)))
}

/// A fragment behind IPv6; `word` is the offset in bytes and the more-fragments flag.
fn piece6(n: u8, next: u8, id: u32, word: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![next, 0];
    body.extend(word.to_be_bytes());
    body.extend(id.to_be_bytes());
    body.extend(payload);
    to6(n, 44, &body)
}

/// The IPv6 packet of `frame` as it reaches backend 1 without encapsulation.
fn direct6(frame: &[u8]) -> Vec<u8> {
    edit(&layers(&[ETH1_V6], &frame[IP..]), IP + 7, &[63])
}

const BODY: [u8; 24] = [0x64; 24];

/// A UDP header that claims 64 bytes, and the first 24 of its body.
fn head() -> Vec<u8> {
    [hex("7a69 0050 0040 beef"), BODY.to_vec()].concat()
}

/// All rows, to be run in this order.
pub fn rows() -> Vec<Row> {
    [fragments4(), fragments6(), wrong(), chains(), routes()].concat()
}

fn fragments4() -> Vec<Row> {
    let (head, rest) = (head(), &BODY[..16]);
    let segment = tcp(80, ACK);
    let direct = |ip: &str, payload: &[u8]| layers(&[ETH1_V4, ip], payload);
    let tunnel = |length: &str, check: &str, src: &str| {
        format!("45 28 {length} 0000 4000 40 04 {check} {src} 0a080001")
    };
    let unknown = |name, frame| row(name, frame, Drop(DropReason::FragmentUnknown, ADDRESS));
    vec![
        unknown("a later fragment before its first", piece4(1, UDP, 0x1234, 0x2004, rest)),
        first(
            "first fragment of a datagram",
            piece4(1, UDP, 0x1234, 0x2000, &head),
            direct("45 28 0034 1234 2000 3f 11 34e6 0a090065 0a090001", &head),
        ),
        later(
            "middle fragment",
            piece4(1, UDP, 0x1234, 0x2004, rest),
            direct("45 28 0024 1234 2004 3f 11 34f2 0a090065 0a090001", rest),
        ),
        later(
            "last fragment",
            piece4(1, UDP, 0x1234, 0x0006, rest),
            direct("45 28 0024 1234 0006 3f 11 54f0 0a090065 0a090001", rest),
        ),
        unknown("a later fragment of another datagram", piece4(1, UDP, 0x1235, 0x0006, rest)),
        unknown("a later fragment of another protocol", piece4(1, TCP, 0x1234, 0x0006, rest)),
        unknown("a later fragment to another VIP", piece4(2, UDP, 0x1234, 0x0006, rest)),
        unknown(
            "a later fragment from another client",
            edit(&piece4(1, UDP, 0x1234, 0x0006, rest), IP + 15, &[0x66]),
        ),
        first(
            "first fragment, 4in4",
            piece4(2, UDP, 0x1234, 0x2000, &head),
            layers(
                &[
                    ETH1_V4,
                    &tunnel("0048", "519b", "ac1032d6"),
                    "45 28 0034 1234 2000 3f 11 34e5 0a090065 0a090002",
                ],
                &head,
            ),
        ),
        first(
            "first fragment of a segment",
            piece4(1, TCP, 0x0777, 0x2000, &segment),
            direct("45 28 002d 0777 2000 3f 06 3fb5 0a090065 0a090001", &segment),
        ),
        later(
            "last fragment of a segment",
            piece4(1, TCP, 0x0777, 0x0003, rest),
            direct("45 28 0024 0777 0003 3f 06 5fbb 0a090065 0a090001", rest),
        ),
        Row {
            events: &[Event::PassLocal],
            ..row("first fragment, local", piece4(3, UDP, 0x1234, 0x2000, &head), Pass)
        },
        row("later fragment, an address with a local VIP", piece4(3, UDP, 0x1234, 0x0004, rest), Pass),
        row("first fragment, no VIP", piece4(99, UDP, 0x1234, 0x2000, &head), Pass),
        row("later fragment, no VIP", piece4(99, UDP, 0x1234, 0x0004, rest), Pass),
        row("first fragment, a port that is no VIP", piece4(1, UDP, 9, 0x2000, &udp(81, &BODY)), Pass),
    ]
}

fn fragments6() -> Vec<Row> {
    let (head, rest) = (head(), &BODY[..16]);
    let (one, two) = (piece6(1, UDP, 7, 1, &head), piece6(1, UDP, 7, 32, rest));
    let whole = piece6(1, TCP, 0, 0, &tcp(80, SYN));
    vec![
        row("v6 later fragment before its first", two.clone(), Drop(DropReason::FragmentUnknown, ADDRESS)),
        first("v6 first fragment", one.clone(), direct6(&one)),
        later("v6 last fragment", two.clone(), direct6(&two)),
        row(
            "v6 last fragment of another datagram",
            piece6(1, UDP, 8, 32, rest),
            Drop(DropReason::FragmentUnknown, ADDRESS),
        ),
        row("v6 fragment header of a whole packet", whole.clone(), Tx(direct6(&whole))),
        row(
            "v6 two fragment headers",
            piece6(1, 44, 7, 1, &[&[UDP, 0, 0, 1, 0, 0, 0, 9][..], &head].concat()),
            Drop(DropReason::Fragment, ADDRESS),
        ),
    ]
}

fn wrong() -> Vec<Row> {
    let segment = tcp(80, ACK);
    let bad = |name, frame, reason| row(name, frame, Drop(reason, ADDRESS));
    let known = |name, frame, reason, key| row(name, frame, Drop(reason, key));
    let tiny = DropReason::FragmentTiny;
    vec![
        bad("first fragment without ports", piece4(1, UDP, 1, 0x2000, &BODY[..4]), tiny),
        known(
            "first fragment of half a TCP header",
            piece4(1, TCP, 1, 0x2000, &segment[..16]),
            tiny,
            "10.9.0.1:80/tcp",
        ),
        known(
            "first fragment without all TCP options",
            piece4(1, TCP, 1, 0x2000, &edit(&segment, 12, &[0xf0])),
            tiny,
            "10.9.0.1:80/tcp",
        ),
        known(
            "v6 first fragment of half a TCP header",
            piece6(1, TCP, 1, 1, &segment[..16]),
            tiny,
            "[fd00::1]:80/tcp",
        ),
        bad("v6 first fragment without ports", piece6(1, UDP, 1, 1, &BODY[..4]), tiny),
        bad(
            "a fragment over the TCP header",
            piece4(1, TCP, 0x0777, 0x2001, &BODY[..16]),
            DropReason::FragmentOverlap,
        ),
        bad("v6 fragment over the TCP header", piece6(1, TCP, 7, 16, &BODY), DropReason::FragmentOverlap),
        known(
            "first fragment with SYN and FIN",
            piece4(1, TCP, 1, 0x2000, &tcp(80, SYN | FIN)),
            DropReason::BadTcpFlags,
            "10.9.0.1:80/tcp",
        ),
        known(
            "first fragment with a UDP length of 7",
            piece4(1, UDP, 1, 0x2000, &edit(&head(), 4, &[0, 7])),
            DropReason::BadLength,
            "10.9.0.1:80/udp",
        ),
        bad("fragment of GRE", piece4(1, 47, 1, 0x2000, &BODY), DropReason::Fragment),
        bad("fragment of an echo request", piece4(1, 1, 1, 0x2000, &BODY), DropReason::Fragment),
        bad(
            "fragment shorter than its header says",
            cut(&piece4(1, UDP, 1, 0x2000, &head()), IP + 40),
            DropReason::BadLength,
        ),
        bad("v6 fragment header cut", cut(&piece6(1, UDP, 7, 1, &head()), IP + 44), DropReason::Truncated),
        bad(
            "v6 fragment shorter than its header says",
            cut(&piece6(1, UDP, 7, 1, &head()), IP + 60),
            DropReason::BadLength,
        ),
    ]
}

/// Extension headers one after the other, each of 8 bytes, then a segment.
fn chain(types: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for next in types[1..].iter().chain([&TCP]) {
        body.extend([*next, 0, 1, 0, 0, 0, 0, 0]);
    }
    body.extend(tcp(80, ACK));
    to6(1, types[0], &body)
}

fn chains() -> Vec<Row> {
    let through = |name, types| row(name, chain(types), Tx(direct6(&chain(types))));
    let bad = |name, frame| row(name, frame, Drop(DropReason::Ipv6Extension, ADDRESS));
    let long = [&[TCP, 63][..], &[0; 510], &tcp(80, ACK)].concat();
    let longer = [&[TCP, 64][..], &[0; 518], &tcp(80, ACK)].concat();
    let nested = chain(&[60, 58]);
    vec![
        through("hop-by-hop options", &[0]),
        through("routing header, arrived", &[43]),
        through("destination options", &[60]),
        through("six headers", &[0, 60, 43, 60, 60, 60]),
        bad("seven headers", chain(&[0, 60, 43, 60, 60, 60, 60])),
        row("512 bytes of headers", to6(1, 60, &long), Tx(direct6(&to6(1, 60, &long)))),
        bad("520 bytes of headers", to6(1, 60, &longer)),
        bad("hop-by-hop options that are not the first", chain(&[60, 0])),
        bad("authentication header", chain(&[51])),
        bad("encrypted payload", chain(&[50])),
        bad("mobility header", chain(&[135])),
        bad("no next header behind options", chain(&[60, 59])),
        Row { events: &[Event::PassIcmp], ..row("ICMPv6 behind options", nested, Pass) },
        row("options, no VIP", edit(&chain(&[60]), IP + 39, &[99]), Pass),
        row("options cut short", cut(&chain(&[60]), IP + 44), Drop(DropReason::Truncated, ADDRESS)),
        row(
            "options longer than the packet",
            edit(&chain(&[60]), IP + 41, &[6]),
            Drop(DropReason::BadLength, ADDRESS),
        ),
        row(
            "hop limit 1 behind options",
            edit(&chain(&[60]), IP + 7, &[1]),
            Drop(DropReason::TtlExpired, "[fd00::1]:80/tcp"),
        ),
    ]
}

fn routes() -> Vec<Row> {
    let options =
        |options: &[u8]| ethernet(V4, &ipv4_options(CLIENT4, "10.9.0.1", TCP, options, &tcp(80, ACK)));
    let routed = |name, frame| row(name, frame, Drop(DropReason::SourceRoute, ADDRESS));
    let bad = |name, frame| row(name, frame, Drop(DropReason::BadIpHeader, ADDRESS));
    vec![
        routed("loose source route", options(&[131, 7, 4, 10, 9, 0, 9, 0])),
        routed("strict source route behind another option", options(&[1, 0x94, 4, 0, 0, 137, 3, 4])),
        routed("v6 routing header with segments left", edit(&chain(&[43]), IP + 43, &[1])),
        row("loose source route, no VIP", edit(&options(&[131, 3, 4, 0]), IP + 19, &[99]), Pass),
        bad("option of no length", options(&[0x94, 0, 0, 0])),
        bad("option longer than the header", options(&[1, 1, 0x94, 3])),
        row("nothing behind the end of options", options(&[0, 131, 7, 4]), {
            let mut out = layers(&[ETH1_V4], &options(&[0, 131, 7, 4])[IP..]);
            out[IP + 8] = 63;
            let zeroed = edit(&out[IP..IP + 24], 10, &[0, 0]);
            let check = checksum(&zeroed);
            Tx(edit(&out, IP + 10, &check))
        }),
        row("v6 address cut with a fragment header", cut(&to6(1, 44, &[0; 8]), IP + 39), Pass),
        row("plain again", tcp4(1), {
            Tx(layers(&[ETH1_V4, "45 28 002d 1234 4000 3f 06 14f8 0a090065 0a090001"], &tcp(80, ACK)))
        }),
        row("v6 client address is not looked at", edit(&chain(&[60]), IP + 8, &[0xfc]), {
            Tx(direct6(&edit(&chain(&[60]), IP + 8, &[0xfc])))
        }),
    ]
}
