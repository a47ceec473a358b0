//! The client of the echo: datagrams at intended times, or as many as come back.

use super::{CLIENT_PORT, FLOWS, SERVER_PORT};
use crate::load::stats::{Counts, percentiles_us};
use crate::poll::Poll;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

/// Datagrams of one flow under way at saturation.
const WINDOW: u64 = 4;
/// Silence after which datagrams under way count as lost and new ones go out.
const LOST_NS: u64 = 20_000_000;
/// Bytes of the intended time at the start of a datagram.
const STAMP: usize = 8;
const SECOND_NS: f64 = 1e9;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Own address.
    pub local: Ipv4Addr,
    /// The server's.
    pub server: Ipv4Addr,
    /// Datagrams a second over all flows; `None`: a window of each flow always under way.
    pub rate: Option<f64>,
    /// Length of the run.
    pub duration: Duration,
    /// Bytes of a datagram.
    pub size: usize,
}

struct Client {
    plan: Plan,
    sockets: Vec<UdpSocket>,
    datagram: Vec<u8>,
    sent: u64,
    answered: u64,
    lost: u64,
    counts: Counts,
    epoch: Instant,
}

/// Runs to the end; the summary as a document.
pub fn run(plan: Plan) -> Result<Value> {
    let mut poll = Poll::new()?;
    let mut sockets = Vec::new();
    for n in 0..FLOWS {
        let socket = UdpSocket::bind((plan.local, CLIENT_PORT + n)).context("bind")?;
        socket.set_nonblocking(true)?;
        socket.connect((plan.server, SERVER_PORT + n)).context("connect")?;
        poll.add_input(&socket, u64::from(n))?;
        sockets.push(socket);
    }
    let datagram = vec![b'.'; plan.size.max(STAMP)];
    let mut client = Client {
        plan,
        sockets,
        datagram,
        sent: 0,
        answered: 0,
        lost: 0,
        counts: Counts::default(),
        epoch: Instant::now(),
    };
    let cpu = cpu_ns()?;
    match plan.rate {
        Some(rate) => client.open_loop(&mut poll, rate)?,
        None => client.saturate(&mut poll)?,
    }
    let elapsed = client.epoch.elapsed().as_secs_f64();
    Ok(json!({
        "sent": client.sent,
        "answered": client.answered,
        "lost": client.lost,
        "rate": client.answered as f64 / elapsed,
        "cpu_ns": cpu_ns()?.saturating_sub(cpu),
        "latency_us": percentiles_us(&client.counts.latency_ns),
    }))
}

/// CPU time of this thread, ns.
fn cpu_ns() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").context("read schedstat")?;
    text.split_whitespace().next().and_then(|n| n.parse().ok()).context("no time in schedstat")
}

impl Client {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn send(&mut self, flow: usize, intended: u64) {
        self.datagram[..STAMP].copy_from_slice(&intended.to_be_bytes());
        // A datagram that the kernel does not take is one that is not answered.
        let _taken = self.sockets[flow].send(&self.datagram);
        self.sent += 1;
    }

    /// Takes every answer of a flow; how many.
    fn receive(&mut self, flow: usize) -> u64 {
        let mut answer = [0; 2048];
        let mut came = 0;
        while let Ok(len) = self.sockets[flow].recv(&mut answer) {
            if let Some(stamp) = answer[..len].first_chunk::<STAMP>() {
                let intended = u64::from_be_bytes(*stamp);
                self.counts.latency(self.now().saturating_sub(intended));
                came += 1;
            }
        }
        self.answered += came;
        came
    }

    fn open_loop(&mut self, poll: &mut Poll, rate: f64) -> Result<()> {
        let gap = SECOND_NS / rate;
        let end = self.plan.duration.as_nanos() as u64;
        let mut number = 0u64;
        loop {
            let mut next = (number as f64 * gap) as u64;
            while next <= self.now() && next < end {
                self.send((number % u64::from(FLOWS)) as usize, next);
                number += 1;
                next = (number as f64 * gap) as u64;
            }
            let now = self.now();
            if next >= end && (self.answered >= self.sent || now >= end + LOST_NS) {
                self.lost = self.sent.saturating_sub(self.answered);
                return Ok(());
            }
            let due = if next < end { next } else { end + LOST_NS };
            poll.wait(Some(due.saturating_sub(now)))?;
            for event in 0..poll.len() {
                self.receive(poll.ready(event).token as usize);
            }
        }
    }

    fn saturate(&mut self, poll: &mut Poll) -> Result<()> {
        let end = self.plan.duration.as_nanos() as u64;
        let mut heard = vec![0u64; usize::from(FLOWS)];
        for flow in 0..usize::from(FLOWS) {
            self.fill(flow);
        }
        while self.now() < end {
            poll.wait(Some(LOST_NS))?;
            for event in 0..poll.len() {
                let flow = poll.ready(event).token as usize;
                let came = self.receive(flow);
                let now = self.now();
                heard[flow] = now;
                for _ in 0..came {
                    self.send(flow, now);
                }
            }
            let now = self.now();
            for (flow, heard) in heard.iter_mut().enumerate() {
                if now.saturating_sub(*heard) > LOST_NS {
                    *heard = now;
                    self.lost += WINDOW;
                    self.fill(flow);
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, flow: usize) {
        for _ in 0..WINDOW {
            let now = self.now();
            self.send(flow, now);
        }
    }
}
