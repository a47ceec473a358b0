//! A request on its way through an upstream.

use sluice_core::http1::{BodyDecoder, ClientAddr, Method, OutFraming, RequestHead, Version};
use sluice_core::route::Origin;
use sluice_uring::Sock;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Number of an exchange of this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExchangeId(u32);

/// What an address is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Peer,
    Parent,
    Origin,
}

/// One address that can serve a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) addr: SocketAddr,
    pub(crate) tier: Tier,
}

/// Where the response stands.
#[derive(Debug)]
pub(crate) enum Stage {
    /// No byte of the request was sent.
    Unsent,
    /// Sent at least in part; no final head came.
    AwaitHead,
    /// The head is through, the body is coming.
    Body(BodyDecoder),
}

/// The request's own body.
#[derive(Debug)]
pub(crate) enum Upload {
    /// None, or all of it is through.
    Done,
    /// Still coming from the client.
    Coming { decoder: BodyDecoder, chunked: bool },
}

/// An exchange. Buffers keep their capacity when the slot is used again.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Who gets the response as it comes; [`Sock::NONE`] when it only fills the store.
    pub(crate) client: Sock,
    pub(crate) upstream: Sock,
    /// Head of the request as received.
    pub(crate) bytes: Vec<u8>,
    pub(crate) head: RequestHead,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Value of the hop mark to send, empty for none.
    pub(crate) hop: Vec<u8>,
    /// The origin of its route.
    pub(crate) origin: Option<Arc<Origin>>,
    /// The client, for the forwarding fields.
    pub(crate) addr: Option<Rc<ClientAddr>>,
    /// A peer sent it, with its forwarding fields set.
    pub(crate) from_peer: bool,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) next: usize,
    pub(crate) current: Option<Candidate>,
    pub(crate) attempts: u8,
    pub(crate) upload: Upload,
    /// A byte of the upload went upstream, so the request cannot be sent again.
    pub(crate) upload_begun: bool,
    pub(crate) stage: Stage,
    pub(crate) framing: OutFraming,
    /// The upstream connection can be kept after the response.
    pub(crate) upstream_keep: bool,
    pub(crate) started_us: u64,
    /// Line of [`crate::answer::CacheStatus`] that says why it was forwarded.
    pub(crate) why: crate::answer::Why,
    pub(crate) fill: Option<crate::cached::Fill>,
    in_use: bool,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            client: Sock::NONE,
            upstream: Sock::NONE,
            bytes: Vec::new(),
            head: RequestHead::new(),
            method: Method::Get,
            version: Version::Http11,
            hop: Vec::new(),
            origin: None,
            addr: None,
            from_peer: false,
            candidates: Vec::new(),
            next: 0,
            current: None,
            attempts: 0,
            upload: Upload::Done,
            upload_begun: false,
            stage: Stage::Unsent,
            framing: OutFraming::None,
            upstream_keep: false,
            started_us: 0,
            why: crate::answer::Why::Bypass,
            fill: None,
            in_use: false,
        }
    }
}

impl Exchange {
    /// Takes over the request; `head` gets a used head back for the next parse.
    pub(crate) fn begin(&mut self, head: &mut RequestHead, bytes: &[u8], why: crate::answer::Why) {
        self.bytes.extend_from_slice(bytes);
        self.method = head.method;
        self.version = head.version;
        std::mem::swap(&mut self.head, head);
        self.why = why;
    }

    /// Method of the request as sent upstream.
    pub(crate) fn sent_method(&self) -> Method {
        if self.fill.is_some() { Method::Get } else { self.method }
    }

    /// The request may be sent again: nothing of its body is gone and its method may be repeated
    /// (RFC 9110 section 9.2.2).
    pub(crate) fn repeatable(&self) -> bool {
        let idempotent = matches!(
            self.method,
            Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options
        );
        !self.upload_begun && idempotent && !matches!(self.stage, Stage::Body(_))
    }
}

/// All exchanges of a worker.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    list: Vec<Exchange>,
    free: Vec<u32>,
}

impl Exchanges {
    /// A fresh exchange.
    pub(crate) fn open(&mut self) -> ExchangeId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.list.push(Exchange::default());
            (self.list.len() - 1) as u32
        });
        self.list[index as usize].in_use = true;
        ExchangeId(index)
    }

    pub(crate) fn get(&mut self, id: ExchangeId) -> &mut Exchange {
        let exchange = &mut self.list[id.0 as usize];
        debug_assert!(exchange.in_use, "exchange used after its end");
        exchange
    }

    /// Ends an exchange; its buffers stay for the next one.
    pub(crate) fn close(&mut self, id: ExchangeId) {
        let old = &mut self.list[id.0 as usize];
        assert!(old.in_use, "exchange ended twice");
        let mut fresh = Exchange {
            bytes: std::mem::take(&mut old.bytes),
            head: std::mem::take(&mut old.head),
            hop: std::mem::take(&mut old.hop),
            candidates: std::mem::take(&mut old.candidates),
            ..Exchange::default()
        };
        fresh.bytes.clear();
        fresh.hop.clear();
        fresh.candidates.clear();
        *old = fresh;
        self.free.push(id.0);
    }

    /// Exchanges under way.
    pub(crate) fn len(&self) -> usize {
        self.list.len() - self.free.len()
    }
}
