//! One worker: the sessions of one thread and what moves them.
//!
//! Owns its sockets, exchanges, upstream pools and timers; shares only the published configuration, the store
//! and its page of counters. Every entry point takes the time; nothing here reads a clock. One turn handles
//! all events at hand, then hands every touched socket's output to the ring, so that what belongs together
//! leaves in one submission.

mod cache;
mod client;
mod fill;
mod forward;
mod response;
mod router;
mod sites;
#[cfg(test)]
mod tests;
mod upload;

use crate::answer::CacheStatus;
use crate::config::{Group, Published};
use crate::exchange::Exchanges;
use crate::limits::Tuning;
use crate::mailbox::Mailbox;
use crate::session::{Phase, Session, Table, UpstreamPhase};
use crate::stats::WorkerStats;
use crate::store::Store;
use crate::targets::{RetryBudget, Targets};
use crate::time::Now;
use crate::wheel::Wheel;
use sluice_core::http1::{HttpDate, ProxyName, RequestHead, ResponseHead};
use sluice_core::ring::HotKeys;
use sluice_uring::{BufGroup, Event, Io, RecvBuf, Sock};
use std::sync::Arc;
use std::time::Duration;

/// Longest sleep without any timer, ms: a bound on how late a forgotten wake-up can be noticed.
const SLEEP_MS_MAX: u64 = 1_000;

/// Gauges that need a walk over all upstream addresses are renewed that often, ms.
const GAUGES_MS: u64 = 100;

/// A key of another member is hot, and copied here, when one worker forwards it that often within a window:
/// at that rate the copy costs less than the hops it saves.
const HOT_REQUESTS: u32 = 500;
const HOT_WINDOW_MS: u64 = 1_000;

/// What a worker is made with.
pub struct Setup {
    /// Limits.
    pub tuning: Tuning,
    /// This node's name in Via, hop marks and Cache-Status.
    pub name: String,
    /// Where configuration appears.
    pub published: Arc<Published>,
    /// The page to count on.
    pub stats: Arc<WorkerStats>,
    /// The store; absent: nothing is cached.
    pub store: Option<Arc<Store>>,
    /// Number of this worker, for wake-ups.
    pub worker: u32,
    /// Where wake-ups for it are posted.
    pub mailbox: Arc<Mailbox>,
}

/// Whether new connections and requests are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Serving.
    Serving,
    /// Serving, but telling everyone to go: `Connection: close`, health check 503.
    Draining,
    /// Draining, listeners given away.
    Leaving,
}

/// State shared by all sessions of a worker.
pub(crate) struct Ctx {
    pub(crate) tuning: Tuning,
    pub(crate) name: String,
    pub(crate) proxy_name: ProxyName,
    pub(crate) cache_status: CacheStatus,
    pub(crate) published: Arc<Published>,
    pub(crate) configured: bool,
    pub(crate) group: Option<Arc<Group>>,
    epoch: u64,
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) worker: u32,
    mailbox: Arc<Mailbox>,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) now: Now,
    pub(crate) date: HttpDate,
    pub(crate) mode: Mode,
    pub(crate) budget: RetryBudget,
    /// Responses handed over in this turn to requests that came in this turn.
    pub(crate) answered_at_once: u64,
}

impl Ctx {
    /// This node's name in hop marks.
    pub(crate) fn member_name(&self) -> &str {
        self.group.as_ref().map_or(&self.name, |g| &g.own_name)
    }
}

/// A worker over some [`Io`].
pub struct Worker<I: Io> {
    pub(crate) io: I,
    pub(crate) ctx: Ctx,
    pub(crate) table: Table,
    pub(crate) exchanges: Exchanges,
    pub(crate) targets: Targets,
    listeners: Vec<Sock>,
    wheel: Wheel,
    dirty: Vec<Sock>,
    due: Vec<(Sock, u64)>,
    /// Clients whose buffered input is to be looked at again in this turn.
    ready: Vec<Sock>,
    gauges_at_ms: u64,
    /// Room for composing the host part of a key.
    key_host: Vec<u8>,
    hot: HotKeys,
    sites: sites::SiteCounts,
    request: RequestHead,
    response: ResponseHead,
}

