//! The admin socket: one JSON request a line, one JSON reply a line, in order.
//!
//! Runs on threads of its own with blocking I/O; serving threads are touched only by published pointers, rows
//! changed in place, and orders. Changes are made one at a time.

mod trace;

use crate::config::Group;
use crate::control::Order;
use crate::runtime::Shared;
use crate::stats;
use crate::worker::Mode;
use sluice_api::proxy_admin::{Answer, Apply, Purge, Reply, Request, SiteCount, Stats};
use sluice_uring::sys;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

/// Longest request line: a change of 100,000 sites is about 25 MiB.
const LINE_BYTES_MAX: u64 = 256 << 20;
/// Admin connections served at once; the agent uses one, operators a few.
const CONNECTIONS_MAX: usize = 16;

/// Sites named in the counters: what an operator reads at a glance; the sum over all sites is there anyway.
const TOP_SITES: usize = 20;

/// What the main thread is told.
#[derive(Debug)]
pub enum Notice {
    /// The first change was published.
    Configured,
    /// The listeners were given to a successor: leave within this time, ms.
    HandedOver(u64),
}

/// State of the admin side.
pub struct Admin {
    shared: Arc<Shared>,
    /// Held while a change is made.
    changing: Mutex<()>,
    connections: AtomicUsize,
    notices: Mutex<Sender<Notice>>,
}

type Refusal = (String, String);

