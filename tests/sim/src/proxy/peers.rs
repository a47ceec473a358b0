//! Simulated clients and the simulated origin on the product's simulated network.

use super::client::{Answer, Ask, Connection, Outgoing};
use super::origin::{Log, OriginConnection};
use crate::report::{Check, Counters, Violation};
use crate::rng::Rng;
use sluice_uring::sim::{SimIo, SimNet};
use sluice_uring::{BufGroup, Event, Io, Payload, Sock};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// A client that sees no byte for so long drops the connection and asks again elsewhere, us.
const PATIENCE_US: u64 = 8_000_000;

/// Bytes towards a socket, one payload at a time.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    sending: bool,
    close: bool,
}

impl Out {
    fn flush(&mut self, io: &mut SimIo, sock: Sock) {
        if !self.sending && !self.bytes.is_empty() {
            self.sending = true;
            io.send(sock, Payload::bytes(std::mem::take(&mut self.bytes)));
        } else if !self.sending && self.close {
            io.shutdown_write(sock);
        }
    }
}

struct ClientConnection {
    http: Connection,
    out: Out,
    left: u32,
    connected: bool,
    heard_us: u64,
}

/// A client: asks what it was given, over connections that it opens and loses.
pub struct Client {
    io: SimIo,
    connections: BTreeMap<Sock, ClientConnection>,
    todo: VecDeque<Ask>,
    /// Requests pipelined on one connection.
    depth: usize,
    /// Nothing may go wrong any more.
    pub strict: bool,
}

impl Client {
    /// A client on a node of its own.
    pub fn new(io: SimIo, depth: usize) -> Self {
        Self { io, connections: BTreeMap::new(), todo: VecDeque::new(), depth, strict: false }
    }

    /// Asks to make.
    pub fn give(&mut self, asks: impl IntoIterator<Item = Ask>) {
        self.todo.extend(asks);
    }

    /// Nothing is left to ask or to hear.
    pub fn is_done(&self) -> bool {
        self.todo.is_empty() && self.connections.values().all(|c| c.http.waiting() == 0)
    }

    /// What it still waits for.
    pub fn waiting(&self) -> usize {
        self.todo.len() + self.connections.values().map(|c| c.http.waiting()).sum::<usize>()
    }

    /// Look at what came and go on.
    pub fn turn(
        &mut self,
        net: &SimNet,
        members: &[SocketAddr],
        rng: &mut Rng,
        counts: &mut Counters,
    ) -> Check {
        let mut events = Vec::new();
        self.io.wait(Duration::ZERO, &mut events).expect("the simulated wait does not fail");
        for event in events {
            self.on(event, net.now_us(), rng, counts)?;
        }
        let late: Vec<Sock> = self
            .connections
            .iter()
            .filter(|(_, c)| {
                net.now_us() - c.heard_us > PATIENCE_US && (c.http.waiting() > 0 || !c.connected)
            })
            .map(|(sock, _)| *sock)
            .collect();
        for sock in late {
            counts.add("clients_out_of_patience");
            self.io.abort(sock);
            self.lost(sock, false, counts)?;
        }
        if self.connections.is_empty() && !self.todo.is_empty() {
            let to = *rng.pick(members);
            let sock = self.io.connect(to).expect("the simulated connect does not fail at once");
            let connection = ClientConnection {
                http: Connection::default(),
                out: Out::default(),
                left: rng.between(1, 12) as u32,
                connected: false,
                heard_us: net.now_us(),
            };
            self.connections.insert(sock, connection);
        }
        Ok(())
    }

