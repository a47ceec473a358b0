//! Requests answered from the store: hits, waiters, readers of a fill.

use super::Worker;
use super::forward::Plan;
use crate::answer::Why;
use crate::cached::{BodyOut, Fill, Reader, Saved, Source, token, unknown_length};
use crate::exchange::Candidate;
use crate::session::Phase;
use crate::store::{BodyPoll, FillPoll, Lookup, ObjectRef, Query, Subscriber};
use sluice_core::cache::{self, CacheKey, RequestControl, SitePolicy};
use sluice_core::http1::{
    BodyFraming, Conditional, FieldId, HitContext, Method, OutFraming, RangeOutcome, RequestHead, Validators,
    evaluate_conditional, evaluate_range, write_hit, write_not_modified, write_partial_hit,
};
use sluice_core::route::RouteMatch;
use sluice_uring::{Io, Sock};

/// Bodies up to this many bytes are copied behind their head and go by one send; above it, references are
/// cheaper than the copy.
const COPY_MAX: u64 = 16 << 10;
/// Bytes of a whole object queued at once for one client: they are references, so this bounds only how long
/// one send may take to report.
const QUEUE_WHOLE: u64 = 4 << 20;
/// Conditions a fill takes out of the request: what is stored must not depend on them.
const FILL_STRIP: u64 = FieldId::IfNoneMatch.bit()
    | FieldId::IfModifiedSince.bit()
    | FieldId::IfRange.bit()
    | FieldId::Range.bit()
    | FieldId::CacheControl.bit()
    | FieldId::Pragma.bit();
const CONDITIONS: u64 = FieldId::IfNoneMatch.bit() | FieldId::IfModifiedSince.bit();

/// A request that may be answered from the store.
pub(super) struct Request {
    pub(super) sock: Sock,
    pub(super) key: CacheKey,
    pub(super) matched: RouteMatch,
    pub(super) hop: Vec<u8>,
    pub(super) from_peer: bool,
    pub(super) attempt: u8,
    pub(super) control: RequestControl,
    /// Members to ask before the parents.
    pub(super) peers: Vec<Candidate>,
}

impl<I: Io> Worker<I> {
    pub(super) fn cache_now(&self) -> cache::Now {
        cache::Now { mono_ms: self.ctx.now.ms(), unix_s: self.ctx.now.unix_s }
    }

    pub(super) fn ask_store(&mut self, request: Request, head: &mut RequestHead, bytes: &[u8]) {
        let Some(store) = &self.ctx.store else { return };
        let fields = head.fields(bytes);
        let query = Query {
            key: request.key,
            host_generation: request.matched.generation,
            now: self.cache_now(),
            control: request.control,
            request: &fields,
            may_fill: head.method == Method::Get && !head.fields.has(FieldId::Range),
            attempt: request.attempt,
            subscriber: Subscriber { worker: self.ctx.worker, token: token(request.sock) },
        };
        let found = store.lookup_or_begin(&query);
        let counters = &self.ctx.stats.counters;
        let sock = request.sock;
        match found {
            Lookup::Hit { object, stale } => {
                counters.hits.add(1);
                self.sites.hit(&request.matched, &self.ctx.published.table);
                let why = if stale { Why::HitStale } else { Why::Hit };
                self.serve_object(sock, head, bytes, object, why, Source::Whole);
            }
            Lookup::Begin(writer) => {
                counters.misses.add(1);
                let fill = self.fill_of(&request, writer, None, false);
                self.start_fill(request, head, bytes, fill, Why::MissStored);
            }
            Lookup::Revalidate { object, writer, serve_now, stale_if_error } => {
                counters.revalidations.add(1);
                let fill = self.fill_of(&request, writer, Some(object.clone()), stale_if_error);
                if serve_now {
                    counters.hits.add(1);
                    self.sites.hit(&request.matched, &self.ctx.published.table);
                    self.start_background(&request, head, bytes, fill);
                    self.serve_object(sock, head, bytes, object, Why::HitStale, Source::Whole);
                } else {
                    counters.misses.add(1);
                    self.start_fill(request, head, bytes, fill, Why::Stale);
                }
            }
            Lookup::Join(reader) => {
                counters.misses.add(1);
                counters.coalesced.add(1);
                self.wait_for(request, head, bytes, reader);
            }
            Lookup::Pass(_) => {
                counters.misses.add(1);
                let Request { key, matched, hop, .. } = request;
                self.pass(sock, head, bytes, 0, key, &matched, hop, Why::Miss);
            }
            Lookup::OnlyIfCached => {
                self.ctx.stats.refused.only_if_cached.add(1);
                self.refuse(sock, head, 504, "only_if_cached");
            }
        }
    }

