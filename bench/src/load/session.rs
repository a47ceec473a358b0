//! One connection of a load thread.
//!
//! ```text
//! Closed -> Connecting -> Idle <-> Busy -> Draining -> Closed
//!             |  ^                  |
//!             v  |                  v
//!            Backoff              Closed, or Dead when connections are held
//! ```
//! `Draining` waits for the server to close first, so that the client keeps no TIME_WAIT state.

use super::generate::Sent;
use super::response::{Answer, Reader};
use super::stats::ErrorClass;
use super::worker::Worker;
use crate::poll::{self, Ready};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A server that said `Connection: close` has this long to do it.
const DRAIN_NS: u64 = 1_000_000_000;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    Backoff,
    Connecting,
    Idle,
    Busy,
    Draining,
    Dead,
}

/// A connection's place in the table; connections come and go in it.
pub(super) struct Slot {
    pub phase: Phase,
    /// When `on_deadline` is called; `u64::MAX`: never.
    pub deadline_ns: u64,
    stream: Option<TcpStream>,
    generation: u32,
    target: usize,
    source: Option<SocketAddr>,
    /// The request under way and when it was meant to be sent.
    request: Option<(Sent, u64)>,
    out: Vec<u8>,
    sent: usize,
    reader: Reader,
    answered: u64,
    connect_tries: u32,
    connect_error: ErrorClass,
    retried: bool,
    server: Vec<u8>,
    moved: bool,
}

impl Slot {
    pub fn new(target: usize, source: Option<SocketAddr>) -> Self {
        Self {
            phase: Phase::Closed,
            deadline_ns: u64::MAX,
            stream: None,
            generation: 0,
            target,
            source,
            request: None,
            out: Vec::new(),
            sent: 0,
            reader: Reader::default(),
            answered: 0,
            connect_tries: 0,
            connect_error: ErrorClass::ConnectTimeout,
            retried: false,
            server: Vec::new(),
            moved: false,
        }
    }
}

fn connect_class(error: &io::Error) -> ErrorClass {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorClass::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorClass::ConnectTimeout,
        io::ErrorKind::ConnectionReset => ErrorClass::Reset,
        _ => ErrorClass::ConnectOther,
    }
}