    fn on(&mut self, event: Event, now_us: u64, rng: &mut Rng, counts: &mut Counters) -> Check {
        match event {
            Event::Connected { sock, errno } => {
                let Some(connection) = self.connections.get_mut(&sock) else { return Ok(()) };
                connection.heard_us = now_us;
                if errno != 0 {
                    counts.add("connects_refused");
                    self.io.close(sock);
                    return self.lost(sock, false, counts);
                }
                connection.connected = true;
                self.io.recv(sock, BufGroup::Small);
                self.ask(sock, rng);
                Ok(())
            }
            Event::Data { sock, buf } => {
                let bytes = self.io.data(&buf).to_vec();
                self.io.release(buf);
                let Some(connection) = self.connections.get_mut(&sock) else { return Ok(()) };
                connection.heard_us = now_us;
                let answered = connection.http.on_bytes(&bytes)?;
                for (ask, answer) in answered {
                    self.answered(ask, answer, counts)?;
                }
                self.ask(sock, rng);
                Ok(())
            }
            Event::Sent { sock, done, .. } => {
                if let Some(connection) = self.connections.get_mut(&sock).filter(|_| done) {
                    connection.out.sending = false;
                    connection.out.flush(&mut self.io, sock);
                }
                Ok(())
            }
            Event::RecvIdle { sock, .. } => {
                self.io.recv(sock, BufGroup::Small);
                Ok(())
            }
            Event::Eof { sock, errno } => {
                self.io.close(sock);
                self.lost(sock, errno == 0, counts)
            }
            _ => Ok(()),
        }
    }

    /// Send as many requests as the depth of this client allows.
    fn ask(&mut self, sock: Sock, rng: &mut Rng) {
        let Some(connection) = self.connections.get_mut(&sock) else { return };
        while connection.http.waiting() < self.depth && connection.left > 0 && !connection.http.last_seen {
            let Some(mut ask) = self.todo.pop_front() else { break };
            connection.left -= 1;
            ask.close = connection.left == 0;
            connection.out.bytes.extend(ask.bytes(rng));
            connection.http.ask(ask);
        }
        connection.out.flush(&mut self.io, sock);
        if connection.http.waiting() == 0 && (connection.left == 0 || self.todo.is_empty()) {
            self.io.close(sock);
            self.connections.remove(&sock);
        }
    }

    fn answered(&mut self, ask: Ask, answer: Answer, counts: &mut Counters) -> Check {
        match answer {
            Answer::Right => counts.add("answers_right"),
            Answer::Refused(status) if self.strict => {
                return Err(Violation::new("serves_after_faults", format!("{ask:?} got {status}")));
            }
            Answer::Refused(_) => {
                counts.add("answers_refused");
                self.again(ask, counts);
            }
        }
        Ok(())
    }

    /// Only what is safe to repeat is asked again.
    fn again(&mut self, ask: Ask, counts: &mut Counters) {
        if ask.method == "POST" {
            counts.add("posts_given_up");
        } else {
            counts.add("asked_again");
            self.todo.push_back(ask);
        }
    }

    fn lost(&mut self, sock: Sock, orderly: bool, counts: &mut Counters) -> Check {
        let Some(mut connection) = self.connections.remove(&sock) else { return Ok(()) };
        let last_seen = connection.http.last_seen;
        let end = connection.http.on_end(orderly)?;
        if let Some((ask, answer)) = end.last {
            self.answered(ask, answer, counts)?;
        }
        // Behind an answer that says close, pipelined requests are lawfully unanswered.
        if self.strict && !last_seen && !end.unanswered.is_empty() {
            return Err(Violation::new("serves_after_faults", format!("unanswered: {:?}", end.unanswered)));
        }
        end.unanswered.into_iter().for_each(|ask| self.again(ask, counts));
        Ok(())
    }
}

struct OriginSide {
    http: OriginConnection,
    out: Out,
    from: Option<SocketAddr>,
    /// URLs being answered here.
    open: Vec<(String, String)>,
}

/// The origin.
pub struct Origin {
    io: SimIo,
    connections: BTreeMap<Sock, OriginSide>,
    late: VecDeque<(u64, Sock, Outgoing)>,
    /// What was fetched.
    pub log: Log,
    /// Longest time before an answer, us.
    pub slowness_us: u64,
    /// One fill at a time per key and asker: holds as long as nothing is broken.
    pub strict: bool,
}

