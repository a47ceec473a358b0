//! `trace`: where would this packet or URL go, and why.

use super::print_json;
use crate::args::{Global, TraceArgs};
use crate::client::{AgentClient, ClientError};
use crate::exit::{self, CommandError, CommandResult};
use hyper::Method;
use sluice_api::placement::Protocol;
use sluice_api::rest::{PacketQuery, Trace, TraceRequest};
use std::net::SocketAddr;

/// Runs the command.
pub async fn run(args: &TraceArgs, global: &Global) -> CommandResult {
    let packet = match &args.packet {
        Some(text) => Some(parse_packet(text).map_err(CommandError::Usage)?),
        None => None,
    };
    let request = TraceRequest { packet, url: args.url.clone(), method: None };
    let body = serde_json::to_value(&request).map_err(anyhow::Error::from)?;
    let answer = AgentClient::new(&global.socket).send(Method::POST, "/v1/trace", Some(&body)).await?;
    let trace: Trace = serde_json::from_value(answer)
        .map_err(|e| ClientError::Shape { what: "/v1/trace".into(), message: e.to_string() })?;
    if global.json() {
        print_json(&trace)?;
    } else {
        print!("{}", in_words(&trace));
    }
    Ok(exit::OK)
}

/// `tcp SRC:PORT DST:PORT`; an IPv6 address in brackets.
fn parse_packet(text: &str) -> Result<PacketQuery, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [protocol, src, dst] = words[..] else {
        return Err(format!("--packet {text:?}: write `tcp SOURCE:PORT DESTINATION:PORT`"));
    };
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(format!("--packet: protocol {other:?} is neither tcp nor udp")),
    };
    let address = |text: &str| {
        text.parse::<SocketAddr>().map_err(|_| {
            format!("--packet: {text:?} is no address with a port (10.9.0.1:80 or [fd09::1]:80)")
        })
    };
    let (src, dst) = (address(src)?, address(dst)?);
    if src.is_ipv4() != dst.is_ipv4() {
        return Err("--packet: source and destination are of different families".into());
    }
    Ok(PacketQuery { src: src.ip(), src_port: src.port(), dst: dst.ip(), dst_port: dst.port(), protocol })
}

fn in_words(trace: &Trace) -> String {
    let mut text = trace.verdict.clone();
    if let Some(vip) = &trace.vip {
        text.push_str(&format!(", VIP {vip}"));
    }
    if let Some(slot) = trace.slot {
        text.push_str(&format!(", slot {slot}"));
    }
    if let Some(backend) = &trace.backend {
        text.push_str(&format!(", backend {backend}"));
    }
    if let Some(previous) = &trace.previous_backend {
        text.push_str(&format!(" (flows from before the last change: {previous})"));
    }
    text.push('\n');
    if let Some(url) = &trace.url {
        text.push_str(&format!(
            "  site {} route {} key {} (hash {:016x})\n  owners {}, stored: {}, next hop: {}\n",
            url.site,
            url.route,
            url.key,
            url.key_hash,
            url.owners.join(" then "),
            url.stored,
            url.next_hop
        ));
    }
    let more = trace.url.iter().flat_map(|u| u.why.iter()).filter(|w| !trace.why.contains(*w));
    for (n, why) in trace.why.iter().chain(more).enumerate() {
        text.push_str(&format!("  {}. {why}\n", n + 1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_written_in_the_help() {
        let p = parse_packet("tcp 10.7.0.2:4000 10.9.0.1:80").unwrap();
        assert_eq!((p.src_port, p.dst_port, p.protocol), (4000, 80, Protocol::Tcp));
        assert!(parse_packet("udp [fd07::2]:1 [fd09::1]:7777").unwrap().dst.is_ipv6());
        for bad in ["", "tcp 10.7.0.2 10.9.0.1:80", "sctp 1.1.1.1:1 2.2.2.2:2", "tcp 1.1.1.1:1 [::1]:2"] {
            assert!(parse_packet(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reasons_are_numbered_in_order_and_not_repeated() {
        let trace = Trace {
            verdict: "forward".into(),
            vip: Some("web4".into()),
            slot: Some(7),
            backend: Some("node2".into()),
            why: vec!["a".into(), "b".into()],
            ..Trace::default()
        };
        assert_eq!(in_words(&trace), "forward, VIP web4, slot 7, backend node2\n  1. a\n  2. b\n");
    }
}
