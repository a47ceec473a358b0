//! What a worker knows about each of its sockets.
//!
//! ```text
//! client:    Head -> Exchange -> Head ...            a request is relayed to and from an upstream
//!            Head -> Stored   -> Head ...            a stored response is sent piece by piece
//!            Head -> Discard  -> Head                answered early, the request body is still coming
//!            any  -> Linger   -> closed              our FIN is sent, what comes is discarded
//! upstream:  Connecting -> Busy <-> Idle -> closed
//! ```

use crate::cached::BodyOut;
use crate::exchange::ExchangeId;
use crate::store::ObjectRef;
use sluice_core::http1::{BodyDecoder, ClientAddr, RequestHead, write_chunk_end, write_chunk_header};
use sluice_uring::{Slice, Sock};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes queued towards a socket: own ones first, then shared ones.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<Slice>,
    body_bytes: usize,
    /// Bytes handed to the ring and not taken by the kernel yet.
    pub(crate) in_flight: usize,
    pub(crate) sending: bool,
}

impl Outbox {
    /// Bytes not taken by the kernel yet.
    pub(crate) fn queued(&self) -> usize {
        self.head.len() + self.body_bytes + self.in_flight
    }

    /// Nothing waits to be handed to the ring.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    /// Appends bytes, in order behind shared pieces too.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.body.is_empty() {
            self.head.extend_from_slice(bytes);
        } else if !bytes.is_empty() {
            let owner: Box<[u8]> = bytes.into();
            self.body_bytes += owner.len();
            self.body.push(Slice::new(Arc::new(owner), 0, bytes.len()));
        }
    }

    /// Appends a part of a stored body by reference.
    pub(crate) fn push_object(&mut self, object: &ObjectRef, at: u64, len: u64) {
        self.body_bytes += object.push_body(at, len, &mut self.body) as usize;
    }

    /// Appends a part of a stored body, framed.
    pub(crate) fn push_framed(&mut self, object: &ObjectRef, at: u64, len: u64, framing: BodyOut) {
        if framing != BodyOut::Chunked {
            return self.push_object(object, at, len);
        }
        // Framing lies between the bytes anyway: they are copied.
        let mut bytes = Vec::with_capacity(len as usize);
        while (bytes.len() as u64) < len {
            let chunk = object.body_chunk(at + bytes.len() as u64);
            let n = chunk.len().min(len as usize - bytes.len());
            if n == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..n]);
        }
        self.append_framed(&bytes, framing);
    }

    /// Ends a chunked body.
    pub(crate) fn append_end(&mut self, trailers: &[u8]) {
        if self.body.is_empty() {
            return write_chunk_end(trailers, &mut self.head);
        }
        let mut bytes = Vec::new();
        write_chunk_end(trailers, &mut bytes);
        self.append(&bytes);
    }

    /// Appends body bytes, framed.
    pub(crate) fn append_framed(&mut self, data: &[u8], framing: BodyOut) {
        if framing != BodyOut::Chunked || data.is_empty() {
            return self.append(data);
        }
        let mut bytes = Vec::with_capacity(data.len() + 20);
        write_chunk_header(data.len(), &mut bytes);
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(b"\r\n");
        self.append(&bytes);
    }

    /// Own bytes can be appended now without changing the order.
    pub(crate) fn takes_bytes(&self) -> bool {
        self.body.is_empty()
    }

    pub(crate) fn take(&mut self) -> sluice_uring::Payload {
        self.in_flight = self.head.len() + self.body_bytes;
        self.body_bytes = 0;
        self.sending = true;
        sluice_uring::Payload { head: std::mem::take(&mut self.head), body: std::mem::take(&mut self.body) }
    }
}

/// What a client connection is doing.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waiting for a request head, or inside one.
    Head,
    /// Its request is being served through an upstream.
    Exchange(ExchangeId),
    /// Its response is read from the store.
    Stored(crate::cached::Reader),
    /// The response is queued; the rest of the request body is read and dropped.
    Discard { decoder: BodyDecoder, left: u64 },
    /// FIN sent.
    Linger,
}

/// Whether the other side is a member of our group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    Unknown,
    Member,
    Stranger,
}