impl Origin {
    /// An origin that listens on port 80 of its node.
    pub fn new(mut io: SimIo, slowness_us: u64) -> Self {
        let listener = io.listen(80);
        io.accept(listener);
        Self {
            io,
            connections: BTreeMap::new(),
            late: VecDeque::new(),
            log: Log::default(),
            slowness_us,
            strict: false,
        }
    }

    /// When the next late answer leaves.
    pub fn next_us(&self) -> Option<u64> {
        self.late.iter().map(|(at, _, _)| *at).min()
    }

    /// Look at what came and answer.
    pub fn turn(&mut self, now_us: u64, members: &[String], rng: &mut Rng) -> Check {
        let mut events = Vec::new();
        self.io.wait(Duration::ZERO, &mut events).expect("the simulated wait does not fail");
        for event in events {
            self.on(event, now_us, members, rng)?;
        }
        let (due, later): (VecDeque<_>, VecDeque<_>) =
            self.late.drain(..).partition(|(at, _, _)| *at <= now_us);
        self.late = later;
        for (_, sock, outgoing) in due {
            if let Some(side) = self.connections.get_mut(&sock) {
                side.out.bytes.extend(outgoing.bytes);
                side.out.close |= outgoing.close;
                side.open.retain(|url| *url != outgoing.url);
                side.out.flush(&mut self.io, sock);
            }
        }
        Ok(())
    }

    fn on(&mut self, event: Event, now_us: u64, members: &[String], rng: &mut Rng) -> Check {
        match event {
            Event::Accepted { sock, .. } => {
                let from = self.io.peer(sock);
                let side = OriginSide {
                    http: OriginConnection::default(),
                    out: Out::default(),
                    from,
                    open: Vec::new(),
                };
                self.connections.insert(sock, side);
                self.io.recv(sock, BufGroup::Small);
            }
            Event::Data { sock, buf } => {
                let bytes = self.io.data(&buf).to_vec();
                self.io.release(buf);
                let Some(side) = self.connections.get_mut(&sock) else { return Ok(()) };
                let from = side.from.map(|a| a.ip());
                for reply in side.http.on_bytes(&bytes, rng)? {
                    self.log.note(&reply.fetch, members)?;
                    let url = reply.fetch.url.clone();
                    if self.strict && reply.fetch.method == "GET" && url.1.starts_with("/c") {
                        let same = self.connections.values().filter(|c| c.from.map(|a| a.ip()) == from);
                        one_fill_in_flight(&url, same.filter(|c| c.open.contains(&url)).count())?;
                    }
                    let at = now_us + rng.between(0, self.slowness_us);
                    // A HEAD fills nothing.
                    if let Some(side) =
                        self.connections.get_mut(&sock).filter(|_| reply.fetch.method == "GET")
                    {
                        side.open.push(url.clone());
                    }
                    self.late.push_back((at, sock, Outgoing { bytes: reply.bytes, close: reply.close, url }));
                }
            }
            Event::Sent { sock, done, .. } => {
                if let Some(side) = self.connections.get_mut(&sock).filter(|_| done) {
                    side.out.sending = false;
                    side.out.flush(&mut self.io, sock);
                }
            }
            Event::RecvIdle { sock, .. } => self.io.recv(sock, BufGroup::Small),
            Event::Eof { sock, .. } => {
                self.io.close(sock);
                self.connections.remove(&sock);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A member has one fill in flight for a key.
pub fn one_fill_in_flight(url: &(String, String), others: usize) -> Check {
    if others == 0 {
        return Ok(());
    }
    Err(Violation::new(
        "one_fill_in_flight",
        format!("{url:?} is asked for while {others} answers are on their way"),
    ))
}
