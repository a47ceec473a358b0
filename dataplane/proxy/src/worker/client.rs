//! The client's side: heads in, answers out, closing.

use super::{Mode, Worker};
use crate::answer;
use crate::exchange::Upload;
use crate::session::{Client, Phase, Session};
use sluice_core::http1::{
    BodyDecoder, BodyFraming, BodyStep, LocalAnswer, Method, Parse, RequestError, RequestHead, local_answer,
    parse_request, write_error, write_options_answer,
};
use sluice_uring::{BufGroup, Io, RecvBuf, Sock};

/// Answers 200 when the proxy takes requests, else 503.
const HEALTH_PATH: &[u8] = b"/.sluice/health";

impl<I: Io> Worker<I> {
    pub(super) fn on_accepted(&mut self, sock: Sock) {
        let stats = &self.ctx.stats;
        stats.counters.connections.add(1);
        if stats.gauges.connections_open.get() >= u64::from(self.ctx.tuning.clients_max) {
            stats.refused.too_many_connections.add(1);
            return self.io.close(sock);
        }
        stats.gauges.connections_open.add(1);
        self.table.insert(sock, Session::Client(Box::new(Client::new())));
        self.io.recv(sock, BufGroup::Small);
        self.deadline(sock, self.ctx.now.ms() + self.ctx.tuning.head_ms);
    }

    pub(super) fn client_data(&mut self, sock: Sock, buf: RecvBuf) {
        self.ctx.stats.counters.bytes_in.add(buf.len() as u64);
        let Some(client) = self.table.client(sock) else { return self.io.release(buf) };
        if matches!(client.phase, Phase::Linger) {
            return self.io.release(buf);
        }
        if client.inbuf.capacity() == 0 {
            client.inbuf = self.io.scratch();
        }
        client.inbuf.extend_from_slice(self.io.data(&buf));
        self.io.release(buf);
        self.process(sock);
    }

    /// Looks at what a client has sent.
    pub(super) fn process(&mut self, sock: Sock) {
        let Some(client) = self.table.client(sock) else { return };
        match client.phase {
            Phase::Head => self.heads(sock),
            Phase::Exchange(id) => self.pump_upload(id),
            Phase::Discard { .. } => self.discard(sock),
            Phase::Stored(_) | Phase::Linger => {}
        }
        self.regulate_client(sock);
    }

    /// Parses and serves heads until one has to wait, or the input ends.
    fn heads(&mut self, sock: Sock) {
        // A head half parsed stays with its client until it is parsed on: the parser's state must never reach
        // another connection.
        if !self.takes_head(sock) {
            return;
        }
        let Some(client) = self.table.client(sock) else { return };
        let mut input = std::mem::take(&mut client.inbuf);
        let mut head = match client.partial.take() {
            Some(partial) => *partial,
            None => std::mem::take(&mut self.request),
        };
        let mut at = 0;
        while at < input.len() && self.takes_head(sock) {
            match parse_request(&input[at..], &self.ctx.tuning.http, &mut head) {
                Ok(Parse::Complete { head_len }) => {
                    let rest = input.len() - at - head_len;
                    self.on_request(sock, &mut head, &input[at..at + head_len], rest);
                    at += head_len;
                }
                Ok(Parse::Partial) => {
                    let now_ms = self.ctx.now.ms();
                    if let Some(client) = self.table.client(sock) {
                        if client.head_since_ms == 0 {
                            client.head_since_ms = now_ms;
                        }
                        client.partial = Some(Box::new(std::mem::take(&mut head)));
                    }
                    self.touch(sock);
                    break;
                }
                Err(error) => {
                    self.bad_request(sock, error);
                    at = input.len();
                }
            }
        }
        self.request = head;
        match self.table.client(sock) {
            Some(client) if at < input.len() => {
                input.drain(..at);
                client.inbuf = input;
                if !matches!(client.phase, Phase::Head) {
                    self.after_head(sock);
                }
            }
            _ => self.io.recycle(input),
        }
    }