impl<I: Io> Worker<I> {
    /// A worker without listeners.
    pub fn new(io: I, setup: Setup, now: Now) -> Self {
        let ctx = Ctx {
            budget: RetryBudget::new(setup.tuning.retry_burst, setup.tuning.retry_percent),
            proxy_name: ProxyName::new(&setup.name),
            cache_status: CacheStatus::new(&setup.name),
            configured: false,
            group: None,
            epoch: 0,
            store: setup.store,
            worker: setup.worker,
            mailbox: setup.mailbox,
            tuning: setup.tuning,
            name: setup.name,
            published: setup.published,
            stats: setup.stats,
            date: HttpDate::new(now.unix_s),
            now,
            mode: Mode::Serving,
            answered_at_once: 0,
        };
        Self {
            io,
            ctx,
            table: Table::default(),
            exchanges: Exchanges::default(),
            targets: Targets::default(),
            listeners: Vec::new(),
            wheel: Wheel::new(now.ms()),
            dirty: Vec::new(),
            due: Vec::new(),
            ready: Vec::new(),
            gauges_at_ms: 0,
            key_host: Vec::new(),
            hot: HotKeys::new(HOT_REQUESTS, HOT_WINDOW_MS),
            sites: sites::SiteCounts::default(),
            request: RequestHead::new(),
            response: ResponseHead::new(),
        }
    }

    /// The sockets.
    pub fn io(&mut self) -> &mut I {
        &mut self.io
    }

    /// Starts accepting on a listener of its [`Io`].
    pub fn listen(&mut self, listener: Sock) {
        self.listeners.push(listener);
        self.io.accept(listener);
    }

    /// How long the thread may sleep.
    pub fn timeout(&self, now: Now) -> Duration {
        let ms = self.wheel.wait_ms(now.ms()).unwrap_or(SLEEP_MS_MAX).min(SLEEP_MS_MAX);
        Duration::from_millis(ms.max(1))
    }

    /// Handles what happened. `clock_us` is read once more at the end, for the latency of what was answered.
    pub fn turn(&mut self, now: Now, events: &mut Vec<Event>, clock_us: &dyn Fn() -> u64) {
        if now.unix_s != self.ctx.now.unix_s {
            self.ctx.date = HttpDate::new(now.unix_s);
        }
        self.ctx.now = now;
        self.ctx.mailbox.awake();
        self.refresh();
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.timers();
        self.mail();
        loop {
            while let Some(sock) = self.ready.pop() {
                self.process(sock);
            }
            self.mail();
            if self.dirty.is_empty() {
                break;
            }
            self.flush();
        }
        if now.ms() >= self.gauges_at_ms {
            self.gauges_at_ms = now.ms() + GAUGES_MS;
            self.gauges();
            self.sites.flush(&self.ctx.published.table);
        }
        if self.ctx.answered_at_once > 0 {
            let us = clock_us().saturating_sub(now.us);
            self.ctx.stats.latency.record(us, std::mem::take(&mut self.ctx.answered_at_once));
        }
    }

    /// Sessions whose fill went on.
    fn mail(&mut self) {
        while let Some(token) = self.ctx.mailbox.take() {
            self.pump_reader(crate::cached::sock(token));
        }
    }

    /// About to wait for events; false if there is something to do at once.
    pub fn sleep(&self) -> bool {
        self.ctx.mailbox.sleep()
    }