impl Admin {
    /// For a process; `notices` hears what concerns its life.
    pub fn new(shared: Arc<Shared>, notices: Sender<Notice>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            changing: Mutex::default(),
            connections: AtomicUsize::new(0),
            notices: Mutex::new(notices),
        })
    }

    /// Serves a socket until the process ends.
    pub fn serve(self: &Arc<Self>, listener: UnixListener) -> io::Result<()> {
        let admin = self.clone();
        std::thread::Builder::new().name("admin".into()).spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if admin.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                    admin.connections.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let served = admin.clone();
                let spawned = std::thread::Builder::new().name("admin-connection".into()).spawn(move || {
                    // A broken admin connection concerns only its client.
                    let _ = served.converse(&stream);
                    served.connections.fetch_sub(1, Ordering::Relaxed);
                });
                if spawned.is_err() {
                    admin.connections.fetch_sub(1, Ordering::Relaxed);
                }
            }
        })?;
        Ok(())
    }

    fn converse(&self, stream: &UnixStream) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 16, stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            if n == 0 {
                return Ok(());
            }
            if line.last() != Some(&b'\n') {
                let text = if n as u64 == LINE_BYTES_MAX {
                    "line is longer than 256 MiB"
                } else {
                    "line is cut off"
                };
                return write_reply(stream, &refusal("", text));
            }
            match parse(&line) {
                Ok(Request::Handover { deadline_ms }) => self.hand_over(stream, deadline_ms)?,
                Ok(request) => write_reply(stream, &self.answer(request))?,
                Err((field, message)) => write_reply(stream, &Reply::Error { field, message })?,
            }
        }
    }

    /// Carries a request out; everything but handover.
    pub fn answer(&self, request: Request) -> Reply {
        let result = match request {
            Request::Hello {} => Ok(self.hello()),
            Request::Apply(change) => self.apply(&change),
            Request::Stats {} => Ok(Answer::Stats(self.stats())),
            Request::Trace { method, url } => {
                trace::trace(&self.shared, method.as_deref(), &url).map(Answer::Trace)
            }
            Request::Purge(purge) => self.purge(&purge),
            Request::Drain { on } => self.drain(on),
            Request::Handover { .. } => Err((String::new(), "needs a connection".into())),
        };
        match result {
            Ok(answer) => Reply::Ok(answer),
            Err((field, message)) => Reply::Error { field, message },
        }
    }

    fn hello(&self) -> Answer {
        Answer::Hello {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            revision: self.shared.published.revision(),
            listen: self.shared.listen_addresses().iter().map(ToString::to_string).collect(),
            draining: self.shared.mode() != Mode::Serving,
        }
    }

    /// Publishes a change, or says which field is at fault and changes nothing.
    pub fn apply(&self, change: &Apply) -> Result<Answer, Refusal> {
        let _changing = self.changing.lock().expect("no panic under this lock");
        let published = &self.shared.published;
        let before = published.revision();
        if change.revision == 0 || change.revision < before {
            let message = format!("is {}, but {before} is in effect", change.revision);
            return Err(("revision".into(), message));
        }
        let group = match &change.group {
            Some(view) => Some(Group::new(view).map_err(|e| (format!("group.{}", e.field), e.message))?),
            None => None,
        };
        published.table.apply(change).map_err(|e| (e.field, e.message))?;
        // Absent means unchanged, in a full change too.
        if group.is_some() {
            published.set_group(group);
        }
        published.publish(change.revision);
        self.shared.order_all(|| Order::Look);
        if before == 0 {
            self.tell(Notice::Configured);
        }
        Ok(Answer::Applied { revision: change.revision, sites: published.table.stats().sites })
    }

    fn tell(&self, notice: Notice) {
        // The main thread is gone only when the process ends.
        let _ = self.notices.lock().expect("no panic under this lock").send(notice);
    }

    fn stats(&self) -> Stats {
        let mut out = stats::collect(&self.shared.pages);
        out.revision = self.shared.published.revision();
        out.draining = self.shared.mode() != Mode::Serving;
        let top = self.shared.published.table.busiest(TOP_SITES);
        let counted =
            |(host, counters): (String, std::sync::Arc<sluice_core::route::RowCounters>)| SiteCount {
                host,
                requests: counters.requests.load(Ordering::Relaxed),
                hits: counters.hits.load(Ordering::Relaxed),
            };
        out.top_sites = top.into_iter().map(counted).collect();
        let table = self.shared.published.table.stats();
        let mut gauge = |name: &str, value: u64| out.gauges.insert(name.to_owned(), value);
        gauge("sites", table.sites);
        gauge("origins", table.origins);
        gauge("table_bytes", table.bytes);
        gauge("workers", self.shared.pages.len() as u64);
        if let Some(store) = &self.shared.store {
            let figures = store.stats();
            gauge("cache_bytes", figures.bytes);
            gauge("cache_objects", figures.objects);
            gauge("cache_fills", figures.fills);
            gauge("cache_capacity_bytes", self.shared.options.cache_bytes);
            for (name, value) in [
                ("evicted", figures.evicted),
                ("store_refused_large", figures.refused_large),
                ("store_refused_full", figures.refused_full),
                ("store_refused_fills", figures.refused_fills),
                ("store_fills_failed", figures.fills_failed),
            ] {
                out.counters.insert(name.to_owned(), value);
            }
        }
        out
    }

    fn purge(&self, purge: &Purge) -> Result<Answer, Refusal> {
        let store = self.shared.store.as_ref();
        match purge {
            Purge::Url { url } => {
                let url = trace::parse_url(url).map_err(|m| ("url".to_owned(), m))?;
                if let Some(store) = store {
                    store.purge(url.key());
                }
            }
            Purge::Host { host } => {
                if !self.shared.published.table.purge_host(host) {
                    return Err(("host".into(), "no such site".into()));
                }
            }
            Purge::All {} => {
                if let Some(store) = store {
                    store.purge_all();
                }
            }
        }
        Ok(Answer::Done {})
    }

    fn drain(&self, on: bool) -> Result<Answer, Refusal> {
        let mode = if on { Mode::Draining } else { Mode::Serving };
        if self.shared.set_mode(mode) {
            Ok(Answer::Done {})
        } else {
            Err((String::new(), "is leaving".into()))
        }
    }

    /// Sends the listeners with the reply, then stops accepting and leaves.
    fn hand_over(&self, stream: &UnixStream, deadline_ms: u64) -> io::Result<()> {
        let _changing = self.changing.lock().expect("no panic under this lock");
        if self.shared.mode() == Mode::Leaving {
            return write_reply(stream, &refusal("", "there is a successor already"));
        }
        let fds = self.shared.listener_fds()?;
        if fds.is_empty() || fds.len() > sys::FDS_MAX {
            return write_reply(stream, &refusal("", "no listeners to hand over, or too many"));
        }
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        sys::send_fds(stream, &line(&Reply::Ok(Answer::Done {})), &borrowed)?;
        // Only now that the successor has them: an error above leaves everything as it was.
        self.shared.set_mode(Mode::Leaving);
        self.shared.forget_listeners();
        self.tell(Notice::HandedOver(deadline_ms));
        Ok(())
    }
}

fn parse(line: &[u8]) -> Result<Request, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(line);
    serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        (if path == "." { String::new() } else { path }, e.into_inner().to_string())
    })
}

fn refusal(field: &str, message: &str) -> Reply {
    Reply::Error { field: field.into(), message: message.into() }
}

fn line(reply: &Reply) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(reply).expect("replies hold nothing JSON cannot say");
    bytes.push(b'\n');
    bytes
}

fn write_reply(mut stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    stream.write_all(&line(reply))
}
