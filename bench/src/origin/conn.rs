//! One connection of the origin.
//!
//! ```text
//! Head -> Discard (request body) -> Wait (delay) -> Write -> Head
//! ```
//! Requests on a connection are answered one after the other; pipelined ones stay in the input.

use super::spec::Spec;
use crate::chunked;
use crate::pattern;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;

/// Longest request head, bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Most header fields of a request.
const FIELDS_MAX: usize = 100;
/// Read at most this much at once; a pipelining client must not grow the input without bound.
const READ_SIZE: usize = 16 * 1024;
/// Body slices per vectored write; each is at most [`pattern::RING_LEN`] long.
const SLICES_MAX: usize = 17;
/// Body bytes in one chunk of the chunked coding.
const CHUNK_SIZE: u64 = 16 * 1024;

/// A request whose head was read.
#[derive(Debug)]
pub struct Request {
    /// As sent.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<String>,
    keep_alive: bool,
    length: u64,
    chunked: bool,
    expects_continue: bool,
}

/// What to send.
#[derive(Debug, Default)]
pub struct Response {
    /// Status line and fields, with the empty line.
    pub head: Vec<u8>,
    /// Bytes after the head that are no object.
    pub text: Vec<u8>,
    /// An object's body.
    pub body: Option<Body>,
    /// Wait this long before the first byte, ms.
    pub delay_ms: u64,
    /// End the connection afterwards.
    pub close: bool,
}

/// The body of an object on its way out.
#[derive(Debug)]
pub struct Body {
    start: usize,
    offset: u64,
    len: u64,
    chunked: bool,
}

impl Body {
    /// The body that `spec` describes.
    pub fn of(spec: &Spec) -> Self {
        let len = spec.cut.map_or(spec.size, |cut| cut.min(spec.size));
        Self { start: spec.start, offset: 0, len, chunked: spec.chunked }
    }
}

#[derive(Debug)]
enum Phase {
    Head,
    Discard { left: u64 },
    DiscardChunked(chunked::Decoder),
    Wait,
    Write,
}

/// What the server has to do next for a connection.
#[derive(Debug)]
pub enum Next {
    /// Wait for readiness.
    Idle,
    /// Answer this request by [`Conn::respond`].
    Request(Box<Request>),
    /// The connection is over.
    Closed,
    /// The request cannot be read: answer 400 and close.
    Malformed,
}

/// State of one connection.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    phase: Phase,
    input: Vec<u8>,
    consumed: usize,
    pending: Option<Box<Request>>,
    out: Vec<u8>,
    sent: usize,
    body: Option<Body>,
    close_after: bool,
    readable: bool,
}

