//! Rows of mode `gue`: the packet behind outer IP and UDP headers, the checksum of the latter zero.

use super::frame::*;
use super::l4::{ETH1_V4, ETH1_V6, Row, Want, row, to4, to6};
use Want::{Answer, Drop, Tx};
use sluice_abi::reason::{DropReason, Event};

pub fn rows() -> Vec<Row> {
    [sent(), refused()].concat()
}

fn sent() -> Vec<Row> {
    let (ack, dns) = (tcp(80, ACK), udp(80, b"query"));
    let full = udp(80, &[7; 44]);
    vec![
        row(
            "gue, v4 TCP",
            to4(41, TCP, &ack),
            Tx(layers(
                &[
                    ETH1_V4,
                    "45 28 0049 0000 4000 40 11 cfd8 ac10b48a 0a080001",
                    "d0ea 17c0 0035 0000",
                    "45 28 002d 1234 4000 3f 06 14d0 0a090065 0a090029",
                ],
                &ack,
            )),
        ),
        row(
            "gue, v4 UDP",
            to4(41, UDP, &dns),
            Tx(layers(
                &[
                    ETH1_V4,
                    "45 28 003d 0000 4000 40 11 65d1 ac101e9e 0a080001",
                    "d35a 17c0 0029 0000",
                    "45 28 0021 1234 4000 3f 11 14d1 0a090065 0a090029",
                ],
                &dns,
            )),
        ),
        row(
            "gue, v6 TCP",
            to6(41, TCP, &ack),
            Tx(layers(
                &[
                    ETH1_V6,
                    "6b868297 0049 11 40 01000000000000000000000000002968 fd080000000000000000000000000001",
                    "f0dd 17c0 0049 0000",
                    "6b812345 0019 06 3f fd000000000000000000000000000065 fd000000000000000000000000000029",
                ],
                &ack,
            )),
        ),
        row(
            "gue, v4 to a backend with IPv6 only",
            to4(42, TCP, &ack),
            Tx(layers(
                &[
                    "020000000102 020000000202 86dd",
                    "6288f001 0035 11 40 0100000000000000000000000000008f fd080000000000000000000000000002",
                    "dfd2 17c0 0035 0000",
                    "45 28 002d 1234 4000 3f 06 14cf 0a090065 0a09002a",
                ],
                &ack,
            )),
        ),
        row(
            "gue, v4, fills the link",
            to4(44, UDP, &full),
            Tx(layers(
                &[
                    "020000000106 020000000206 0800",
                    "45 28 0064 0000 4000 40 11 14ea ac106f59 0a080006",
                    "cb9c 17c0 0050 0000",
                    "45 28 0048 1234 4000 3f 11 14a7 0a090065 0a09002c",
                ],
                &full,
            )),
        ),
    ]
}

fn refused() -> Vec<Row> {
    let ack = tcp(80, ACK);
    let big = to4(44, UDP, &udp(80, &[7; 45]));
    let told = layers(
        &[
            "020000000002 020000000001 0800",
            "45 c0 0064 0000 4000 40 01 2537 0a09002c 0a090065",
            "0304 283b 0000 0048",
        ],
        &big[IP..IP + 72],
    );
    let ttl1 = edit(&to4(41, TCP, &ack), IP + 8, &[1]);
    vec![
        row(
            "gue, v6 to a backend with IPv4 only",
            to6(43, TCP, &ack),
            Drop(DropReason::BackendUnreachable, "[fd00::2b]:80/tcp"),
        ),
        Row {
            events: &[Event::TooBigSent],
            ..row(
                "gue, v4, one byte more than the link takes: told that 72 fit",
                big.clone(),
                Answer(told, DropReason::TooBig, "10.9.0.44:80/udp"),
            )
        },
        row(
            "gue, v6, one byte more than the link takes",
            to6(44, UDP, &udp(80, &[7; 5])),
            Drop(DropReason::TooBig, "[fd00::2c]:80/udp"),
        ),
        row("gue, TTL 1", ttl1, Drop(DropReason::TtlExpired, "10.9.0.41:80/tcp")),
    ]
}
