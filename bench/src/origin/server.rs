//! The origin's loop: accepts, asks each connection to go on, and answers its requests.

use super::conn::{Body, Conn, Next, Request, Response};
use super::spec::Spec;
use super::stats::Stats;
use crate::poll::{self, Poll};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Connections of one thread: below the usual hard limit of descriptors.
const CONNECTIONS_MAX: usize = 200_000;
/// Connections accepted before others get their turn.
const ACCEPTS_PER_WAKE: usize = 64;
/// The stop flag is looked at this often.
const WAKE_NS: u64 = 100_000_000;
/// Tokens from here on are listeners.
const LISTENER_TOKEN: u64 = 1 << 32;
/// `Last-Modified` of every object that has one: 2024-01-01.
const LAST_MODIFIED_UNIX_S: u64 = 1_704_067_200;

/// What to serve and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses listened on.
    pub listen: Vec<SocketAddr>,
    /// Sent as `X-Served-By`.
    pub name: String,
}

/// Why the origin did not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The event loop failed.
    #[error("event loop: {0}")]
    Poll(#[from] io::Error),
}

struct Slot {
    conn: Option<Conn>,
    serial: u32,
}

/// One serving thread's state.
pub struct Origin {
    config: Config,
    stats: Arc<Mutex<Stats>>,
    poll: Poll,
    listeners: Vec<TcpListener>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    delayed: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    date: (u64, String),
    last_modified: String,
}