impl Conn {
    /// Takes a non-blocking stream.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            phase: Phase::Head,
            input: Vec::new(),
            consumed: 0,
            pending: None,
            out: Vec::new(),
            sent: 0,
            body: None,
            close_after: false,
            readable: true,
        }
    }

    /// Input may have come.
    pub fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Goes on as far as it can without waiting.
    pub fn drive(&mut self) -> Next {
        loop {
            let step = match self.phase {
                Phase::Head => self.read_head(),
                Phase::Discard { .. } | Phase::DiscardChunked(_) => self.discard(),
                Phase::Wait => return Next::Idle,
                Phase::Write => self.write(),
            };
            match step {
                Ok(Some(next)) => return next,
                Ok(None) => {}
                Err(_) => return Next::Closed,
            }
        }
    }

    /// Sets the answer to the request handed out last; `drive` sends it, unless it is delayed.
    pub fn respond(&mut self, response: Response) {
        self.out.clear();
        self.out.extend_from_slice(&response.head);
        self.out.extend_from_slice(&response.text);
        self.sent = 0;
        self.body = response.body;
        self.close_after |= response.close;
        self.phase = if response.delay_ms > 0 { Phase::Wait } else { Phase::Write };
    }

    /// The delay of the response is over.
    pub fn end_delay(&mut self) {
        if matches!(self.phase, Phase::Wait) {
            self.phase = Phase::Write;
        }
    }

    /// Whether the connection goes on after this response.
    pub fn keeps_alive(&self) -> bool {
        !self.close_after
    }

    fn read_head(&mut self) -> io::Result<Option<Next>> {
        let unread = &self.input[self.consumed..];
        if !unread.is_empty() {
            match parse(unread) {
                Parsed::Whole(request, len) => {
                    self.consumed += len;
                    self.close_after = !request.keep_alive;
                    return self.begin(request);
                }
                Parsed::Partial if unread.len() < HEAD_MAX => {}
                Parsed::Partial | Parsed::Malformed => return Ok(Some(Next::Malformed)),
            }
        }
        self.fill()
    }

    fn begin(&mut self, request: Box<Request>) -> io::Result<Option<Next>> {
        if request.length == 0 && !request.chunked {
            return Ok(Some(Next::Request(request)));
        }
        if request.expects_continue {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        self.phase = if request.chunked {
            Phase::DiscardChunked(chunked::Decoder::default())
        } else {
            Phase::Discard { left: request.length }
        };
        self.pending = Some(request);
        Ok(None)
    }

    fn discard(&mut self) -> io::Result<Option<Next>> {
        let unread = &self.input[self.consumed..];
        let done = match &mut self.phase {
            _ if unread.is_empty() => false,
            Phase::Discard { left } => {
                let take = (*left).min(unread.len() as u64);
                *left -= take;
                self.consumed += take as usize;
                *left == 0
            }
            Phase::DiscardChunked(decoder) => match decoder.advance(unread) {
                Ok(chunked::Step::Done(n)) => {
                    self.consumed += n;
                    true
                }
                Ok(chunked::Step::Data(n) | chunked::Step::More(n)) => {
                    self.consumed += n;
                    false
                }
                Err(chunked::Malformed) => return Ok(Some(Next::Malformed)),
            },
            Phase::Head | Phase::Wait | Phase::Write => false,
        };
        match self.pending.take_if(|_| done) {
            Some(request) => Ok(Some(Next::Request(request))),
            None if self.consumed < self.input.len() => Ok(None),
            None => self.fill(),
        }
    }

    /// Reads once; `Some` when there is nothing to read.
    fn fill(&mut self) -> io::Result<Option<Next>> {
        if !self.readable {
            return Ok(Some(Next::Idle));
        }
        self.input.drain(..self.consumed);
        self.consumed = 0;
        self.input.reserve(READ_SIZE);
        let room = self.input.spare_capacity_mut().len();
        match rustix::io::read(&self.stream, rustix::buffer::spare_capacity(&mut self.input)) {
            Ok(0) => Ok(Some(Next::Closed)),
            Ok(n) => {
                // A short read emptied the socket; the next edge tells of more.
                self.readable = n == room;
                Ok(None)
            }
            Err(rustix::io::Errno::AGAIN) => {
                self.readable = false;
                Ok(Some(Next::Idle))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn write(&mut self) -> io::Result<Option<Next>> {
        if self.body.as_ref().is_some_and(|b| b.chunked) && self.sent == self.out.len() {
            self.next_chunk();
        }
        let head = &self.out[self.sent..];
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        slices[0] = IoSlice::new(head);
        let mut used = 1;
        let head_len = head.len();
        let plain = self.body.as_ref().filter(|b| !b.chunked);
        if let Some(body) = plain {
            let mut offset = body.offset;
            while offset < body.len && used < SLICES_MAX {
                let max = (body.len - offset).min(pattern::RING_LEN as u64) as usize;
                let slice = pattern::slice(body.start, offset, max);
                offset += slice.len() as u64;
                slices[used] = IoSlice::new(slice);
                used += 1;
            }
        }
        if head_len == 0 && used == 1 {
            return Ok(self.finish());
        }
        match self.stream.write_vectored(&slices[..used]) {
            Ok(n) => {
                let from_head = n.min(head_len);
                self.sent += from_head;
                if let Some(body) = self.body.as_mut().filter(|b| !b.chunked) {
                    body.offset += (n - from_head) as u64;
                }
                Ok(if self.complete() { self.finish() } else { None })
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Some(Next::Idle)),
            Err(e) => Err(e),
        }
    }

    fn complete(&self) -> bool {
        self.sent == self.out.len() && self.body.as_ref().is_none_or(|b| !b.chunked && b.offset == b.len)
    }

    fn next_chunk(&mut self) {
        let Some(body) = &mut self.body else { return };
        self.out.clear();
        self.sent = 0;
        let take = (body.len - body.offset).min(CHUNK_SIZE);
        if take == 0 {
            self.out.extend_from_slice(b"0\r\n\r\n");
            self.body = None;
            return;
        }
        self.out.extend_from_slice(format!("{take:x}\r\n").as_bytes());
        let end = body.offset + take;
        while body.offset < end {
            let slice = pattern::slice(body.start, body.offset, (end - body.offset) as usize);
            self.out.extend_from_slice(slice);
            body.offset += slice.len() as u64;
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn finish(&mut self) -> Option<Next> {
        self.body = None;
        self.out.clear();
        self.sent = 0;
        if self.close_after {
            return Some(Next::Closed);
        }
        self.phase = Phase::Head;
        None
    }
}

enum Parsed {
    Whole(Box<Request>, usize),
    Partial,
    Malformed,
}

fn parse(input: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let len = match head.parse(input) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Malformed,
    };
    let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else {
        return Parsed::Malformed;
    };
    let mut request = Request {
        method: method.to_owned(),
        target: origin_form(target).to_owned(),
        if_none_match: None,
        if_modified_since: None,
        keep_alive: version == 1,
        length: 0,
        chunked: false,
        expects_continue: false,
    };
    for field in head.headers.iter() {
        let Ok(value) = std::str::from_utf8(field.value) else { continue };
        let name = field.name;
        if name.eq_ignore_ascii_case("content-length") {
            match value.parse() {
                Ok(length) => request.length = length,
                Err(_) => return Parsed::Malformed,
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            request.chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            for token in value.split(',').map(str::trim) {
                request.keep_alive |= token.eq_ignore_ascii_case("keep-alive");
                request.keep_alive &= !token.eq_ignore_ascii_case("close");
            }
        } else if name.eq_ignore_ascii_case("expect") {
            request.expects_continue = value.eq_ignore_ascii_case("100-continue");
        } else if name.eq_ignore_ascii_case("if-none-match") {
            request.if_none_match = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("if-modified-since") {
            request.if_modified_since = Some(value.to_owned());
        }
    }
    Parsed::Whole(Box::new(request), len)
}

/// Path and query of an absolute-form target; any other form as it is.
fn origin_form(target: &str) -> &str {
    match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    }
}
