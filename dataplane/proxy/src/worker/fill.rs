//! Upstream responses on their way into the store.

use super::Worker;
use crate::answer::Why;
use crate::cached::{Source, StoredHead};
use crate::exchange::{ExchangeId, Stage};
use crate::session::Phase;
use crate::store::{FillWriter, NotStored, ObjectMeta, ObjectRef};
use sluice_core::cache::{
    Exchange as Judged, FieldSource, Freshness, NotModified, Overlay, PassReason, Storable,
    not_modified_matches, storable,
};
use sluice_core::http1::{
    BodyFraming, FieldId, Method, ResponseHead, parse_http_date, stored_fields, write_freshened_head,
    write_stored_head,
};
use sluice_uring::{Io, Sock};

/// How long a key is remembered as uncacheable: long enough that a herd does not wait for one another, short
/// enough that an origin's change of mind is seen soon.
const UNCACHEABLE_MS: u64 = 10_000;
/// A stored head at most: the store addresses it with 16 bits.
const STORED_HEAD_MAX: usize = 65_535;

impl<I: Io> Worker<I> {
    /// The head of a fill's response. False: the exchange is over.
    pub(super) fn fill_head(&mut self, id: ExchangeId, head: &ResponseHead, bytes: &[u8]) -> bool {
        let Some(fill) = &mut self.exchanges.get(id).fill else { return true };
        let Some(writer) = fill.writer.take() else { return true };
        let stale = fill.stale.clone();
        match stale {
            Some(_) if head.status == 304 && fill.unconditional => {
                self.fetch_again(id, writer);
                return false;
            }
            Some(stale) if head.status == 304 => return self.freshen(id, writer, &stale, head, bytes),
            Some(stale) if fill.stale_if_error && matches!(head.status, 500 | 502..=504) => {
                writer.serve_stale();
                self.detach_with(id, stale, Why::HitOnError);
                self.ctx.stats.counters.stale_hits.add(1);
            }
            _ => self.judge(id, writer, head, bytes),
        }
        true
    }

    /// Stores the response if it may be, else lets it pass.
    fn judge(&mut self, id: ExchangeId, writer: FillWriter, head: &ResponseHead, bytes: &[u8]) {
        let received = self.cache_now();
        let exchange = self.exchanges.get(id);
        let Some(fill) = &exchange.fill else { return };
        let request = exchange.head.fields(&exchange.bytes);
        let response = head.fields(bytes);
        let verdict = storable(&Judged {
            method: Method::Get,
            request_has_body: false,
            request: &request,
            status: head.status,
            response: &response,
            request_mono_ms: fill.request_mono_ms,
            received,
            site: fill.site,
        });
        let (freshness, vary) = match verdict {
            Storable::Store { freshness, vary } => (freshness, vary),
            Storable::Pass(reason) => return self.release_fill(id, writer, reason),
        };
        let mut stored = self.io.scratch();
        write_stored_head(bytes, head, &self.ctx.proxy_name, &self.ctx.date, 0, &mut stored);
        if stored.len() > STORED_HEAD_MAX {
            self.io.recycle(stored);
            return self.release_fill(id, writer, PassReason::Useless);
        }
        let meta = meta(&stored, head.status, freshness);
        let body_len = match head.framing {
            BodyFraming::None => Some(0),
            BodyFraming::Length(n) => Some(n),
            BodyFraming::Chunked | BodyFraming::UntilClose => None,
        };
        let started = writer.start(meta, &vary, &request, &stored, body_len);
        self.io.recycle(stored);
        match started {
            Ok(body) => {
                let object = body.object().clone();
                if let Some(fill) = &mut self.exchanges.get(id).fill {
                    fill.body = Some(body);
                }
                self.attach_own(id, object);
            }
            Err(NotStored::TooLarge | NotStored::Full | NotStored::Length) => {
                let exchange = self.exchanges.get(id);
                exchange.fill = None;
                exchange.why = Why::Miss;
            }
        }
    }

    fn release_fill(&mut self, id: ExchangeId, writer: FillWriter, reason: PassReason) {
        self.ctx.stats.counters.fills_uncacheable.add(1);
        let remember_ms = if reason.is_of_the_url() { UNCACHEABLE_MS } else { 0 };
        writer.uncacheable(reason, self.cache_now(), remember_ms);
        let exchange = self.exchanges.get(id);
        exchange.fill = None;
        exchange.why = Why::Miss;
    }