    /// Body bytes that came with the head.
    fn after_head(&mut self, sock: Sock) {
        match self.table.client(sock).map(|c| &c.phase) {
            Some(&Phase::Exchange(id)) => self.pump_upload(id),
            Some(Phase::Discard { .. }) => self.discard(sock),
            _ => {}
        }
    }

    fn takes_head(&mut self, sock: Sock) -> bool {
        let high = self.ctx.tuning.queue_high;
        self.table.client(sock).is_some_and(|c| {
            matches!(c.phase, Phase::Head) && !c.close_after && c.out.takes_bytes() && c.out.queued() <= high
        })
    }

    fn bad_request(&mut self, sock: Sock, error: RequestError) {
        self.ctx.stats.bad_requests[error.index()].add(1);
        let Some(client) = self.table.client(sock) else { return };
        client.keep = false;
        write_error(error.status(), error.name(), true, false, &self.ctx.date, &mut client.out.head);
        self.answered(sock, error.status(), BodyFraming::None);
    }

    /// A whole head is here; `buffered` bytes follow it.
    fn on_request(&mut self, sock: Sock, head: &mut RequestHead, bytes: &[u8], buffered: usize) {
        let ctx = &mut self.ctx;
        ctx.stats.counters.requests.add(1);
        ctx.budget.refill();
        let Some(client) = self.table.client(sock) else { return };
        client.requests += 1;
        client.head_since_ms = 0;
        client.said_close = !head.keep_alive;
        let max = ctx.tuning.requests_per_connection_max;
        client.keep = head.keep_alive
            && ctx.mode == Mode::Serving
            && !client.eof
            && (max == 0 || client.requests < max);
        if head.connection.upgrade {
            ctx.stats.counters.upgrades_ignored.add(1);
        }
        if let Some(answer) = local_answer(head, bytes) {
            return self.answer_locally(sock, head, answer);
        }
        if head.path(bytes) == HEALTH_PATH {
            return self.health(sock, head);
        }
        if !ctx.configured {
            ctx.stats.refused.not_configured.add(1);
            return self.unavailable(sock, head, "not_configured");
        }
        self.route_request(sock, head, bytes, buffered);
    }

    fn answer_locally(&mut self, sock: Sock, head: &RequestHead, answer: LocalAnswer) {
        match answer {
            LocalAnswer::TraceRefused => {
                self.ctx.stats.refused.method_refused.add(1);
                self.refuse(sock, head, 405, "trace_refused");
            }
            LocalAnswer::ConnectRefused => {
                self.ctx.stats.refused.method_refused.add(1);
                if let Some(client) = self.table.client(sock) {
                    client.keep = false;
                }
                self.refuse(sock, head, 501, "connect_refused");
            }
            LocalAnswer::Options => {
                let Some(client) = self.table.client(sock) else { return };
                write_options_answer(client.keep, head.version, &self.ctx.date, &mut client.out.head);
                self.answered(sock, 204, head.framing);
            }
        }
    }

    fn health(&mut self, sock: Sock, head: &RequestHead) {
        if self.ctx.mode == Mode::Serving && self.ctx.configured {
            let Some(client) = self.table.client(sock) else { return };
            let head_only = head.method == Method::Head;
            answer::write_health(client.keep, head_only, &self.ctx.date, &mut client.out.head);
            return self.answered(sock, 200, head.framing);
        }
        let reason = if self.ctx.configured { "draining" } else { "not_configured" };
        self.unavailable(sock, head, reason);
    }

    fn unavailable(&mut self, sock: Sock, head: &RequestHead, reason: &str) {
        let Some(client) = self.table.client(sock) else { return };
        let head_only = head.method == Method::Head;
        answer::write_unavailable(reason, client.keep, head_only, &self.ctx.date, &mut client.out.head);
        self.answered(sock, 503, head.framing);
    }

    /// Answers with an error of our own.
    pub(crate) fn refuse(&mut self, sock: Sock, head: &RequestHead, status: u16, reason: &str) {
        let Some(client) = self.table.client(sock) else { return };
        let head_only = head.method == Method::Head;
        write_error(status, reason, !client.keep, head_only, &self.ctx.date, &mut client.out.head);
        self.answered(sock, status, head.framing);
    }

