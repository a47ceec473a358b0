//! Finding an upstream and sending it the request.

use super::Worker;
use crate::answer::Why;
use crate::cached::Fill;
use crate::exchange::{Candidate, ExchangeId, Stage, Tier, Upload};
use crate::session::{Outbox, Phase, Session, Upstream, UpstreamPhase};
use sluice_core::http1::{
    BodyDecoder, BodyFraming, CONTINUE_100, ClientAddr, ForwardedPolicy, Method, OutFraming, RequestHead,
    UpstreamContext, expects_continue, write_error, write_upstream_request,
};
use sluice_core::route::Origin;
use sluice_uring::{BufGroup, Io, Sock};
use std::rc::Rc;
use std::sync::Arc;

/// Errno of a connect that took too long.
const ETIMEDOUT: i32 = 110;

/// Where a request is to go.
pub(super) struct Plan {
    pub(super) candidates: Vec<Candidate>,
    /// The origin of the route.
    pub(super) origin: Option<Arc<Origin>>,
    /// A peer sent the request.
    pub(super) from_peer: bool,
    /// Value of the hop mark.
    pub(super) hop: Vec<u8>,
    pub(super) why: Why,
    pub(super) fill: Option<Fill>,
}

impl<I: Io> Worker<I> {
    /// Starts an exchange for a client's request and connects it.
    pub(super) fn forward(
        &mut self,
        sock: Sock,
        head: &mut RequestHead,
        bytes: &[u8],
        buffered: usize,
        plan: Plan,
    ) {
        let now_us = self.ctx.now.us;
        let addr = self.client_addr(sock);
        let Some(client) = self.table.client(sock) else { return };
        if expects_continue(head, buffered) {
            self.ctx.stats.counters.continues.add(1);
            client.out.head.extend_from_slice(CONTINUE_100);
        }
        let id = self.exchanges.open();
        let exchange = self.exchanges.get(id);
        exchange.client = sock;
        exchange.addr = Some(addr);
        exchange.started_us = now_us;
        exchange.upload = match head.framing {
            BodyFraming::None | BodyFraming::Length(0) => Upload::Done,
            framing => Upload::Coming {
                decoder: BodyDecoder::new(framing),
                chunked: framing == BodyFraming::Chunked,
            },
        };
        exchange.begin(head, bytes, plan.why);
        client.phase = Phase::Exchange(id);
        self.touch(sock);
        self.launch(id, plan);
    }

    /// Gives an exchange its places to try and starts.
    pub(super) fn launch(&mut self, id: ExchangeId, plan: Plan) {
        let exchange = self.exchanges.get(id);
        exchange.hop = plan.hop;
        exchange.origin = plan.origin;
        exchange.from_peer = plan.from_peer;
        exchange.fill = plan.fill;
        let mut candidates = plan.candidates;
        // Those that refused connections a moment ago are tried last.
        if candidates.len() > 1 {
            let now_ms = self.ctx.now.ms();
            candidates.sort_by_key(|c| self.targets.is_down(&c.addr, now_ms));
        }
        exchange.candidates = candidates;
        self.try_next(id);
    }