    /// No listener, client or exchange is left.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
            && self.ctx.stats.gauges.connections_open.get() == 0
            && self.exchanges.len() == 0
    }

    fn refresh(&mut self) {
        let epoch = self.ctx.published.epoch();
        if epoch != self.ctx.epoch {
            self.ctx.epoch = epoch;
            self.ctx.configured = true;
            self.ctx.group = self.ctx.published.group();
        }
    }

    fn gauges(&self) {
        let gauges = &self.ctx.stats.gauges;
        gauges.exchanges.set(self.exchanges.len() as u64);
        let (mut open, mut idle) = (0, 0);
        for target in self.targets.iter() {
            open += u64::from(target.open);
            idle += target.idle.len() as u64;
        }
        gauges.upstreams_open.set(open);
        gauges.upstreams_idle.set(idle);
        let clients = self.table.clients().filter(|(_, c)| c.is_idle()).count();
        gauges.connections_idle.set(clients as u64);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Data { sock, buf } => self.on_data(sock, buf),
            Event::Sent { sock, bytes, done, errno } => self.on_sent(sock, bytes, done, errno),
            Event::Accepted { sock, .. } => self.on_accepted(sock),
            Event::Eof { sock, errno } => match self.table.get(sock) {
                Some(Session::Client(_)) => self.client_eof(sock, errno),
                Some(Session::Upstream(_)) => self.upstream_eof(sock, errno),
                _ => {}
            },
            Event::Connected { sock, errno } => self.on_connected(sock, errno),
            Event::RecvIdle { sock, starved } => self.on_recv_idle(sock, starved),
            Event::AcceptEnded { listener, errno } => self.on_accept_ended(listener, errno),
            Event::Woken => {}
        }
    }

    fn on_data(&mut self, sock: Sock, buf: RecvBuf) {
        match self.table.get(sock) {
            Some(Session::Client(_)) => self.client_data(sock, buf),
            Some(Session::Upstream(_)) => self.upstream_data(sock, buf),
            _ => self.io.release(buf),
        }
    }

    fn on_recv_idle(&mut self, sock: Sock, starved: bool) {
        if starved {
            self.ctx.stats.counters.buffers_exhausted.add(1);
        }
        // Wanted still: the buffers given back in this turn serve it.
        match self.table.get(sock) {
            Some(Session::Client(c)) if c.receiving => self.io.recv(sock, BufGroup::Small),
            Some(Session::Upstream(u)) if u.receiving => self.io.recv(sock, BufGroup::Large),
            _ => {}
        }
    }

    fn on_sent(&mut self, sock: Sock, bytes: u32, done: bool, errno: i32) {
        let counters = &self.ctx.stats.counters;
        match self.table.get(sock) {
            Some(Session::Client(client)) => {
                counters.bytes_out.add(u64::from(bytes));
                client.out.in_flight = client.out.in_flight.saturating_sub(bytes as usize);
                if errno != 0 {
                    return self.drop_client(sock);
                }
                if done {
                    client.out.sending = false;
                    client.out.in_flight = 0;
                }
                self.client_sent(sock, done);
            }
            Some(Session::Upstream(upstream)) => {
                counters.upstream_bytes_out.add(u64::from(bytes));
                upstream.out.in_flight = upstream.out.in_flight.saturating_sub(bytes as usize);
                if done {
                    upstream.out.sending = false;
                    upstream.out.in_flight = 0;
                }
                // A failed send is not the end: the response may be there already (RFC 9112 section 9.5).
                self.upstream_sent(sock);
            }
            _ => {}
        }
    }

    /// Sets when a session is late.
    #[inline]
    pub(crate) fn deadline(&mut self, sock: Sock, at_ms: u64) {
        if self.table.set_deadline(sock, at_ms) {
            let key = self.wheel.plan(sock, at_ms);
            self.table.planned(sock, key);
        }
    }

    fn timers(&mut self) {
        let now_ms = self.ctx.now.ms();
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now_ms, &mut due);
        for (sock, key) in due.drain(..) {
            let Some(deadline) = self.table.visited(sock, key) else { continue };
            if deadline > now_ms {
                self.deadline(sock, deadline);
                continue;
            }
            match self.table.get(sock) {
                Some(Session::Client(_)) => self.client_late(sock),
                Some(Session::Upstream(_)) => self.upstream_late(sock),
                _ => {}
            }
        }
        self.due = due;
    }

    /// Marks a socket whose output is to be handed over at the end of the turn.
    pub(crate) fn touch(&mut self, sock: Sock) {
        match self.table.get(sock) {
            Some(Session::Client(c)) if !c.dirty => c.dirty = true,
            Some(Session::Upstream(u)) if !u.dirty => u.dirty = true,
            _ => return,
        }
        self.dirty.push(sock);
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for sock in dirty.drain(..) {
            match self.table.get(sock) {
                Some(Session::Client(client)) => {
                    client.dirty = false;
                    if !client.out.sending && !client.out.is_empty() {
                        let payload = client.out.take();
                        self.io.send(sock, payload);
                        let late = self.ctx.now.ms() + self.ctx.tuning.send_stall_ms;
                        self.deadline(sock, late);
                    }
                    self.client_rest(sock);
                }
                Some(Session::Upstream(upstream)) => {
                    upstream.dirty = false;
                    if matches!(upstream.phase, UpstreamPhase::Busy(_))
                        && !upstream.out.sending
                        && !upstream.out.is_empty()
                    {
                        let payload = upstream.out.take();
                        self.io.send(sock, payload);
                    }
                }
                _ => {}
            }
        }
        // `client_rest` may have touched further sockets: they stay for the next round.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn on_accept_ended(&mut self, listener: Sock, errno: i32) {
        if self.listeners.contains(&listener) && self.ctx.mode != Mode::Leaving && errno != 0 {
            // Out of descriptors or memory: go on accepting; what was refused was told by the kernel.
            self.ctx.stats.refused.too_many_connections.add(1);
            self.io.accept(listener);
            return;
        }
        self.listeners.retain(|l| *l != listener);
        self.io.close(listener);
    }

    /// Changes what is wanted of new requests.
    pub fn set_mode(&mut self, mode: Mode, now: Now) {
        if mode == self.ctx.mode {
            return;
        }
        self.ctx.now = now;
        self.ctx.mode = mode;
        if mode == Mode::Leaving {
            for listener in self.listeners.clone() {
                self.io.stop_accept(listener);
            }
        }
        let idle: Vec<Sock> =
            self.table.clients().filter(|(_, c)| c.is_idle()).map(|(sock, _)| sock).collect();
        // A client that is about to send is answered with `Connection: close`; the others get our FIN. One
        // that was not told yet when the drain is taken back has its idle time again.
        let idle_ms = self.idle_ms();
        for sock in idle {
            self.deadline(sock, now.ms() + idle_ms);
        }
    }

    /// How long a client may stay without a request.
    fn idle_ms(&self) -> u64 {
        match self.ctx.mode {
            Mode::Serving => self.ctx.tuning.idle_ms,
            Mode::Draining | Mode::Leaving => self.ctx.tuning.drain_idle_ms,
        }
    }

    /// Takes over counters of the sockets' driver: enters, completions, sendfiles.
    pub fn count_ring(&self, read: impl Fn(&I) -> [u64; 3]) {
        let counters = &self.ctx.stats.counters;
        let [enters, completions, sendfiles] = read(&self.io);
        counters.ring_enters.set(enters);
        counters.ring_completions.set(completions);
        counters.sendfiles.set(sendfiles);
    }

    /// Closes everything at once; returns how many connections had work under way.
    pub fn cut(&mut self) -> u64 {
        let all: Vec<(Sock, bool)> = self
            .table
            .clients()
            .map(|(sock, c)| (sock, !matches!(c.phase, Phase::Linger) && !c.is_idle()))
            .collect();
        let busy = all.iter().filter(|(_, busy)| *busy).count() as u64;
        self.ctx.stats.counters.drain_cut.add(busy);
        for (sock, _) in all {
            self.drop_client(sock);
        }
        busy
    }
}
