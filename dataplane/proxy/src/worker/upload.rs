//! Request bodies on their way upstream.

use super::Worker;
use crate::exchange::{ExchangeId, Stage, Upload};
use sluice_core::http1::{BodyDecoder, BodyError, BodyStep, write_chunk_end, write_chunk_header};
use sluice_uring::Io;

impl<I: Io> Worker<I> {
    /// Moves what the client has sent of its body towards the upstream, as far as that takes it.
    pub(crate) fn pump_upload(&mut self, id: ExchangeId) {
        let high = self.ctx.tuning.queue_high;
        let exchange = self.exchanges.get(id);
        let (sock, upstream) = (exchange.client, exchange.upstream);
        let Upload::Coming { decoder, chunked } = &mut exchange.upload else { return };
        if matches!(exchange.stage, Stage::Unsent) {
            return;
        }
        let Some(client) = self.table.client(sock) else { return };
        let input = std::mem::take(&mut client.inbuf);
        let Some(to) = self.table.upstream(upstream) else { return };
        let mut out = std::mem::take(&mut to.out.head);
        let room = high.saturating_sub(to.out.in_flight);
        let mut at = 0;
        let moved = loop {
            if out.len() > room {
                break Ok(false);
            }
            match decoder.step(&input[at..], &self.ctx.tuning.http) {
                Ok(BodyStep::Data { start, end }) => {
                    let data = &input[at + start..at + end];
                    if *chunked {
                        write_chunk_header(data.len(), &mut out);
                        out.extend_from_slice(data);
                        out.extend_from_slice(b"\r\n");
                    } else {
                        out.extend_from_slice(data);
                    }
                    exchange.upload_begun = true;
                    at += end;
                }
                Ok(BodyStep::More) => {
                    at = input.len();
                    break Ok(false);
                }
                Ok(BodyStep::End { consumed }) => {
                    at += consumed;
                    break Ok(true);
                }
                Err(error) => break Err(error),
            }
        };
        if moved == Ok(true) {
            if let BodyDecoder::Chunked(decoder) = decoder {
                write_chunk_end(decoder.trailers(), &mut out);
            }
            exchange.upload = Upload::Done;
        }
        to.out.head = out;
        self.put_back(sock, input, at);
        match moved {
            Err(error) => self.bad_body(id, error),
            Ok(_) => {
                self.deadline(upstream, self.ctx.now.ms() + self.ctx.tuning.response_ms);
                self.touch(upstream);
                self.touch(sock);
            }
        }
    }

    /// Leaves what was not used of a client's input.
    fn put_back(&mut self, sock: sluice_uring::Sock, mut input: Vec<u8>, used: usize) {
        match self.table.client(sock) {
            Some(client) if used < input.len() => {
                input.drain(..used);
                client.inbuf = input;
            }
            _ => self.io.recycle(input),
        }
        self.regulate_client(sock);
    }

    fn bad_body(&mut self, id: ExchangeId, error: BodyError) {
        self.ctx.stats.bad_bodies[error.index()].add(1);
        self.fail_exchange(id, error.status(), error.name());
    }

    /// The client sent its FIN while its request was under way.
    pub(crate) fn upload_cut(&mut self, id: ExchangeId) {
        let exchange = self.exchanges.get(id);
        if matches!(exchange.upload, Upload::Coming { .. }) {
            self.bad_body(id, BodyError::UnexpectedEnd);
        }
    }
}