    /// A whole response was queued in the turn its request came in; `framing` is that of the request, whose
    /// body nobody wants.
    pub(crate) fn answered(&mut self, sock: Sock, status: u16, framing: BodyFraming) {
        self.ctx.stats.response(status);
        self.ctx.answered_at_once += 1;
        let discard_max = self.ctx.tuning.discard_max;
        let Some(client) = self.table.client(sock) else { return };
        client.close_after |= !client.keep;
        client.phase = match framing {
            BodyFraming::None | BodyFraming::Length(0) => Phase::Head,
            framing => Phase::Discard { decoder: BodyDecoder::new(framing), left: discard_max },
        };
        self.touch(sock);
    }

    fn discard(&mut self, sock: Sock) {
        let Some(client) = self.table.client(sock) else { return };
        let mut input = std::mem::take(&mut client.inbuf);
        let Phase::Discard { decoder, left } = &mut client.phase else { return };
        let mut at = 0;
        let ended = loop {
            match decoder.step(&input[at..], &self.ctx.tuning.http) {
                Ok(BodyStep::Data { end, .. }) => {
                    at += end;
                    *left = left.saturating_sub(end as u64);
                    if *left == 0 {
                        break Err(());
                    }
                }
                Ok(BodyStep::More) => break Ok(false),
                Ok(BodyStep::End { consumed }) => {
                    at += consumed;
                    break Ok(true);
                }
                Err(error) => {
                    self.ctx.stats.bad_bodies[error.index()].add(1);
                    break Err(());
                }
            }
        };
        match ended {
            Ok(true) => {
                client.phase = Phase::Head;
                input.drain(..at);
                client.inbuf = input;
                self.ready.push(sock);
                self.touch(sock);
            }
            Ok(false) => self.io.recycle(input),
            Err(()) => {
                client.close_after = true;
                client.phase = Phase::Head;
                self.io.recycle(input);
                self.touch(sock);
            }
        }
    }

    /// Reads on or pauses, by what is buffered.
    pub(crate) fn regulate_client(&mut self, sock: Sock) {
        let max = self.ctx.tuning.pipelined_max;
        let Some(client) = self.table.client(sock) else { return };
        let want = client.inbuf.len() < max;
        if want == client.receiving || client.eof {
            return;
        }
        client.receiving = want;
        if want {
            self.io.recv(sock, BufGroup::Small);
        } else {
            self.ctx.stats.refused.pipelined_too_much.add(1);
            self.io.pause_recv(sock);
        }
    }

    /// The kernel took some output.
    pub(super) fn client_sent(&mut self, sock: Sock, done: bool) {
        let late = self.ctx.now.ms() + self.ctx.tuning.send_stall_ms;
        let low = self.ctx.tuning.queue_low;
        let Some(client) = self.table.client(sock) else { return };
        let (queued, waiting) = (client.out.queued(), !client.inbuf.is_empty());
        let phase = match client.phase {
            Phase::Exchange(id) => Some(id),
            _ => None,
        };
        if !done {
            self.deadline(sock, late);
        } else {
            if waiting {
                self.ready.push(sock);
            }
            self.touch(sock);
        }
        if let Some(id) = phase
            && queued <= low
        {
            self.resume_upstream(id);
        }
        self.resume_stored(sock);
    }

    /// Called when a touched client's output was handed over: closes or sets the time it may take.
    pub(super) fn client_rest(&mut self, sock: Sock) {
        let (now_ms, idle_ms, tuning) = (self.ctx.now.ms(), self.idle_ms(), &self.ctx.tuning);
        let Some(client) = self.table.client(sock) else { return };
        if client.out.sending {
            return;
        }
        if client.close_after {
            return self.finish_client(sock);
        }
        let late = match &client.phase {
            Phase::Head if client.inbuf.is_empty() => now_ms + idle_ms,
            Phase::Head => client.head_since_ms.max(1) + tuning.head_ms,
            Phase::Discard { .. } => now_ms + tuning.body_ms,
            Phase::Linger => now_ms + tuning.linger_ms,
            &Phase::Exchange(id) => match self.exchanges.get(id).upload {
                Upload::Coming { .. } => now_ms + tuning.body_ms,
                Upload::Done => u64::MAX,
            },
            Phase::Stored(_) => u64::MAX,
        };
        self.deadline(sock, late);
    }