    /// A 304 came for the stored response.
    fn freshen(
        &mut self,
        id: ExchangeId,
        writer: FillWriter,
        stale: &ObjectRef,
        head: &ResponseHead,
        bytes: &[u8],
    ) -> bool {
        let response = head.fields(bytes);
        let stored = StoredHead(stale.head());
        if not_modified_matches(&stored, &response) == NotModified::Other {
            self.fetch_again(id, writer);
            return false;
        }
        self.ctx.stats.counters.revalidated.add(1);
        let received = self.cache_now();
        let exchange = self.exchanges.get(id);
        let Some(fill) = &exchange.fill else { return true };
        let merged = Overlay { over: &response, under: &stored };
        let verdict = storable(&Judged {
            method: Method::Get,
            request_has_body: false,
            request: &exchange.head.fields(&exchange.bytes),
            status: stale.meta().status,
            response: &merged,
            request_mono_ms: fill.request_mono_ms,
            received,
            site: fill.site,
        });
        let object = match verdict {
            Storable::Store { freshness, .. } => {
                let mut fresh = self.io.scratch();
                write_freshened_head(
                    stale.head(),
                    bytes,
                    head,
                    &self.ctx.proxy_name,
                    &self.ctx.date,
                    &mut fresh,
                );
                let object = writer.freshen(meta(&fresh, stale.meta().status, freshness), &fresh);
                self.io.recycle(fresh);
                object.unwrap_or_else(|_| stale.clone())
            }
            Storable::Pass(reason) => {
                writer.uncacheable(reason, received, 0);
                stale.clone()
            }
        };
        self.detach_with(id, object, Why::Revalidated);
        true
    }

    /// A 304 validates something that is not stored here: asks the same place again without conditions
    /// (RFC 9111 section 4.3.4 lets no stored response be used), once.
    fn fetch_again(&mut self, id: ExchangeId, writer: FillWriter) {
        self.ctx.stats.counters.revalidations_mismatched.add(1);
        let exchange = self.exchanges.get(id);
        let (current, upstream) = (exchange.current, std::mem::replace(&mut exchange.upstream, Sock::NONE));
        let Some(fill) = &mut exchange.fill else { return };
        fill.writer = Some(writer);
        let repeated = std::mem::replace(&mut fill.unconditional, true);
        fill.conditions.clear();
        exchange.stage = Stage::Unsent;
        // The 304 may not be all that is on its way: the connection is not used again.
        self.close_upstream(upstream);
        match current {
            Some(candidate) if !repeated => {
                if self.connect(id, candidate, true).is_err() {
                    self.try_next(id);
                }
            }
            _ => {
                self.ctx.stats.refused.upstream_failed.add(1);
                self.fail_exchange(id, 502, "validator_mismatch");
            }
        }
    }

    /// Answers the exchange's client from an object and lets the exchange end alone.
    fn detach_with(&mut self, id: ExchangeId, object: ObjectRef, why: Why) {
        let exchange = self.exchanges.get(id);
        exchange.fill = None;
        let sock = std::mem::replace(&mut exchange.client, Sock::NONE);
        let (head, bytes) = (std::mem::take(&mut exchange.head), std::mem::take(&mut exchange.bytes));
        if let Some(client) = self.table.client(sock) {
            client.phase = Phase::Head;
            self.serve_object(sock, &head, &bytes, object, why, Source::Whole);
            self.again(sock);
        }
        let exchange = self.exchanges.get(id);
        (exchange.head, exchange.bytes) = (head, bytes);
    }

    /// The exchange's own client reads the object while it is filled.
    fn attach_own(&mut self, id: ExchangeId, object: ObjectRef) {
        let exchange = self.exchanges.get(id);
        let (sock, why) = (exchange.client, exchange.why);
        let (head, bytes) = (std::mem::take(&mut exchange.head), std::mem::take(&mut exchange.bytes));
        if let Some(client) = self.table.client(sock) {
            client.phase = Phase::Head;
            self.serve_object(sock, &head, &bytes, object, why, Source::Own(id));
            let reads = matches!(
                self.table.client(sock).map(|c| &c.phase),
                Some(Phase::Stored(reader)) if matches!(reader.source, Source::Own(of) if of == id)
            );
            if let Some(client) = self.table.client(sock)
                && let Phase::Stored(reader) = &client.phase
            {
                self.exchanges.get(id).framing = reader.out.framing(Some(0));
            }
            if !reads {
                // Answered without the body (304, HEAD, nothing in it).
                self.exchanges.get(id).client = Sock::NONE;
                self.again(sock);
            }
        }
        let exchange = self.exchanges.get(id);
        (exchange.head, exchange.bytes) = (head, bytes);
    }

    /// Looks at what a client has sent while it waited.
    fn again(&mut self, sock: Sock) {
        if let Some(client) = self.table.client(sock)
            && matches!(client.phase, Phase::Head)
            && !client.inbuf.is_empty()
        {
            self.ready.push(sock);
        }
    }