/// A client connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) inbuf: Vec<u8>,
    pub(crate) out: Outbox,
    pub(crate) phase: Phase,
    /// Close once everything queued is sent.
    pub(crate) close_after: bool,
    /// The connection stays open after the response under way.
    pub(crate) keep: bool,
    /// The client sent its FIN.
    pub(crate) eof: bool,
    /// The request under way is the last one the client sends.
    pub(crate) said_close: bool,
    pub(crate) receiving: bool,
    pub(crate) dirty: bool,
    pub(crate) trust: Trust,
    pub(crate) requests: u32,
    /// When the first byte of the unfinished head came, ms.
    pub(crate) head_since_ms: u64,
    /// A head that came in parts: the parser goes on where it was.
    pub(crate) partial: Option<Box<RequestHead>>,
    pub(crate) addr: Option<Rc<ClientAddr>>,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self {
            inbuf: Vec::new(),
            out: Outbox::default(),
            phase: Phase::Head,
            close_after: false,
            keep: true,
            eof: false,
            said_close: false,
            receiving: true,
            dirty: false,
            trust: Trust::Unknown,
            requests: 0,
            head_since_ms: 0,
            partial: None,
            addr: None,
        }
    }

    /// Open without a request under way.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head) && self.inbuf.is_empty() && self.out.queued() == 0
    }
}

/// What an upstream connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamPhase {
    Connecting(ExchangeId),
    Busy(ExchangeId),
    Idle,
}

/// A connection to a peer, a parent or an origin.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) target: u32,
    pub(crate) phase: UpstreamPhase,
    /// Bytes of an unfinished response head.
    pub(crate) inbuf: Vec<u8>,
    pub(crate) out: Outbox,
    /// It has served a request before this one.
    pub(crate) reused: bool,
    pub(crate) receiving: bool,
    pub(crate) dirty: bool,
}

/// Who uses a socket.
#[derive(Debug)]
pub(crate) enum Session {
    Vacant,
    Client(Box<Client>),
    Upstream(Box<Upstream>),
}

/// A socket's row.
#[derive(Debug)]
struct Entry {
    generation: u32,
    session: Session,
    /// When the session is late, ms; `u64::MAX`: never.
    deadline: u64,
    /// Key of the visit planned in the wheel; `u64::MAX`: none.
    planned: u64,
}

/// All sockets of a worker, by slot.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
}

impl Table {
    pub(crate) fn insert(&mut self, sock: Sock, session: Session) {
        let index = sock.index as usize;
        while self.entries.len() <= index {
            self.entries.push(Entry {
                generation: 0,
                session: Session::Vacant,
                deadline: u64::MAX,
                planned: u64::MAX,
            });
        }
        self.entries[index] =
            Entry { generation: sock.generation, session, deadline: u64::MAX, planned: u64::MAX };
    }

    fn entry(&mut self, sock: Sock) -> Option<&mut Entry> {
        self.entries.get_mut(sock.index as usize).filter(|e| e.generation == sock.generation)
    }

    pub(crate) fn client(&mut self, sock: Sock) -> Option<&mut Client> {
        match self.entry(sock).map(|e| &mut e.session) {
            Some(Session::Client(client)) => Some(client),
            _ => None,
        }
    }

    pub(crate) fn upstream(&mut self, sock: Sock) -> Option<&mut Upstream> {
        match self.entry(sock).map(|e| &mut e.session) {
            Some(Session::Upstream(upstream)) => Some(upstream),
            _ => None,
        }
    }

    pub(crate) fn get(&mut self, sock: Sock) -> Option<&mut Session> {
        self.entry(sock).map(|e| &mut e.session)
    }

    pub(crate) fn remove(&mut self, sock: Sock) -> Option<Session> {
        let entry = self.entry(sock)?;
        entry.deadline = u64::MAX;
        match std::mem::replace(&mut entry.session, Session::Vacant) {
            Session::Vacant => None,
            session => Some(session),
        }
    }

    /// Sets when the session is late; true if the wheel must plan a visit (then tell [`Table::planned`]).
    #[inline]
    pub(crate) fn set_deadline(&mut self, sock: Sock, at_ms: u64) -> bool {
        let Some(entry) = self.entry(sock) else { return false };
        entry.deadline = at_ms;
        at_ms < entry.planned
    }

    pub(crate) fn planned(&mut self, sock: Sock, key: u64) {
        if let Some(entry) = self.entry(sock) {
            entry.planned = key;
        }
    }

    /// A visit of the wheel: the deadline if this visit is the planned one.
    pub(crate) fn visited(&mut self, sock: Sock, key: u64) -> Option<u64> {
        let entry = self.entry(sock)?;
        if entry.planned != key || matches!(entry.session, Session::Vacant) {
            return None;
        }
        entry.planned = u64::MAX;
        (entry.deadline != u64::MAX).then_some(entry.deadline)
    }

    /// Handles of all client connections.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (Sock, &Client)> {
        self.entries.iter().enumerate().filter_map(|(index, e)| match &e.session {
            Session::Client(client) => {
                Some((Sock { index: index as u32, generation: e.generation }, &**client))
            }
            _ => None,
        })
    }
}