impl Worker<'_> {
    /// Sends a new request on an idle or closed connection.
    pub fn start_request(&mut self, index: u32, intended_ns: u64) {
        let now = self.now();
        let slot = &mut self.slots[index as usize];
        let sent = self.generator.next(self.plan, slot.target, &mut slot.out);
        slot.request = Some((sent, intended_ns));
        slot.sent = 0;
        slot.retried = false;
        slot.connect_tries = 0;
        slot.deadline_ns = now + self.timeout_ns;
        self.busy += 1;
        if slot.phase == Phase::Idle {
            slot.phase = Phase::Busy;
            slot.reader.begin(sent.asked);
            self.send(index);
        } else {
            self.connect(index);
        }
    }

    /// Opens the connection; the request, if there is one, follows when it is established.
    pub fn connect(&mut self, index: u32) {
        let now = self.now();
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.answered = 0;
        slot.phase = Phase::Connecting;
        slot.deadline_ns = now + self.timeout_ns;
        let token = u64::from(slot.generation) << 32 | u64::from(index);
        let opened = poll::start_connect(self.plan.targets[slot.target].address, slot.source)
            .and_then(|(stream, done)| self.poll.add(&stream, token).map(|()| (stream, done)));
        match opened {
            Ok((stream, done)) => {
                slot.stream = Some(stream);
                if done {
                    self.connected(index);
                }
            }
            Err(e) => self.connect_failed(index, connect_class(&e)),
        }
    }

    pub fn on_ready(&mut self, ready: Ready) {
        let index = ready.token as u32;
        let slot = &mut self.slots[index as usize];
        if slot.generation != (ready.token >> 32) as u32 {
            return;
        }
        match slot.phase {
            Phase::Connecting => {
                let Some(stream) = &slot.stream else { return };
                match poll::connect_result(stream) {
                    Ok(()) if ready.write => self.connected(index),
                    Ok(()) => {}
                    Err(e) => self.connect_failed(index, connect_class(&e)),
                }
            }
            Phase::Busy => {
                if ready.write && slot.sent < slot.out.len() {
                    self.send(index);
                }
                if ready.read && self.slots[index as usize].phase == Phase::Busy {
                    self.receive(index, ready.ended);
                }
            }
            Phase::Idle | Phase::Draining if ready.read => self.receive_nothing(index),
            _ => {}
        }
    }

    /// The time of a connection's present phase is over.
    pub fn on_deadline(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        match slot.phase {
            Phase::Connecting => self.connect_failed(index, ErrorClass::ConnectTimeout),
            Phase::Backoff => {
                self.backing_off -= 1;
                if slot.request.is_some() {
                    self.counts.connect_retries += 1;
                    self.connect(index);
                } else {
                    self.release(index);
                }
            }
            Phase::Busy => self.fail(index, ErrorClass::Timeout),
            Phase::Draining => self.release(index),
            Phase::Closed | Phase::Idle | Phase::Dead => slot.deadline_ns = u64::MAX,
        }
    }

    fn connected(&mut self, index: u32) {
        self.counts.connected += 1;
        let slot = &mut self.slots[index as usize];
        match slot.request {
            Some((sent, _)) => {
                slot.phase = Phase::Busy;
                slot.sent = 0;
                slot.reader.begin(sent.asked);
                self.send(index);
            }
            None => {
                slot.phase = Phase::Idle;
                slot.deadline_ns = u64::MAX;
                self.idle.push_back(index);
            }
        }
    }

    fn connect_failed(&mut self, index: u32, class: ErrorClass) {
        let now = self.now();
        let slot = &mut self.slots[index as usize];
        slot.stream = None;
        slot.generation = slot.generation.wrapping_add(1);
        slot.connect_error = class;
        slot.connect_tries += 1;
        if slot.request.is_none() {
            self.counts.preconnect_failed += 1;
        } else if slot.connect_tries > self.plan.connect_retries {
            slot.request = None;
            self.busy -= 1;
            self.counts.error(slot.connect_error);
        }
        if self.plan.hold {
            slot.phase = Phase::Dead;
            slot.deadline_ns = u64::MAX;
            return;
        }
        // Also without a request: a server that refuses must not be asked as fast as the loop turns.
        slot.phase = Phase::Backoff;
        slot.deadline_ns = now + self.backoff_ns;
        self.next_sweep_by(now + self.backoff_ns);
        self.backing_off += 1;
    }

    fn send(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(stream) = &mut slot.stream else { return };
        while slot.sent < slot.out.len() {
            match stream.write(&slot.out[slot.sent..]) {
                Ok(n) => slot.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The answer may have come before the reset: read it first.
                Err(_) => return self.receive(index, true),
            }
        }
    }

    fn receive(&mut self, index: u32, ended: bool) {
        loop {
            let slot = &mut self.slots[index as usize];
            let Some(stream) = &mut slot.stream else { return };
            let len = match stream.read(&mut self.buffer) {
                Ok(0) => return self.ended(index),
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.lost(index, ErrorClass::Reset),
            };
            match slot.reader.feed(&self.buffer[..len], &self.plan.named_by) {
                Ok(Some((answer, used))) if used == len => return self.complete(index, answer, ended),
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return self.fail(index, ErrorClass::Malformed),
            }
            // A short read emptied the socket; only the end of the connection has no edge of its own.
            if len < self.buffer.len() && !ended {
                return;
            }
        }
    }

    /// The server ended the connection while a request was under way.
    fn ended(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if let Some(answer) = slot.reader.end_of_input() {
            return self.complete(index, Answer { keep_alive: false, ..answer }, true);
        }
        let class = if slot.reader.in_body() { ErrorClass::ShortBody } else { ErrorClass::Closed };
        self.lost(index, class);
    }

    /// As [`Self::fail`], unless the request may go to another connection.
    fn lost(&mut self, index: u32, class: ErrorClass) {
        let slot = &mut self.slots[index as usize];
        let again = self.plan.retry_stale
            && slot.answered > 0
            && !slot.retried
            && !slot.reader.started()
            && slot.request.is_some_and(|(sent, _)| sent.idempotent);
        if !again || self.plan.hold {
            return self.fail(index, class);
        }
        slot.retried = true;
        slot.stream = None;
        self.counts.stale_retries += 1;
        self.connect(index);
    }

    fn fail(&mut self, index: u32, class: ErrorClass) {
        self.slots[index as usize].request = None;
        self.busy -= 1;
        self.counts.error(class);
        self.drop_connection(index);
    }

    fn complete(&mut self, index: u32, answer: Answer, ended: bool) {
        let now = self.now();
        let slot = &mut self.slots[index as usize];
        let Some((_, intended_ns)) = slot.request.take() else { return };
        self.busy -= 1;
        slot.answered += 1;
        let counts = &mut self.counts;
        counts.latency(now.saturating_sub(intended_ns));
        *counts.status.entry(answer.status).or_default() += 1;
        counts.body_bytes += answer.body_len;
        counts.server(slot.reader.served_by());
        if let Some(hit) = answer.hit {
            counts.cache_told += 1;
            counts.cache_hits += u64::from(hit);
        }
        match answer {
            Answer { status: 400.., .. } => counts.error(ErrorClass::BadStatus),
            Answer { mismatch: true, .. } => counts.error(ErrorClass::BodyMismatch),
            _ => {
                counts.requests += 1;
                counts.good += 1;
            }
        }
        if self.plan.hold {
            self.check_moved(index);
        }
        let slot = &mut self.slots[index as usize];
        if ended {
            return self.drop_connection(index);
        }
        if !answer.keep_alive || self.plan.new_connection {
            slot.phase = Phase::Draining;
            slot.deadline_ns = now + DRAIN_NS.min(self.timeout_ns);
            // The end may have come together with the answer.
            return self.receive_nothing(index);
        }
        slot.phase = Phase::Idle;
        slot.deadline_ns = u64::MAX;
        self.idle.push_back(index);
    }

    fn check_moved(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let name = slot.reader.served_by();
        if slot.server.is_empty() {
            slot.server.extend_from_slice(name);
        } else if slot.server != name && !slot.moved {
            slot.moved = true;
            self.counts.moved += 1;
        }
    }

    /// Input on a connection that awaits none: its end, or bytes nobody asked for.
    fn receive_nothing(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(stream) = &mut slot.stream else { return };
        let mut byte = [0];
        match stream.read(&mut byte) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => {
                self.counts.idle_closed += u64::from(slot.phase == Phase::Idle);
                self.drop_connection(index);
            }
        }
    }

    /// Closes the connection; held ones stay closed.
    fn drop_connection(&mut self, index: u32) {
        if self.plan.hold {
            self.counts.broken += 1;
            let slot = &mut self.slots[index as usize];
            slot.stream = None;
            slot.generation = slot.generation.wrapping_add(1);
            slot.phase = Phase::Dead;
            slot.deadline_ns = u64::MAX;
        } else {
            self.release(index);
        }
    }

    fn release(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.stream = None;
        slot.generation = slot.generation.wrapping_add(1);
        slot.phase = Phase::Closed;
        slot.deadline_ns = u64::MAX;
        self.closed.push_back(index);
    }
}
