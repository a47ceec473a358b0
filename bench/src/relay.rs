//! Floors: what serving on this driver costs before anything is understood.
//!
//! One thread, one ring. The relay gives each accepted connection one upstream connection and copies bytes
//! from one to the other; the answerer sends one fixed response for whatever comes in. Not a product:
//! nothing is limited and nothing times out.

use sluice_uring::{BufGroup, Event, Io, Payload, Slice, Sock, StableBytes};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The stop flag is looked at this often.
const WAKE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Side {
    sock: Option<Sock>,
    peer: Option<Sock>,
    sending: bool,
    waiting: Vec<u8>,
}

/// The relay's connections.
pub struct Relay<'a, I> {
    io: &'a mut I,
    upstream: SocketAddr,
    sides: Vec<Side>,
}

impl<'a, I: Io> Relay<'a, I> {
    /// Relays to `upstream` over `io`.
    pub fn new(io: &'a mut I, upstream: SocketAddr) -> Self {
        Self { io, upstream, sides: Vec::new() }
    }

    /// Serves what `listener` accepts until `stop`.
    pub fn run(&mut self, listener: Sock, stop: &AtomicBool) -> io::Result<()> {
        self.io.accept(listener);
        let mut events = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            self.io.wait(WAKE, &mut events)?;
            for event in events.drain(..) {
                self.on_event(event)?;
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Accepted { sock, .. } => {
                let upstream = self.io.connect(self.upstream)?;
                self.pair(sock, upstream);
                self.pair(upstream, sock);
            }
            Event::Connected { sock, errno: 0 } => {
                if let Some(peer) = self.peer(sock) {
                    self.io.recv(sock, BufGroup::Small);
                    self.io.recv(peer, BufGroup::Small);
                }
            }
            Event::Data { sock, buf } => {
                let peer = self.peer(sock);
                if let Some(peer) = peer {
                    self.forward(peer, &buf);
                }
                self.io.release(buf);
            }
            Event::Sent { sock, done: true, errno: 0, .. } => self.sent(sock),
            Event::RecvIdle { sock, .. } => {
                if self.peer(sock).is_some() {
                    self.io.recv(sock, BufGroup::Small);
                }
            }
            Event::Connected { sock, .. } | Event::Eof { sock, .. } => self.end(sock),
            Event::Sent { sock, errno, .. } if errno != 0 => self.end(sock),
            Event::AcceptEnded { errno, .. } => return Err(io::Error::from_raw_os_error(errno)),
            Event::Sent { .. } | Event::Woken => {}
        }
        Ok(())
    }

    fn side(&mut self, sock: Sock) -> &mut Side {
        let index = sock.index as usize;
        if index >= self.sides.len() {
            self.sides.resize_with(index + 1, Side::default);
        }
        &mut self.sides[index]
    }

    fn pair(&mut self, sock: Sock, peer: Sock) {
        *self.side(sock) = Side { sock: Some(sock), peer: Some(peer), ..Side::default() };
    }

    fn peer(&mut self, sock: Sock) -> Option<Sock> {
        let side = self.side(sock);
        side.peer.filter(|_| side.sock == Some(sock))
    }

    fn forward(&mut self, to: Sock, buf: &sluice_uring::RecvBuf) {
        if self.side(to).sending {
            let index = to.index as usize;
            self.sides[index].waiting.extend_from_slice(self.io.data(buf));
            return;
        }
        let mut bytes = self.io.scratch();
        bytes.extend_from_slice(self.io.data(buf));
        self.side(to).sending = true;
        self.io.send(to, Payload::bytes(bytes));
    }

    fn sent(&mut self, sock: Sock) {
        let side = self.side(sock);
        if side.sock != Some(sock) {
            return;
        }
        side.sending = !side.waiting.is_empty();
        if side.sending {
            let bytes = std::mem::take(&mut side.waiting);
            self.io.send(sock, Payload::bytes(bytes));
        }
    }

    /// Ends both sides. What was received is sent before the close: a send under way goes on.
    fn end(&mut self, sock: Sock) {
        let Some(peer) = self.peer(sock) else { return };
        for one in [sock, peer] {
            *self.side(one) = Side::default();
            self.io.close(one);
        }
    }
}

/// Sends one fixed response for every piece of input.
pub struct Answerer<'a, I> {
    io: &'a mut I,
    keep_alive: Arc<dyn StableBytes>,
    close: Arc<dyn StableBytes>,
    /// By index of the socket: its response under way is the last.
    last: Vec<bool>,
}

impl<'a, I: Io> Answerer<'a, I> {
    /// Answers with the object that `target` names at the origin; `None` when it names none.
    pub fn new(io: &'a mut I, target: &str) -> Option<Self> {
        let object = crate::pattern::expected(target)?;
        let response = |connection: &str| -> Arc<dyn StableBytes> {
            let mut bytes =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}{connection}\r\n\r\n", object.len).into_bytes();
            let end = bytes.len() as u64 + object.len;
            let head = bytes.len() as u64;
            while (bytes.len() as u64) < end {
                let at = bytes.len() as u64;
                bytes.extend_from_slice(crate::pattern::slice(object.start, at - head, (end - at) as usize));
            }
            Arc::new(bytes.into_boxed_slice())
        };
        Some(Self {
            io,
            keep_alive: response(""),
            close: response("\r\nConnection: close"),
            last: Vec::new(),
        })
    }

    /// Serves what `listener` accepts until `stop`.
    pub fn run(&mut self, listener: Sock, stop: &AtomicBool) -> io::Result<()> {
        self.io.accept(listener);
        let mut events = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            self.io.wait(WAKE, &mut events)?;
            for event in events.drain(..) {
                match event {
                    Event::Accepted { sock, .. } | Event::RecvIdle { sock, .. } => {
                        self.io.recv(sock, BufGroup::Small);
                    }
                    Event::Data { sock, buf } => {
                        // The generator's requests differ in this only, and end with it.
                        let close = self.io.data(&buf).ends_with(b"close\r\n\r\n");
                        self.io.release(buf);
                        self.answer(sock, close);
                    }
                    Event::Sent { sock, done: true, .. } if self.last[sock.index as usize] => {
                        self.io.close(sock)
                    }
                    Event::Eof { sock, .. } => self.io.close(sock),
                    Event::AcceptEnded { errno, .. } => return Err(io::Error::from_raw_os_error(errno)),
                    Event::Connected { .. } | Event::Sent { .. } | Event::Woken => {}
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, sock: Sock, close: bool) {
        let index = sock.index as usize;
        if index >= self.last.len() {
            self.last.resize(index + 1, false);
        }
        self.last[index] = close;
        let bytes = if close { self.close.clone() } else { self.keep_alive.clone() };
        let len = bytes.bytes().len();
        self.io.send(sock, Payload { head: Vec::new(), body: vec![Slice::new(bytes, 0, len)] });
    }
}
