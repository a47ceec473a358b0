//! A datagram echo on the product's driver: one connected socket for each flow.

use super::{CLIENT_PORT, FLOWS, SERVER_PORT};
use anyhow::{Context as _, Result};
use sluice_uring::ring::{Options, Poll};
use sluice_uring::{BufGroup, Event, Io, Payload, Sock, Uring};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The stop flag is looked at this often.
const WAKE: Duration = Duration::from_millis(100);
/// Datagrams of one flow that wait for the one being sent; more are dropped, as a full socket buffer would.
const WAITING_MAX: usize = 64;

#[derive(Default)]
struct Flow {
    sending: bool,
    waiting: VecDeque<Vec<u8>>,
}

/// Serves until `stop`; `ready` is called when datagrams may come.
pub fn serve(
    poll: Poll,
    local: Ipv4Addr,
    client: Ipv4Addr,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> Result<()> {
    let mut ring = Uring::new(&Options { poll, ..Options::default() }).context("set up the ring")?;
    let mut flows = Vec::new();
    for n in 0..FLOWS {
        let socket = UdpSocket::bind((local, SERVER_PORT + n)).context("bind")?;
        socket.connect((client, CLIENT_PORT + n)).context("connect")?;
        let sock = ring.adopt(socket.into()).context("no room for a socket")?;
        ring.recv(sock, BufGroup::Small);
        flows.resize_with(sock.index as usize + 1, Flow::default);
    }
    ready();
    let mut events = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        ring.wait(WAKE, &mut events)?;
        for event in events.drain(..) {
            on_event(&mut ring, &mut flows, event);
        }
    }
    Ok(())
}

fn on_event(ring: &mut Uring, flows: &mut [Flow], event: Event) {
    match event {
        Event::Data { sock, buf } => {
            let mut bytes = ring.scratch();
            bytes.extend_from_slice(ring.data(&buf));
            ring.release(buf);
            let flow = &mut flows[sock.index as usize];
            if !flow.sending {
                flow.sending = true;
                ring.send(sock, Payload::bytes(bytes));
            } else if flow.waiting.len() < WAITING_MAX {
                flow.waiting.push_back(bytes);
            } else {
                ring.recycle(bytes);
            }
        }
        Event::Sent { sock, done: true, .. } => next(ring, flows, sock),
        // A refused datagram comes back as an error of the receive: the client is between two turns.
        Event::RecvIdle { sock, .. } | Event::Eof { sock, .. } => ring.recv(sock, BufGroup::Small),
        _ => {}
    }
}

fn next(ring: &mut Uring, flows: &mut [Flow], sock: Sock) {
    let flow = &mut flows[sock.index as usize];
    match flow.waiting.pop_front() {
        Some(bytes) => ring.send(sock, Payload::bytes(bytes)),
        None => flow.sending = false,
    }
}
