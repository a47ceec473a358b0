//! The upstream's side: response heads and bodies.

use super::Worker;
use crate::cached::{BodyOut, is_cached_method};
use crate::exchange::{ExchangeId, Stage, Upload};
use crate::session::{Outbox, Phase, UpstreamPhase};
use sluice_core::http1::{
    BodyDecoder, BodyStep, DownstreamContext, OutFraming, Parse, ResponseHead, Version, downstream_framing,
    parse_response, write_downstream_response,
};
use sluice_uring::{BufGroup, Io, RecvBuf, Sock};

/// Errno of a connection that broke.
const ECONNRESET: i32 = 104;

/// What a step of a response came to.
enum Progress {
    /// More bytes are needed.
    More,
    /// The response is through; that many bytes of the input were its.
    Done(usize),
    /// The exchange is over, one way or another.
    Gone,
}

impl<I: Io> Worker<I> {
    pub(super) fn upstream_data(&mut self, sock: Sock, buf: RecvBuf) {
        self.ctx.stats.counters.upstream_bytes_in.add(buf.len() as u64);
        let Some(upstream) = self.table.upstream(sock) else { return self.io.release(buf) };
        let UpstreamPhase::Busy(id) = upstream.phase else {
            // An idle server has nothing to say (a 408 perhaps): the connection is of no use any more.
            self.io.release(buf);
            return self.close_upstream(sock);
        };
        let mut input = std::mem::take(&mut upstream.inbuf);
        if input.capacity() == 0 {
            input = self.io.scratch();
        }
        input.extend_from_slice(self.io.data(&buf));
        self.io.release(buf);
        match self.on_response_bytes(id, &mut input) {
            Progress::More => {
                // Inside a head everything is kept; inside a body nothing is left.
                let keep = matches!(self.exchanges.get(id).stage, Stage::AwaitHead);
                match self.table.upstream(sock) {
                    Some(upstream) if keep => upstream.inbuf = input,
                    _ => self.io.recycle(input),
                }
                self.deadline(sock, self.ctx.now.ms() + self.ctx.tuning.response_ms);
                self.throttle(id, sock);
            }
            Progress::Done(used) => {
                let clean = used == input.len();
                self.io.recycle(input);
                self.finish_exchange(id, clean);
            }
            Progress::Gone => self.io.recycle(input),
        }
    }

