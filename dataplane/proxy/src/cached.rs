//! What a session keeps while its response comes out of the store, or goes into it.

use crate::exchange::{Candidate, ExchangeId};
use crate::store::{BodyWriter, FillReader, FillWriter, ObjectRef};
use sluice_core::cache::{CacheKey, FieldSource, SitePolicy};
use sluice_core::http1::{FieldId, Method, OutFraming, RequestHead, Version, stored_fields};
use sluice_core::route::RouteMatch;
use sluice_uring::Sock;

/// A request kept while it waits.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) bytes: Vec<u8>,
    pub(crate) head: RequestHead,
    pub(crate) key: CacheKey,
    pub(crate) matched: RouteMatch,
    /// Names in the hop mark it came with.
    pub(crate) hop: Vec<u8>,
    pub(crate) from_peer: bool,
    /// Lookups made for it.
    pub(crate) attempt: u8,
    /// Members to ask before the parents.
    pub(crate) peers: Vec<Candidate>,
}

/// Where a reader's bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The object is whole.
    Whole,
    /// This client's own request fills it.
    Own(ExchangeId),
    /// Another session fills it.
    Joined(FillReader),
}

/// How the body is framed towards the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyOut {
    /// As is.
    Plain,
    /// In chunks.
    Chunked,
    /// As is, and closing ends it.
    UntilClose,
}

impl BodyOut {
    /// As the relay code names it.
    pub(crate) fn framing(self, len: Option<u64>) -> OutFraming {
        match (self, len) {
            (BodyOut::Chunked, _) => OutFraming::Chunked,
            (BodyOut::Plain, Some(len)) => OutFraming::Length(len),
            (BodyOut::Plain | BodyOut::UntilClose, _) => OutFraming::UntilClose,
        }
    }
}

/// A client reading a stored object.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) source: Source,
    /// Absent until the fill has a head.
    pub(crate) object: Option<ObjectRef>,
    /// The request, until the head is sent.
    pub(crate) saved: Option<Box<Saved>>,
    /// Next byte of the body to send.
    pub(crate) at: u64,
    /// Where to stop, if not at the end of the object.
    pub(crate) end: Option<u64>,
    pub(crate) out: BodyOut,
}

/// An upstream response that may go into the store.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) writer: Option<FillWriter>,
    pub(crate) body: Option<BodyWriter>,
    /// The stored response being validated.
    pub(crate) stale: Option<ObjectRef>,
    pub(crate) stale_if_error: bool,
    pub(crate) site: SitePolicy,
    /// Request fields left out, as bits.
    pub(crate) strip: u64,
    /// Condition lines of a revalidation.
    pub(crate) conditions: Vec<u8>,
    /// The upstream answered 304 for something else: asked again without conditions.
    pub(crate) unconditional: bool,
    pub(crate) request_mono_ms: u64,
}

/// Fields of a stored head.
pub(crate) struct StoredHead<'a>(pub(crate) &'a [u8]);

impl FieldSource for StoredHead<'_> {
    fn each(&self, id: FieldId, visit: &mut dyn FnMut(&[u8])) {
        stored_fields(self.0).filter(|(_, _, i)| *i == id).for_each(|(_, value, _)| visit(value));
    }

    fn each_named(&self, name: &[u8], visit: &mut dyn FnMut(&[u8])) {
        stored_fields(self.0)
            .filter(|(n, _, _)| n.eq_ignore_ascii_case(name))
            .for_each(|(_, value, _)| visit(value));
    }
}

/// The token that names a socket to the store.
pub(crate) fn token(sock: Sock) -> u64 {
    u64::from(sock.generation) << 32 | u64::from(sock.index)
}

/// The socket of a token.
pub(crate) fn sock(token: u64) -> Sock {
    Sock { index: token as u32, generation: (token >> 32) as u32 }
}

/// How a body of a length not known yet goes to a client.
pub(crate) fn unknown_length(version: Version) -> BodyOut {
    match version {
        Version::Http11 => BodyOut::Chunked,
        Version::Http10 => BodyOut::UntilClose,
    }
}

/// Whether the store may answer requests of this method.
pub(crate) fn is_cached_method(method: Method) -> bool {
    matches!(method, Method::Get | Method::Head)
}