    /// Body bytes of a fill. False: the exchange is over.
    pub(super) fn fill_bytes(&mut self, id: ExchangeId, data: &[u8]) -> bool {
        let exchange = self.exchanges.get(id);
        let sock = exchange.client;
        let Some(body) = exchange.fill.as_mut().and_then(|f| f.body.as_mut()) else { return false };
        let before = body.object().body_available();
        if body.append(data).is_ok() {
            self.pump_reader(sock);
            return true;
        }
        self.ctx.stats.counters.fills_failed.add(1);
        self.spill(id, before, data)
    }

    /// The store takes no more of this response: its own client gets what is there up to `before`, then `data`
    /// and all that follows directly.
    fn spill(&mut self, id: ExchangeId, before: u64, data: &[u8]) -> bool {
        let exchange = self.exchanges.get(id);
        let sock = exchange.client;
        let object = exchange.fill.take().and_then(|f| f.body).map(|body| body.object().clone());
        let (Some(client), Some(object)) = (self.table.client(sock), object) else {
            let upstream = std::mem::replace(&mut self.exchanges.get(id).upstream, Sock::NONE);
            self.close_upstream(upstream);
            self.exchanges.close(id);
            return false;
        };
        let Phase::Stored(reader) = std::mem::replace(&mut client.phase, Phase::Exchange(id)) else {
            return false;
        };
        if before > reader.at {
            client.out.push_framed(&object, reader.at, before - reader.at, reader.out);
        }
        client.out.append_framed(data, reader.out);
        self.exchanges.get(id).framing = reader.out.framing(object.body_len());
        self.touch(sock);
        true
    }

    /// The whole response is through.
    pub(super) fn fill_done(&mut self, id: ExchangeId) {
        let exchange = self.exchanges.get(id);
        let sock = exchange.client;
        let Some(body) = exchange.fill.take().and_then(|f| f.body) else { return };
        let stored = body.finish().is_ok();
        let counters = &self.ctx.stats.counters;
        if stored {
            counters.fills_stored.add(1)
        } else {
            counters.fills_failed.add(1)
        };
        if let Some(client) = self.table.client(sock)
            && let Phase::Stored(reader) = &mut client.phase
            && matches!(reader.source, Source::Own(_))
        {
            reader.source = Source::Whole;
            self.exchanges.get(id).client = Sock::NONE;
            self.pump_reader(sock);
        }
    }

    /// The exchange failed. True: its client was answered from the store and the exchange is closed.
    pub(super) fn fill_failed(&mut self, id: ExchangeId) -> bool {
        let exchange = self.exchanges.get(id);
        let Some(mut fill) = exchange.fill.take() else { return false };
        self.ctx.stats.counters.fills_failed.add(1);
        let Some(writer) = fill.writer.take() else { return false };
        if fill.stale_if_error && fill.stale.is_some() {
            let stale = writer.serve_stale();
            self.ctx.stats.counters.stale_hits.add(1);
            self.detach_with(id, stale, Why::HitOnError);
            self.exchanges.close(id);
            return true;
        }
        // Trying again at once would not heal it: those who wait fail too.
        writer.fail_all();
        false
    }

    /// The fill's client left before the head. True: the fill goes on without it.
    pub(super) fn fill_goes_on(&mut self, id: ExchangeId) -> bool {
        match &self.exchanges.get(id).fill {
            // Others may wait for it already, and what is fetched will be asked for again.
            Some(fill) => fill.body.as_ref().is_none_or(|b| b.worth_continuing()),
            None => false,
        }
    }

    /// The client that reads its own fill left.
    pub(super) fn own_reader_gone(&mut self, id: ExchangeId) {
        let exchange = self.exchanges.get(id);
        exchange.client = Sock::NONE;
        if matches!(exchange.stage, Stage::Body(_)) && self.fill_goes_on(id) {
            return;
        }
        self.ctx.stats.counters.fills_failed.add(1);
        let upstream = std::mem::replace(&mut self.exchanges.get(id).upstream, Sock::NONE);
        self.close_upstream(upstream);
        self.exchanges.close(id);
    }
}

/// What the store keeps beside the bytes.
fn meta(stored: &[u8], status: u16, freshness: Freshness) -> ObjectMeta {
    let mut etag = None;
    for (_, value, id) in stored_fields(stored) {
        if id == FieldId::Etag && etag.is_none() {
            let at = value.as_ptr() as usize - stored.as_ptr() as usize;
            etag = Some((at as u16, value.len() as u16));
        }
    }
    let date = |id| {
        let mut found = None;
        StoredHead(stored).each(id, &mut |value| found = found.or_else(|| parse_http_date(value)));
        found
    };
    ObjectMeta {
        status,
        freshness,
        last_modified_s: date(FieldId::LastModified),
        date_s: date(FieldId::Date),
        etag,
    }
}