    fn fill_of(
        &self,
        request: &Request,
        writer: crate::store::FillWriter,
        stale: Option<ObjectRef>,
        stale_if_error: bool,
    ) -> Fill {
        let mut conditions = Vec::new();
        if let Some(object) = &stale {
            write_conditions(object, &mut conditions);
        }
        let matched = &request.matched;
        Fill {
            writer: Some(writer),
            body: None,
            stale,
            stale_if_error,
            site: SitePolicy { cache: matched.cache, default_ttl_ms: matched.default_ttl_ms },
            strip: FILL_STRIP,
            conditions,
            unconditional: false,
            request_mono_ms: self.ctx.now.ms(),
        }
    }

    fn fill_plan(&self, request: &Request, fill: Fill, why: Why) -> Option<Plan> {
        let mut plan = self.plan(request.key, &request.matched, request.hop.clone(), why, true)?;
        plan.candidates.splice(0..0, request.peers.iter().copied());
        plan.fill = Some(fill);
        Some(plan)
    }

    fn start_fill(&mut self, request: Request, head: &mut RequestHead, bytes: &[u8], fill: Fill, why: Why) {
        self.ctx.stats.counters.fills.add(1);
        match self.fill_plan(&request, fill, why) {
            Some(plan) => self.forward(request.sock, head, bytes, 0, plan),
            None => self.refuse(request.sock, head, 502, "origin_removed"),
        }
    }

    /// A revalidation that no client waits for.
    fn start_background(&mut self, request: &Request, head: &RequestHead, bytes: &[u8], fill: Fill) {
        self.ctx.stats.counters.fills.add(1);
        let addr = self.client_addr(request.sock);
        let Some(plan) = self.fill_plan(request, fill, Why::Stale) else { return };
        let id = self.exchanges.open();
        let exchange = self.exchanges.get(id);
        exchange.addr = Some(addr);
        exchange.started_us = self.ctx.now.us;
        let mut copy = head.clone();
        exchange.begin(&mut copy, bytes, Why::Stale);
        self.launch(id, plan);
    }

    fn wait_for(
        &mut self,
        request: Request,
        head: &mut RequestHead,
        bytes: &[u8],
        reader: crate::store::FillReader,
    ) {
        let Request { sock, key, matched, hop, from_peer, attempt, peers, .. } = request;
        let saved = Saved {
            bytes: bytes.to_vec(),
            head: std::mem::take(head),
            key,
            matched,
            hop,
            from_peer,
            attempt,
            peers,
        };
        let Some(client) = self.table.client(sock) else { return };
        client.phase = Phase::Stored(Reader {
            source: Source::Joined(reader),
            object: None,
            saved: Some(Box::new(saved)),
            at: 0,
            end: None,
            out: BodyOut::Plain,
        });
        self.touch(sock);
        self.pump_reader(sock);
    }

