//! One fill: its writer, and the readers that wait for it.

use super::{ObjectMeta, ObjectRef};
use sluice_core::cache::{FieldSource, PassReason, Vary};

/// Who is woken: the caller's worker and a token that means something to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscriber {
    /// Index of the worker.
    pub worker: u32,
    /// The worker's own name for the waiting session.
    pub token: u64,
}

/// Tells a waiting session to poll again. Called without a lock held, from the thread that writes the fill.
pub trait Wakeup: Send + Sync {
    /// May be called more often than needed, and after the session is gone.
    fn wake(&self, who: Subscriber);
}

/// Why bytes were not stored. The writer's own client is not concerned: it is answered from upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStored {
    /// Larger than an eighth of the cache, known or grown so.
    TooLarge,
    /// No room could be made.
    Full,
    /// More or fewer bytes than declared.
    Length,
}

/// What a reader learns before the head is there.
#[derive(Debug)]
pub enum FillPoll {
    /// Nothing yet; the subscriber is woken.
    Pending,
    /// The head is there, and the response is for this request. Go on with [`FillReader::poll_body`].
    Ready(ObjectRef),
    /// Look up again, with [`super::Query::attempt`] one higher: the writer died and one reader takes its place, or
    /// the response was for another variant.
    Retry,
    /// The response is not to be shared: go to the next hop for yourself, do not look up again.
    Released(Option<PassReason>),
    /// The writer died and so did its successor.
    Failed,
}

/// What a reader learns about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPoll {
    /// That many bytes of the body are there, more than `seen`.
    Available(u64),
    /// All are seen.
    End,
    /// The fill died; what is there is all that comes.
    Failed,
    /// Nothing new; the subscriber is woken.
    Pending,
}

/// The right and duty to fetch a response for a key. Dropping it without a verdict means the fill died.
#[derive(Debug)]
pub struct FillWriter {
    _p: (),
}

impl FillWriter {
    /// A response head came: reserves room, stores the head, tells the readers. `head` is in stored form, at most
    /// 65,535 bytes. On an error the readers are released and the writer is spent.
    pub fn start(
        self,
        _meta: ObjectMeta,
        _vary: &Vary,
        _request: &dyn FieldSource,
        _head: &[u8],
        _body_len: Option<u64>,
    ) -> Result<BodyWriter, NotStored> {
        unimplemented!()
    }

    /// 304 came for the object being revalidated: new head and freshness, same body.
    pub fn freshen(self, _meta: ObjectMeta, _head: &[u8]) -> Result<ObjectRef, NotStored> {
        unimplemented!()
    }

    /// The response is not to be stored: releases all readers at once. With `remember_ms` other than 0 the key is
    /// remembered as uncacheable for so long, and requests for it neither wait nor fill.
    pub fn uncacheable(self, _reason: PassReason, _remember_ms: u64) {
        unimplemented!()
    }

    /// The next hop failed and the stale object is served instead (RFC 5861 section 4): readers get it too.
    pub fn serve_stale(self) {
        unimplemented!()
    }

    /// Readers waiting now.
    pub fn readers(&self) -> usize {
        unimplemented!()
    }
}

/// Writes the body of a started fill. Dropping it unfinished means the fill died.
#[derive(Debug)]
pub struct BodyWriter {
    _p: (),
}

impl BodyWriter {
    /// Copies body bytes in and wakes the readers that wait for them. On an error the readers are told, and
    /// nothing is stored.
    pub fn append(&mut self, _data: &[u8]) -> Result<(), NotStored> {
        unimplemented!()
    }

    /// The body ended as it should: the object can be found from now on.
    pub fn finish(self) -> Result<ObjectRef, NotStored> {
        unimplemented!()
    }

    /// Readers attached now.
    pub fn readers(&self) -> usize {
        unimplemented!()
    }

    /// Whether to go on when the writer's own client has left: yes while readers are attached, or at most
    /// [`super::CONTINUE_MAX_BYTES`] are missing, or more than half is there already.
    pub fn worth_continuing(&self) -> bool {
        unimplemented!()
    }

    /// The object being written.
    pub fn object(&self) -> &ObjectRef {
        unimplemented!()
    }
}

/// A place in the queue for a fill in flight. Dropping it leaves the queue.
#[derive(Debug)]
pub struct FillReader {
    _p: (),
}

impl FillReader {
    /// Until [`FillPoll::Ready`]. `request` selects the variant.
    pub fn poll(&mut self, _request: &dyn FieldSource) -> FillPoll {
        unimplemented!()
    }

    /// After [`FillPoll::Ready`]; `seen` bytes of the body were taken.
    pub fn poll_body(&mut self, _seen: u64) -> BodyPoll {
        unimplemented!()
    }
}