impl Origin {
    /// Listens; call it and [`Self::run`] on the thread that serves.
    pub fn new(config: Config, stats: Arc<Mutex<Stats>>) -> Result<Self, Error> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for (index, &address) in config.listen.iter().enumerate() {
            let listener = poll::listener(address).map_err(|source| Error::Listen { address, source })?;
            poll.add_input(&listener, LISTENER_TOKEN + index as u64)?;
            listeners.push(listener);
        }
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_MODIFIED_UNIX_S);
        Ok(Self {
            config,
            stats,
            poll,
            listeners,
            slots: Vec::new(),
            free: Vec::new(),
            delayed: BinaryHeap::new(),
            date: (0, String::new()),
            last_modified: httpdate::fmt_http_date(modified),
        })
    }

    /// The addresses listened on; port 0 in the configuration is a real port here.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|l| l.local_addr().ok()).collect()
    }

    /// Serves until `stop` is set.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<(), Error> {
        while !stop.load(Ordering::Relaxed) {
            self.poll.wait(Some(self.sleep_ns()))?;
            for index in 0..self.poll.len() {
                let ready = self.poll.ready(index);
                if ready.token >= LISTENER_TOKEN {
                    self.accept((ready.token - LISTENER_TOKEN) as usize)?;
                } else {
                    let slot = ready.token as u32;
                    if let Some(conn) = self.slots[slot as usize].conn.as_mut() {
                        if ready.read {
                            conn.set_readable();
                        }
                        self.drive(slot);
                    }
                }
            }
            self.end_delays();
        }
        Ok(())
    }

    fn sleep_ns(&self) -> u64 {
        let Some(Reverse((due, ..))) = self.delayed.peek() else { return WAKE_NS };
        (due.saturating_duration_since(Instant::now()).as_nanos() as u64).min(WAKE_NS)
    }

    fn end_delays(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((due, slot, serial))) = self.delayed.peek() {
            if due > now {
                return;
            }
            self.delayed.pop();
            let entry = &mut self.slots[slot as usize];
            if entry.serial == serial
                && let Some(conn) = entry.conn.as_mut()
            {
                conn.end_delay();
                self.drive(slot);
            }
        }
    }

    fn accept(&mut self, listener: usize) -> Result<(), Error> {
        for _ in 0..ACCEPTS_PER_WAKE {
            let stream = match self.listeners[listener].accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The peer gave up, or no descriptor is free: others go on being served.
                Err(_) => return Ok(()),
            };
            if self.free.is_empty() && self.slots.len() >= CONNECTIONS_MAX {
                lock(&self.stats).refused_full += 1;
                continue;
            }
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots.push(Slot { conn: None, serial: 0 });
                (self.slots.len() - 1) as u32
            });
            self.poll.add(&stream, u64::from(slot))?;
            self.slots[slot as usize].conn = Some(Conn::new(stream));
            let mut stats = lock(&self.stats);
            stats.accepted += 1;
            stats.open += 1;
        }
        Ok(())
    }

    fn drive(&mut self, slot: u32) {
        loop {
            let entry = &mut self.slots[slot as usize];
            let Some(conn) = entry.conn.as_mut() else { return };
            match conn.drive() {
                Next::Idle => return,
                Next::Closed => return self.close(slot),
                Next::Malformed => {
                    lock(&self.stats).malformed += 1;
                    conn.respond(malformed());
                }
                Next::Request(request) => {
                    let serial = entry.serial;
                    let response = self.answer(&request, slot);
                    if response.delay_ms > 0 {
                        let due = Instant::now() + Duration::from_millis(response.delay_ms);
                        self.delayed.push(Reverse((due, slot, serial)));
                    }
                    if let Some(conn) = self.slots[slot as usize].conn.as_mut() {
                        conn.respond(response);
                    }
                }
            }
        }
    }

    fn close(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.conn = None;
        entry.serial = entry.serial.wrapping_add(1);
        self.free.push(slot);
        lock(&self.stats).open -= 1;
    }

    fn answer(&mut self, request: &Request, slot: u32) -> Response {
        self.refresh_date();
        let keep_alive = self.slots[slot as usize].conn.as_ref().is_some_and(Conn::keeps_alive);
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        if path == "/.origin/stats" {
            let text = lock(&self.stats).document(&self.config.name, query).to_string();
            return self.text(200, "application/json", text, keep_alive);
        }
        let (status, response) = match Spec::parse(&request.target) {
            Some(Ok(spec)) => self.object(request, &spec, keep_alive),
            Some(Err(e)) => (400, self.text(400, "text/plain", format!("{e}\n"), keep_alive)),
            None => (404, self.text(404, "text/plain", "no such object\n".to_owned(), keep_alive)),
        };
        lock(&self.stats).count(&request.method, &request.target, status);
        response
    }

    fn object(&self, request: &Request, spec: &Spec, keep_alive: bool) -> (u16, Response) {
        let status = if self.not_modified(request, spec) { 304 } else { spec.status };
        let bodiless = matches!(status, 204 | 304);
        let mut head = self.head_start(status);
        if !bodiless {
            head.extend_from_slice(b"Content-Type: application/octet-stream\r\n");
            if spec.chunked {
                head.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            } else {
                push(&mut head, "Content-Length", &spec.size.to_string());
            }
        }
        for (name, value) in
            [("Cache-Control", &spec.cache_control), ("Vary", &spec.vary), ("ETag", &spec.etag)]
        {
            if let Some(value) = value {
                push(&mut head, name, value);
            }
        }
        if spec.last_modified {
            push(&mut head, "Last-Modified", &self.last_modified);
        }
        let close = spec.close || spec.cut.is_some();
        end_head(&mut head, keep_alive && !close);
        let body = (!bodiless && request.method != "HEAD").then(|| Body::of(spec));
        (status, Response { head, body, delay_ms: spec.delay_ms, close, ..Response::default() })
    }

    fn not_modified(&self, request: &Request, spec: &Spec) -> bool {
        match (&request.if_none_match, &spec.etag) {
            (Some(asked), Some(etag)) => {
                asked.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
            }
            (Some(_), None) => false,
            (None, _) => {
                spec.last_modified
                    && request.if_modified_since.as_deref() == Some(self.last_modified.as_str())
            }
        }
    }

    fn text(&self, status: u16, kind: &str, text: String, keep_alive: bool) -> Response {
        let mut head = self.head_start(status);
        push(&mut head, "Content-Type", kind);
        push(&mut head, "Content-Length", &text.len().to_string());
        push(&mut head, "Cache-Control", "no-store");
        end_head(&mut head, keep_alive);
        Response { head, text: text.into_bytes(), ..Response::default() }
    }

    fn head_start(&self, status: u16) -> Vec<u8> {
        let mut head = Vec::with_capacity(256);
        let reason = reason(status);
        // Writing into a vector cannot fail.
        let _ok = write!(
            head,
            "HTTP/1.1 {status} {reason}\r\nDate: {}\r\nX-Served-By: {}\r\n",
            self.date.1, self.config.name
        );
        head
    }

    fn refresh_date(&mut self) {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        if second != self.date.0 {
            self.date = (second, httpdate::fmt_http_date(now));
        }
    }
}

fn push(head: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
}

fn end_head(head: &mut Vec<u8>, keep_alive: bool) {
    if !keep_alive {
        head.extend_from_slice(b"Connection: close\r\n");
    }
    head.extend_from_slice(b"\r\n");
}

fn malformed() -> Response {
    let head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
    Response { head, close: true, ..Response::default() }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

/// A panic while counting leaves only a count behind, so a poisoned lock is still good.
fn lock(stats: &Mutex<Stats>) -> std::sync::MutexGuard<'_, Stats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}