    /// Everything is sent and the connection is to end.
    fn finish_client(&mut self, sock: Sock) {
        let Some(client) = self.table.client(sock) else { return };
        if matches!(client.phase, Phase::Linger) {
            return;
        }
        // A client that has said its last word gets no reset from a plain close.
        if client.eof || (client.said_close && client.inbuf.is_empty() && matches!(client.phase, Phase::Head))
        {
            return self.drop_client(sock);
        }
        self.linger(sock);
    }

    /// Sends FIN and waits for the client's, so that it can read what was sent.
    pub(super) fn linger(&mut self, sock: Sock) {
        let Some(client) = self.table.client(sock) else { return };
        let input = std::mem::take(&mut client.inbuf);
        client.partial = None;
        client.phase = Phase::Linger;
        let resume = !std::mem::replace(&mut client.receiving, true);
        self.io.recycle(input);
        self.io.shutdown_write(sock);
        if resume {
            self.io.recv(sock, BufGroup::Small);
        }
        self.deadline(sock, self.ctx.now.ms() + self.ctx.tuning.linger_ms);
    }

    pub(super) fn client_eof(&mut self, sock: Sock, errno: i32) {
        let Some(client) = self.table.client(sock) else { return };
        client.eof = true;
        client.keep = false;
        client.receiving = false;
        if errno != 0 {
            return self.drop_client(sock);
        }
        match &client.phase {
            Phase::Linger => self.drop_client(sock),
            Phase::Head if client.out.queued() == 0 => self.drop_client(sock),
            Phase::Head | Phase::Discard { .. } => {
                client.close_after = true;
                self.touch(sock);
            }
            &Phase::Exchange(id) => self.upload_cut(id),
            Phase::Stored(_) => {}
        }
    }

    pub(super) fn client_late(&mut self, sock: Sock) {
        let refused = &self.ctx.stats.refused;
        let Some(client) = self.table.client(sock) else { return };
        if client.out.sending {
            refused.send_stall.add(1);
            return self.abort_client(sock);
        }
        match &client.phase {
            Phase::Head if client.inbuf.is_empty() => {
                let counters = &self.ctx.stats.counters;
                match self.ctx.mode {
                    Mode::Serving => counters.idle_closed.add(1),
                    Mode::Draining | Mode::Leaving => counters.drain_closed.add(1),
                }
                self.linger(sock);
            }
            Phase::Head => {
                refused.head_timeout.add(1);
                client.keep = false;
                client.partial = None;
                write_error(408, "head_timeout", true, false, &self.ctx.date, &mut client.out.head);
                self.answered(sock, 408, BodyFraming::None);
            }
            Phase::Discard { .. } => {
                refused.body_timeout.add(1);
                self.drop_client(sock);
            }
            &Phase::Exchange(id) => {
                refused.body_timeout.add(1);
                self.fail_exchange(id, 408, "body_timeout");
            }
            Phase::Linger | Phase::Stored(_) => self.drop_client(sock),
        }
    }

    /// Closes with a reset: the only way to tell a client that what it read is not all.
    pub(super) fn abort_client(&mut self, sock: Sock) {
        if self.forget_client(sock) {
            self.io.abort(sock);
        }
    }

    /// Closes now.
    pub(super) fn drop_client(&mut self, sock: Sock) {
        if self.forget_client(sock) {
            self.io.close(sock);
        }
    }

    fn forget_client(&mut self, sock: Sock) -> bool {
        let Some(Session::Client(mut client)) = self.table.remove(sock) else { return false };
        self.ctx.stats.gauges.connections_open.sub(1);
        self.io.recycle(std::mem::take(&mut client.inbuf));
        self.io.recycle(std::mem::take(&mut client.out.head));
        match client.phase {
            Phase::Exchange(id) => self.client_gone(id),
            Phase::Stored(reader) => self.reader_gone(reader),
            Phase::Head | Phase::Discard { .. } | Phase::Linger => {}
        }
        true
    }
}