    /// Answers from an object that is whole, or being filled by `source`.
    pub(super) fn serve_object(
        &mut self,
        sock: Sock,
        head: &RequestHead,
        bytes: &[u8],
        object: ObjectRef,
        why: Why,
        source: Source,
    ) {
        let now = self.cache_now();
        let meta = *object.meta();
        let Some(client) = self.table.client(sock) else { return };
        if client.out.head.capacity() == 0 {
            client.out.head = self.io.scratch();
        }
        let body_len = object.body_len();
        let out = if body_len.is_some() { BodyOut::Plain } else { unknown_length(head.version) };
        let framing = match (out, body_len) {
            (_, Some(_)) if meta.status == 204 => OutFraming::None,
            (_, Some(len)) => OutFraming::Length(len),
            (BodyOut::UntilClose, None) => OutFraming::UntilClose,
            (_, None) => OutFraming::Chunked,
        };
        client.keep &= framing != OutFraming::UntilClose;
        let context = HitContext {
            client: head.version,
            framing,
            keep_alive: client.keep,
            age_s: meta.freshness.age_s(now),
            extra: self.ctx.cache_status.line(why),
        };
        let validators =
            Validators { etag: object.etag(), last_modified_s: meta.last_modified_s, date_s: meta.date_s };
        let present = head.fields.present();
        if present & CONDITIONS != 0
            && evaluate_conditional(head, bytes, &validators) == Conditional::NotModified
        {
            write_not_modified(object.head(), &context, &mut client.out.head);
            return self.answered(sock, 304, BodyFraming::None);
        }
        let (mut at, mut end, mut status) = (0, None, meta.status);
        let range = match body_len {
            Some(len)
                if present & FieldId::Range.bit() != 0 && status == 200 && head.method == Method::Get =>
            {
                evaluate_range(head, bytes, len, &validators)
            }
            _ => RangeOutcome::Whole,
        };
        match (range, body_len) {
            (RangeOutcome::Part { start, end: stop }, Some(len)) => {
                write_partial_hit(object.head(), Some((start, stop)), len, &context, &mut client.out.head);
                (at, end, status) = (start, Some(stop), 206);
            }
            (RangeOutcome::Unsatisfiable, Some(len)) => {
                write_partial_hit(object.head(), None, len, &context, &mut client.out.head);
                return self.answered(sock, 416, BodyFraming::None);
            }
            _ => write_hit(object.head(), &context, &mut client.out.head),
        }
        if head.method == Method::Head {
            return self.answered(sock, status, BodyFraming::None);
        }
        let stop = end.or(body_len).unwrap_or(u64::MAX);
        if object.is_complete() && stop - at <= COPY_MAX {
            while at < stop {
                let chunk = object.body_chunk(at);
                let n = chunk.len().min((stop - at) as usize);
                client.out.head.extend_from_slice(&chunk[..n]);
                at += n as u64;
            }
            return self.answered(sock, status, BodyFraming::None);
        }
        self.ctx.stats.response(status);
        self.ctx.answered_at_once += 1;
        client.phase = Phase::Stored(Reader { source, object: Some(object), saved: None, at, end, out });
        self.touch(sock);
        self.pump_reader(sock);
    }

    /// Queues what a reader can have, as far as its client takes it.
    pub(super) fn pump_reader(&mut self, sock: Sock) {
        let Some(client) = self.table.client(sock) else { return };
        let Phase::Stored(reader) = &mut client.phase else { return };
        if reader.object.is_none() {
            return self.poll_head(sock);
        }
        let Some(object) = reader.object.clone() else { return };
        let high = if object.is_complete() { QUEUE_WHOLE } else { self.ctx.tuning.queue_high as u64 };
        loop {
            let room = high.saturating_sub(client.out.queued() as u64);
            let stop = reader.end.or(object.body_len()).unwrap_or(u64::MAX);
            if reader.at >= stop && (object.is_complete() || reader.end.is_some()) {
                return self.reader_done(sock);
            }
            if room == 0 {
                return;
            }
            let there = object.body_available().min(stop);
            if there > reader.at {
                let len = (there - reader.at).min(room);
                client.out.push_framed(&object, reader.at, len, reader.out);
                reader.at += len;
                continue;
            }
            let failed = match &mut reader.source {
                Source::Whole => object.is_failed(),
                Source::Own(_) => object.is_failed(),
                Source::Joined(fill) => match fill.poll_body(reader.at) {
                    BodyPoll::Available(_) => continue,
                    BodyPoll::End => {
                        reader.end = Some(reader.at);
                        continue;
                    }
                    BodyPoll::Failed => true,
                    BodyPoll::Pending => false,
                },
            };
            if failed {
                return self.reader_failed(sock);
            }
            return self.touch(sock);
        }
    }