    fn on_response_bytes(&mut self, id: ExchangeId, input: &mut Vec<u8>) -> Progress {
        let mut at = 0;
        while matches!(self.exchanges.get(id).stage, Stage::AwaitHead | Stage::Unsent) {
            if at == input.len() {
                input.clear();
                return Progress::More;
            }
            let mut head = std::mem::take(&mut self.response);
            let method = self.exchanges.get(id).sent_method();
            let parsed = parse_response(&input[at..], &self.ctx.tuning.http, method, &mut head);
            let outcome = match parsed {
                Ok(Parse::Partial) => {
                    head.reset();
                    // Interim heads before it are done with.
                    input.drain(..at);
                    Some(Progress::More)
                }
                Ok(Parse::Complete { head_len }) => {
                    let bytes = &input[at..at + head_len];
                    at += head_len;
                    if head.is_interim() {
                        self.interim(id, &head, bytes);
                        None
                    } else {
                        (!self.on_response_head(id, &head, bytes)).then_some(Progress::Gone)
                    }
                }
                Err(_) => {
                    head.reset();
                    self.ctx.stats.counters.upstream_invalid.add(1);
                    self.ctx.stats.refused.upstream_failed.add(1);
                    self.fail_exchange(id, 502, "upstream_invalid");
                    Some(Progress::Gone)
                }
            };
            self.response = head;
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
        match self.on_body_bytes(id, &input[at..]) {
            Progress::Done(used) => Progress::Done(at + used),
            other => other,
        }
    }

    /// 100 was answered by us; others go on to clients that know them.
    fn interim(&mut self, id: ExchangeId, head: &ResponseHead, bytes: &[u8]) {
        let exchange = self.exchanges.get(id);
        if head.status == 100 || exchange.version == Version::Http10 || exchange.fill.is_some() {
            return;
        }
        let Some(client) = self.table.client(exchange.client) else { return };
        let context = DownstreamContext {
            name: &self.ctx.proxy_name,
            client: exchange.version,
            framing: OutFraming::None,
            keep_alive: true,
            age_s: None,
            date: &self.ctx.date,
            strip: 0,
            extra: &[],
        };
        write_downstream_response(bytes, head, &context, &mut client.out.head);
        let sock = exchange.client;
        self.touch(sock);
    }

    /// The final head is here. False: the exchange is over.
    fn on_response_head(&mut self, id: ExchangeId, head: &ResponseHead, bytes: &[u8]) -> bool {
        if self.exchanges.get(id).fill.is_some() && !self.fill_head(id, head, bytes) {
            return false;
        }
        let exchange = self.exchanges.get(id);
        exchange.upstream_keep = head.keep_alive;
        exchange.stage = Stage::Body(BodyDecoder::new(head.framing));
        if exchange.fill.is_some() {
            return true;
        }
        if !is_cached_method(exchange.method) {
            let (request, request_bytes) =
                (std::mem::take(&mut exchange.head), std::mem::take(&mut exchange.bytes));
            self.invalidate(&request, &request_bytes, head.status, &head.fields(bytes));
            let exchange = self.exchanges.get(id);
            (exchange.head, exchange.bytes) = (request, request_bytes);
        }
        self.response_to_client(id, head, bytes);
        true
    }

    /// Queues the head of a response that is relayed as it comes.
    pub(super) fn response_to_client(&mut self, id: ExchangeId, head: &ResponseHead, bytes: &[u8]) {
        let exchange = self.exchanges.get(id);
        exchange.framing = downstream_framing(
            head.framing,
            head.declared_length,
            exchange.version,
            exchange.method,
            head.status,
        );
        let sock = exchange.client;
        let Some(client) = self.table.client(sock) else { return };
        if exchange.framing == OutFraming::UntilClose || matches!(exchange.upload, Upload::Coming { .. }) {
            client.keep = false;
        }
        let context = DownstreamContext {
            name: &self.ctx.proxy_name,
            client: exchange.version,
            framing: exchange.framing,
            keep_alive: client.keep,
            age_s: None,
            date: &self.ctx.date,
            strip: 0,
            extra: self.ctx.cache_status.line(exchange.why),
        };
        if client.out.head.capacity() == 0 {
            client.out.head = self.io.scratch();
        }
        write_downstream_response(bytes, head, &context, &mut client.out.head);
        self.ctx.stats.response(head.status);
        self.ctx.stats.latency.record(self.ctx.now.us - exchange.started_us, 1);
        self.touch(sock);
    }

    fn on_body_bytes(&mut self, id: ExchangeId, input: &[u8]) -> Progress {
        if self.exchanges.get(id).fill.is_some() {
            return self.on_fill_bytes(id, input);
        }
        let exchange = self.exchanges.get(id);
        let Stage::Body(decoder) = &mut exchange.stage else { return Progress::Gone };
        let sock = exchange.client;
        // Without a client (it was answered from the store) the body is read and dropped.
        let mut nobody = Outbox::default();
        let out = self.table.client(sock).map_or(&mut nobody, |client| &mut client.out);
        let framing = match exchange.framing {
            OutFraming::Chunked => BodyOut::Chunked,
            OutFraming::None | OutFraming::Length(_) | OutFraming::UntilClose => BodyOut::Plain,
        };
        let mut at = 0;
        let ended = loop {
            match decoder.step(&input[at..], &self.ctx.tuning.http) {
                Ok(BodyStep::Data { start, end }) => {
                    if sock != Sock::NONE {
                        out.append_framed(&input[at + start..at + end], framing);
                    }
                    at += end;
                }
                Ok(BodyStep::More) => break false,
                Ok(BodyStep::End { consumed }) => {
                    at += consumed;
                    if framing == BodyOut::Chunked {
                        out.append_end(trailers(decoder));
                    }
                    break true;
                }
                Err(error) => {
                    self.ctx.stats.bad_bodies[error.index()].add(1);
                    self.ctx.stats.counters.upstream_invalid.add(1);
                    self.fail_exchange(id, 502, "upstream_invalid");
                    return Progress::Gone;
                }
            }
        };
        self.touch(sock);
        if ended { Progress::Done(at) } else { Progress::More }
    }

    /// Body bytes of a fill: they go into the store, readers take them from there.
    fn on_fill_bytes(&mut self, id: ExchangeId, input: &[u8]) -> Progress {
        let mut at = 0;
        loop {
            let Stage::Body(decoder) = &mut self.exchanges.get(id).stage else { return Progress::Gone };
            match decoder.step(&input[at..], &self.ctx.tuning.http) {
                Ok(BodyStep::Data { start, end }) => {
                    if !self.fill_bytes(id, &input[at + start..at + end]) {
                        return Progress::Gone;
                    }
                    at += end;
                    if self.exchanges.get(id).fill.is_none() {
                        // The store gave up: the rest is relayed.
                        return match self.on_body_bytes(id, &input[at..]) {
                            Progress::Done(used) => Progress::Done(at + used),
                            other => other,
                        };
                    }
                }
                Ok(BodyStep::More) => return Progress::More,
                Ok(BodyStep::End { consumed }) => return Progress::Done(at + consumed),
                Err(error) => {
                    self.ctx.stats.bad_bodies[error.index()].add(1);
                    self.ctx.stats.counters.upstream_invalid.add(1);
                    self.fail_exchange(id, 502, "upstream_invalid");
                    return Progress::Gone;
                }
            }
        }
    }

    /// The whole response is through.
    pub(super) fn finish_exchange(&mut self, id: ExchangeId, clean: bool) {
        self.fill_done(id);
        let exchange = self.exchanges.get(id);
        let upload_done = matches!(exchange.upload, Upload::Done);
        let keep = exchange.upstream_keep && clean && upload_done;
        let (sock, upstream) = (exchange.client, exchange.upstream);
        self.exchanges.close(id);
        self.release_upstream(upstream, keep);
        let Some(client) = self.table.client(sock) else { return };
        if !matches!(client.phase, Phase::Exchange(of) if of == id) {
            return;
        }
        client.phase = Phase::Head;
        client.keep &= upload_done;
        client.close_after |= !client.keep;
        if !client.inbuf.is_empty() {
            self.ready.push(sock);
        }
        self.touch(sock);
    }

    /// The upstream sent its FIN, or broke.
    pub(super) fn upstream_eof(&mut self, sock: Sock, errno: i32) {
        let Some(upstream) = self.table.upstream(sock) else { return };
        let id = match upstream.phase {
            UpstreamPhase::Busy(id) => id,
            UpstreamPhase::Connecting(id) => {
                debug_assert_eq!(self.exchanges.get(id).upstream, sock);
                return self.on_connected(sock, ECONNRESET);
            }
            UpstreamPhase::Idle => return self.close_upstream(sock),
        };
        upstream.receiving = false;
        let nothing_came = upstream.inbuf.is_empty();
        match &mut self.exchanges.get(id).stage {
            // Only an orderly end completes a body that runs until close; a reset cut it (RFC 9112 section 8).
            Stage::Body(decoder) if errno == 0 && decoder.on_close().is_ok() => {
                if self.end_until_close(id) {
                    self.finish_exchange(id, false);
                }
            }
            Stage::Body(_) => {
                self.ctx.stats.counters.upstream_cut.add(1);
                self.fail_exchange(id, 502, "upstream_cut");
            }
            Stage::AwaitHead | Stage::Unsent if nothing_came => {
                self.retry_or_fail(id, 502, "upstream_closed");
            }
            Stage::AwaitHead | Stage::Unsent => {
                self.ctx.stats.counters.upstream_cut.add(1);
                self.retry_or_fail(id, 502, "upstream_cut");
            }
        }
    }

    /// A body that ends with its connection has ended: closes the chunked framing towards the client.
    fn end_until_close(&mut self, id: ExchangeId) -> bool {
        let exchange = self.exchanges.get(id);
        if exchange.fill.is_none()
            && exchange.framing == OutFraming::Chunked
            && let Some(client) = self.table.client(exchange.client)
        {
            client.out.append_end(&[]);
        }
        true
    }

    /// Stops reading the upstream while the client is slow.
    fn throttle(&mut self, id: ExchangeId, sock: Sock) {
        let high = self.ctx.tuning.queue_high;
        let exchange = self.exchanges.get(id);
        if exchange.fill.is_some() {
            return;
        }
        let Some(client) = self.table.client(exchange.client) else { return };
        if client.out.queued() <= high {
            return;
        }
        if let Some(upstream) = self.table.upstream(sock)
            && upstream.receiving
        {
            upstream.receiving = false;
            self.io.pause_recv(sock);
            self.deadline(sock, u64::MAX);
        }
    }

    /// The client caught up.
    pub(super) fn resume_upstream(&mut self, id: ExchangeId) {
        let sock = self.exchanges.get(id).upstream;
        if let Some(upstream) = self.table.upstream(sock)
            && matches!(upstream.phase, UpstreamPhase::Busy(_))
            && !upstream.receiving
        {
            upstream.receiving = true;
            self.io.recv(sock, BufGroup::Large);
            self.deadline(sock, self.ctx.now.ms() + self.ctx.tuning.response_ms);
        }
    }
}

fn trailers(decoder: &BodyDecoder) -> &[u8] {
    match decoder {
        BodyDecoder::Chunked(decoder) => decoder.trailers(),
        BodyDecoder::Length(_) | BodyDecoder::UntilClose => &[],
    }
}