    pub(super) fn client_addr(&mut self, sock: Sock) -> Rc<ClientAddr> {
        let peer = self.io.peer(sock);
        let fresh = || {
            let ip = peer.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |p| p.ip());
            Rc::new(ClientAddr::new(ip))
        };
        match self.table.client(sock) {
            Some(client) => client.addr.get_or_insert_with(fresh).clone(),
            None => fresh(),
        }
    }

    /// Connects to the next place that may serve the exchange, or gives up.
    pub(super) fn try_next(&mut self, id: ExchangeId) {
        let mut full = false;
        loop {
            let exchange = self.exchanges.get(id);
            let candidate = match exchange.candidates.get(exchange.next) {
                Some(&candidate) if exchange.attempts < self.ctx.tuning.attempts_max => candidate,
                _ => break,
            };
            exchange.next += 1;
            exchange.attempts += 1;
            exchange.current = Some(candidate);
            match self.connect(id, candidate, true) {
                Ok(()) => return,
                Err(Refusal::Full) => full = true,
                Err(Refusal::Failed) => {}
            }
        }
        let refused = &self.ctx.stats.refused;
        if full {
            refused.upstream_full.add(1);
            self.fail_exchange(id, 503, "upstream_full");
        } else {
            refused.upstream_unreachable.add(1);
            self.fail_exchange(id, 502, "upstream_unreachable");
        }
    }

    /// Takes a pooled connection (if `pooled`) or opens one.
    pub(super) fn connect(
        &mut self,
        id: ExchangeId,
        candidate: Candidate,
        pooled: bool,
    ) -> Result<(), Refusal> {
        let target_id = self.targets.id(candidate.addr);
        let target = self.targets.get(target_id);
        if pooled && let Some(sock) = target.idle.pop() {
            if let Some(upstream) = self.table.upstream(sock) {
                upstream.phase = UpstreamPhase::Busy(id);
                upstream.reused = true;
                self.exchanges.get(id).upstream = sock;
                self.ctx.stats.counters.upstream_reuses.add(1);
                self.send_request(id);
            }
            return Ok(());
        }
        if target.open >= self.ctx.tuning.upstreams_per_target_max {
            return Err(Refusal::Full);
        }
        self.ctx.stats.counters.upstream_connects.add(1);
        let Ok(sock) = self.io.connect(candidate.addr) else {
            self.ctx.stats.counters.upstream_connect_failures.add(1);
            return Err(Refusal::Failed);
        };
        self.targets.get(target_id).open += 1;
        let upstream = Upstream {
            target: target_id,
            phase: UpstreamPhase::Connecting(id),
            inbuf: Vec::new(),
            out: Outbox::default(),
            reused: false,
            receiving: true,
            dirty: false,
        };
        self.table.insert(sock, Session::Upstream(Box::new(upstream)));
        self.exchanges.get(id).upstream = sock;
        self.deadline(sock, self.ctx.now.ms() + self.ctx.tuning.connect_ms);
        Ok(())
    }

    pub(super) fn on_connected(&mut self, sock: Sock, errno: i32) {
        let Some(upstream) = self.table.upstream(sock) else { return };
        let UpstreamPhase::Connecting(id) = upstream.phase else { return };
        if errno != 0 {
            return self.connect_failed(sock, id);
        }
        upstream.phase = UpstreamPhase::Busy(id);
        let target = upstream.target;
        self.targets.get(target).answered();
        self.io.recv(sock, BufGroup::Large);
        self.send_request(id);
    }

    fn connect_failed(&mut self, sock: Sock, id: ExchangeId) {
        self.ctx.stats.counters.upstream_connect_failures.add(1);
        let (now_ms, down_ms) = (self.ctx.now.ms(), self.ctx.tuning.down_ms);
        if let Some(upstream) = self.table.upstream(sock) {
            let target = upstream.target;
            self.targets.get(target).failed(now_ms, down_ms);
        }
        self.close_upstream(sock);
        self.exchanges.get(id).upstream = Sock::NONE;
        self.try_next(id);
    }

    fn send_request(&mut self, id: ExchangeId) {
        let exchange = self.exchanges.get(id);
        let Some(candidate) = exchange.current else { return };
        let counters = &self.ctx.stats.counters;
        let (forwarded, host, hop) = match candidate.tier {
            Tier::Peer => {
                counters.peer_forwards.add(1);
                (ForwardedPolicy::Append, None, Some(exchange.hop.as_slice()))
            }
            Tier::Parent => {
                counters.parent_requests.add(1);
                (ForwardedPolicy::Append, None, Some(exchange.hop.as_slice()))
            }
            Tier::Origin => {
                counters.origin_requests.add(1);
                (
                    ForwardedPolicy::Append,
                    exchange.origin.as_ref().and_then(|o| o.host.as_deref()).map(str::as_bytes),
                    None,
                )
            }
        };
        // A peer that forwarded to us has set the forwarding fields already.
        let forwarded = if exchange.from_peer { ForwardedPolicy::Keep } else { forwarded };
        let Some(client) = exchange.addr.as_deref() else { return };
        let fill = exchange.fill.as_ref();
        let context = UpstreamContext {
            name: &self.ctx.proxy_name,
            client,
            scheme: "http",
            forwarded,
            host,
            hop,
            method: fill.map(|_| Method::Get),
            strip: fill.map_or(0, |f| f.strip),
            extra: fill.map_or(&[][..], |f| &f.conditions),
        };
        let sock = exchange.upstream;
        let Some(upstream) = self.table.upstream(sock) else { return };
        if upstream.out.head.capacity() == 0 {
            upstream.out.head = self.io.scratch();
        }
        write_upstream_request(&exchange.bytes, &exchange.head, &context, &mut upstream.out.head);
        exchange.stage = Stage::AwaitHead;
        self.deadline(sock, self.ctx.now.ms() + self.ctx.tuning.response_ms);
        self.touch(sock);
        self.pump_upload(id);
    }

    /// The upstream took some output.
    pub(super) fn upstream_sent(&mut self, sock: Sock) {
        let Some(upstream) = self.table.upstream(sock) else { return };
        let UpstreamPhase::Busy(id) = upstream.phase else { return };
        if !upstream.out.is_empty() && !upstream.out.sending {
            self.touch(sock);
        }
        if matches!(self.exchanges.get(id).upload, Upload::Coming { .. }) {
            self.pump_upload(id);
        }
    }

    /// The upstream broke before a response came: again on a fresh connection, elsewhere, or an error.
    pub(super) fn retry_or_fail(&mut self, id: ExchangeId, status: u16, reason: &'static str) {
        let exchange = self.exchanges.get(id);
        let sock = std::mem::replace(&mut exchange.upstream, Sock::NONE);
        let repeatable = exchange.repeatable() && exchange.attempts < self.ctx.tuning.attempts_max;
        let candidate = exchange.current;
        let reused = self.table.upstream(sock).is_some_and(|u| u.reused);
        self.close_upstream(sock);
        if repeatable && (reused || exchange_has_next(self.exchanges.get(id))) {
            if self.ctx.budget.grant() {
                self.ctx.stats.counters.retries.add(1);
                let exchange = self.exchanges.get(id);
                exchange.attempts += 1;
                exchange.stage = Stage::Unsent;
                if reused && let Some(candidate) = candidate {
                    // The pooled connection was stale; the server itself may be well.
                    if self.connect(id, candidate, false).is_ok() {
                        return;
                    }
                }
                return self.try_next(id);
            }
            self.ctx.stats.counters.retries_exhausted.add(1);
        }
        self.fail_exchange(id, status, reason);
    }

    /// Ends an exchange that cannot succeed.
    pub(crate) fn fail_exchange(&mut self, id: ExchangeId, status: u16, reason: &str) {
        let exchange = self.exchanges.get(id);
        let (sock, upstream) = (exchange.client, std::mem::replace(&mut exchange.upstream, Sock::NONE));
        let begun = matches!(exchange.stage, Stage::Body(_));
        let framing = exchange.framing;
        let upload_done = matches!(exchange.upload, Upload::Done);
        let head_only = exchange.method == Method::Head;
        let started_us = exchange.started_us;
        self.close_upstream(upstream);
        if !begun && self.fill_failed(id) {
            return;
        }
        self.exchanges.close(id);
        let Some(client) = self.table.client(sock) else { return };
        client.phase = Phase::Head;
        if begun {
            if framing == OutFraming::UntilClose {
                return self.abort_client(sock);
            }
            client.close_after = true;
        } else {
            client.keep &= upload_done;
            client.close_after |= !client.keep;
            write_error(status, reason, !client.keep, head_only, &self.ctx.date, &mut client.out.head);
            self.ctx.stats.response(status);
            self.ctx.stats.latency.record(self.ctx.now.us - started_us, 1);
            if !client.inbuf.is_empty() {
                self.ready.push(sock);
            }
        }
        self.touch(sock);
    }

    /// A client left while its exchange was under way.
    pub(super) fn client_gone(&mut self, id: ExchangeId) {
        self.ctx.stats.counters.client_aborts.add(1);
        let exchange = self.exchanges.get(id);
        exchange.client = Sock::NONE;
        if self.fill_goes_on(id) {
            return;
        }
        let upstream = std::mem::replace(&mut self.exchanges.get(id).upstream, Sock::NONE);
        self.close_upstream(upstream);
        self.exchanges.close(id);
    }

    /// Keeps a connection for the next request, or closes it.
    pub(super) fn release_upstream(&mut self, sock: Sock, keep: bool) {
        let Some(upstream) = self.table.upstream(sock) else { return };
        let clean = upstream.inbuf.is_empty() && upstream.out.queued() == 0 && upstream.receiving;
        let target = self.targets.get(upstream.target);
        if !keep || !clean || target.idle.len() >= self.ctx.tuning.idle_per_target_max {
            return self.close_upstream(sock);
        }
        upstream.phase = UpstreamPhase::Idle;
        target.idle.push(sock);
        self.deadline(sock, self.ctx.now.ms() + self.ctx.tuning.upstream_idle_ms);
    }

    /// Closes and forgets an upstream connection.
    pub(super) fn close_upstream(&mut self, sock: Sock) {
        let Some(Session::Upstream(mut upstream)) = self.table.remove(sock) else { return };
        let target = self.targets.get(upstream.target);
        target.open -= 1;
        if upstream.phase == UpstreamPhase::Idle
            && let Some(at) = target.idle.iter().rposition(|s| *s == sock)
        {
            target.idle.remove(at);
        }
        self.io.recycle(std::mem::take(&mut upstream.inbuf));
        self.io.recycle(std::mem::take(&mut upstream.out.head));
        self.io.close(sock);
    }

    pub(super) fn upstream_late(&mut self, sock: Sock) {
        let Some(upstream) = self.table.upstream(sock) else { return };
        match upstream.phase {
            UpstreamPhase::Idle => self.close_upstream(sock),
            UpstreamPhase::Connecting(_) => self.on_connected(sock, ETIMEDOUT),
            UpstreamPhase::Busy(id) => {
                self.ctx.stats.refused.upstream_timeout.add(1);
                self.fail_exchange(id, 504, "upstream_timeout");
            }
        }
    }
}

/// Why no connection was made.
pub(super) enum Refusal {
    Full,
    Failed,
}

fn exchange_has_next(exchange: &crate::exchange::Exchange) -> bool {
    exchange.next < exchange.candidates.len()
}