    /// A waiter asks whether the fill has a head.
    fn poll_head(&mut self, sock: Sock) {
        let Some(client) = self.table.client(sock) else { return };
        let Phase::Stored(reader) = &mut client.phase else { return };
        let Reader { source: Source::Joined(fill), saved: Some(saved), .. } = reader else { return };
        let outcome = fill.poll(&saved.head.fields(&saved.bytes));
        if matches!(outcome, FillPoll::Pending) {
            return;
        }
        let Phase::Stored(reader) = std::mem::replace(&mut client.phase, Phase::Head) else { return };
        let (Some(mut saved), source) = (reader.saved, reader.source) else { return };
        match outcome {
            FillPoll::Pending => {}
            FillPoll::Ready(object) => {
                let (head, bytes) = (std::mem::take(&mut saved.head), std::mem::take(&mut saved.bytes));
                self.serve_object(sock, &head, &bytes, object, Why::Collapsed, source);
                self.request = head;
            }
            FillPoll::Retry => self.lookup_again(sock, saved),
            FillPoll::Released(_) => {
                let Saved { bytes, mut head, key, matched, hop, .. } = *saved;
                self.pass(sock, &mut head, &bytes, 0, key, &matched, hop, Why::Miss);
            }
            FillPoll::Failed => {
                self.ctx.stats.refused.upstream_failed.add(1);
                self.refuse(sock, &saved.head, 502, "fill_failed");
            }
        }
        if let Some(client) = self.table.client(sock)
            && matches!(client.phase, Phase::Head)
            && !client.inbuf.is_empty()
        {
            self.ready.push(sock);
        }
    }

    fn reader_done(&mut self, sock: Sock) {
        let Some(client) = self.table.client(sock) else { return };
        let Phase::Stored(reader) = std::mem::replace(&mut client.phase, Phase::Head) else { return };
        if reader.out == BodyOut::Chunked {
            client.out.append_end(&[]);
        }
        client.keep &= reader.out != BodyOut::UntilClose;
        client.close_after |= !client.keep;
        if let Source::Own(id) = reader.source {
            // The exchange goes on alone if the upstream is not done yet.
            self.exchanges.get(id).client = Sock::NONE;
        }
        let Some(client) = self.table.client(sock) else { return };
        if !client.inbuf.is_empty() {
            self.ready.push(sock);
        }
        self.touch(sock);
    }

    /// No more bytes will come: the client must see that the body is not whole.
    fn reader_failed(&mut self, sock: Sock) {
        let Some(client) = self.table.client(sock) else { return };
        let Phase::Stored(reader) = std::mem::replace(&mut client.phase, Phase::Head) else { return };
        client.keep = false;
        if reader.out == BodyOut::UntilClose {
            return self.abort_client(sock);
        }
        client.close_after = true;
        self.touch(sock);
    }

    /// A client took output: its reader may go on.
    pub(super) fn resume_stored(&mut self, sock: Sock) {
        let low = self.ctx.tuning.queue_low;
        let Some(client) = self.table.client(sock) else { return };
        if matches!(client.phase, Phase::Stored(_)) && client.out.queued() <= low {
            self.pump_reader(sock);
            self.touch(sock);
        }
    }

    /// A reader's client left.
    pub(super) fn reader_gone(&mut self, reader: Reader) {
        self.ctx.stats.counters.client_aborts.add(1);
        if let Source::Own(id) = reader.source {
            drop(reader.object);
            self.own_reader_gone(id);
        }
    }
}

/// Condition lines that validate a stored response.
fn write_conditions(object: &ObjectRef, out: &mut Vec<u8>) {
    if let Some(etag) = object.etag() {
        out.extend_from_slice(b"If-None-Match: ");
        out.extend_from_slice(etag);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(unix_s) = object.meta().last_modified_s {
        out.extend_from_slice(b"If-Modified-Since: ");
        out.extend_from_slice(sluice_core::http1::HttpDate::new(unix_s).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}
