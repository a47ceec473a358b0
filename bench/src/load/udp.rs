//! Datagram load with a check that each flow stays with one server.
//!
//! A flow is one socket, so one source port. It asks at intended times; an answer is the server's name, a
//! line feed, and the request's own bytes: flow number and the intended time.

use super::stats::{Counts, percentiles_us};
use crate::poll::Poll;
use serde_json::{Value, json};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a request that carry meaning: number of the flow, intended time in ns.
const HEADER_LEN: usize = 16;
/// Longest answer read.
const ANSWER_MAX: usize = 65_536;
const SECOND_NS: u64 = 1_000_000_000;

/// What to send.
#[derive(Clone, Debug)]
pub struct UdpPlan {
    /// Where to.
    pub target: SocketAddr,
    /// Sockets.
    pub flows: usize,
    /// Requests a second over all flows, which take turns.
    pub rate: f64,
    /// Length of the run.
    pub duration: Duration,
    /// Wait for late answers.
    pub linger: Duration,
    /// Length of a request, bytes; at least `HEADER_LEN`.
    pub size: usize,
}

struct Flow {
    socket: UdpSocket,
    server: Vec<u8>,
    moved: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct UdpTotals {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the kernel did not take or that came back as refused.
    pub send_errors: u64,
    /// Answers.
    pub answered: u64,
    /// Answers that are none of ours.
    pub malformed: u64,
    /// Flows answered by more than one server.
    pub moved: u64,
    /// Flows never answered.
    pub silent: u64,
    /// Latency and shares.
    pub counts: Counts,
}

impl UdpTotals {
    /// As a document.
    pub fn summary(&self, plan: &UdpPlan) -> Value {
        json!({
            "kind": "summary",
            "flows": plan.flows,
            "requests": self.sent,
            "answered": self.answered,
            "lost": self.sent.saturating_sub(self.answered),
            "send_errors": self.send_errors,
            "malformed": self.malformed,
            "moved": self.moved,
            "silent": self.silent,
            "latency_us": percentiles_us(&self.counts.latency_ns),
            "served_by": self.counts.served_by,
        })
    }
}

/// Runs to the end or until `stop`.
pub fn run(plan: &UdpPlan, stop: &AtomicBool) -> io::Result<UdpTotals> {
    let mut poll = Poll::new()?;
    let any: SocketAddr = if plan.target.is_ipv4() { ([0u8; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let mut flows = Vec::with_capacity(plan.flows);
    for index in 0..plan.flows {
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(plan.target)?;
        poll.add_input(&socket, index as u64)?;
        flows.push(Flow { socket, server: Vec::new(), moved: false });
    }
    let mut totals = UdpTotals::default();
    let mut request = vec![b'.'; plan.size.max(HEADER_LEN)];
    let mut answer = vec![0; ANSWER_MAX];
    let epoch = Instant::now();
    let now = || epoch.elapsed().as_nanos() as u64;
    let gap = SECOND_NS as f64 / plan.rate;
    let (end, last) = (plan.duration.as_nanos() as u64, (plan.duration + plan.linger).as_nanos() as u64);
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let mut next = (number as f64 * gap) as u64;
        while next <= now() && next < end {
            let index = number % plan.flows as u64;
            request[..8].copy_from_slice(&index.to_be_bytes());
            request[8..HEADER_LEN].copy_from_slice(&next.to_be_bytes());
            match flows[index as usize].socket.send(&request) {
                Ok(_) => totals.sent += 1,
                Err(_) => totals.send_errors += 1,
            }
            number += 1;
            next = (number as f64 * gap) as u64;
        }
        let due = if next < end { next } else { last };
        let at = now();
        if at >= last || next >= end && totals.answered >= totals.sent {
            break;
        }
        poll.wait(Some(due.saturating_sub(at).min(50_000_000)))?;
        for event in 0..poll.len() {
            let index = poll.ready(event).token;
            receive(&mut flows[index as usize], index, &mut answer, &mut totals, &now);
        }
    }
    totals.moved = flows.iter().filter(|f| f.moved).count() as u64;
    totals.silent = flows.iter().filter(|f| f.server.is_empty()).count() as u64;
    Ok(totals)
}

fn receive(flow: &mut Flow, index: u64, answer: &mut [u8], totals: &mut UdpTotals, now: &dyn Fn() -> u64) {
    loop {
        let len = match flow.socket.recv(answer) {
            Ok(len) => len,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                totals.send_errors += 1;
                return;
            }
        };
        let Some((name, intended)) = parse(&answer[..len], index) else {
            totals.malformed += 1;
            continue;
        };
        totals.answered += 1;
        totals.counts.latency(now().saturating_sub(intended));
        totals.counts.server(name);
        if flow.server.is_empty() {
            flow.server = name.to_vec();
        }
        flow.moved |= flow.server != name;
    }
}

/// Name and intended time, when the answer is this flow's.
fn parse(answer: &[u8], index: u64) -> Option<(&[u8], u64)> {
    let at = answer.iter().position(|&b| b == b'\n')?;
    let (name, echoed) = (&answer[..at], answer.get(at + 1..)?);
    let flow = u64::from_be_bytes(echoed.get(..8)?.try_into().ok()?);
    let intended = u64::from_be_bytes(echoed.get(8..HEADER_LEN)?.try_into().ok()?);
    (flow == index && !name.is_empty()).then_some((name, intended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        let mut wire = b"n1\n".to_vec();
        wire.extend_from_slice(&7u64.to_be_bytes());
        wire.extend_from_slice(&99u64.to_be_bytes());
        assert_eq!(parse(&wire, 7), Some((&b"n1"[..], 99)));
        assert_eq!(parse(&wire, 8), None, "another flow's answer");
        assert_eq!(parse(&wire[..10], 7), None);
        assert_eq!(parse(b"no line feed", 7), None);
    }
}
