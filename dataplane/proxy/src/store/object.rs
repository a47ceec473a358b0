//! Stored responses.

use sluice_core::cache::Freshness;
use sluice_uring::arena::{Blob, push_slices};
use sluice_uring::payload::Slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A handle of a stored response; holding it keeps the bytes, whatever happens to the index.
pub type ObjectRef = Arc<Object>;

/// What is known about a response besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Status code.
    pub status: u16,
    /// When it is fresh.
    pub freshness: Freshness,
    /// Last-Modified, seconds since 1970.
    pub last_modified_s: Option<u64>,
    /// Date, seconds since 1970.
    pub date_s: Option<u64>,
    /// Offset and length of the ETag value in the stored head.
    pub etag: Option<(u16, u16)>,
}

const FILLING: u8 = 0;
const COMPLETE: u8 = 1;
const FAILED: u8 = 2;

/// Length not known yet.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// A response, whole or still being filled.
#[derive(Debug)]
pub struct Object {
    meta: ObjectMeta,
    /// Purge generations of the time its fill began.
    pub(super) stamp: Stamp,
    /// Head of a freshened response; otherwise the head lies before the body.
    head: Option<Arc<Blob>>,
    body: Arc<Blob>,
    head_len: u32,
    /// Offset of the body in its blob.
    body_start: u32,
    state: AtomicU8,
    body_len: AtomicU64,
}

/// Generations that must still be current for a stored response to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) all: u64,
    pub(super) host: u64,
}

impl Object {
    pub(super) fn filling(
        meta: ObjectMeta,
        stamp: Stamp,
        blob: Blob,
        head_len: u32,
        body_len: Option<u64>,
    ) -> Self {
        Self {
            meta,
            stamp,
            head: None,
            body: Arc::new(blob),
            head_len,
            body_start: head_len,
            state: AtomicU8::new(FILLING),
            body_len: AtomicU64::new(body_len.unwrap_or(UNKNOWN)),
        }
    }

    /// The same body under a new head.
    pub(super) fn freshened(&self, meta: ObjectMeta, stamp: Stamp, head: Blob) -> Self {
        Self {
            meta,
            stamp,
            head_len: head.len() as u32,
            head: Some(Arc::new(head)),
            body: self.body.clone(),
            body_start: self.body_start,
            state: AtomicU8::new(COMPLETE),
            body_len: AtomicU64::new(self.body_len.load(Ordering::Relaxed)),
        }
    }

    /// Status, freshness, validators.
    pub fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    /// The stored head, contiguous.
    pub fn head(&self) -> &[u8] {
        let blob = self.head.as_ref().unwrap_or(&self.body);
        &blob.chunk_at(0)[..self.head_len as usize]
    }

    /// The ETag value.
    pub fn etag(&self) -> Option<&[u8]> {
        let (at, len) = self.meta.etag?;
        self.head().get(usize::from(at)..usize::from(at) + usize::from(len))
    }

    /// Length of the body: as declared or, once it is complete, as received. `None`: not known yet.
    pub fn body_len(&self) -> Option<u64> {
        Some(self.body_len.load(Ordering::Acquire)).filter(|len| *len != UNKNOWN)
    }

    /// Bytes of the body that can be read now.
    pub fn body_available(&self) -> u64 {
        self.body.len() - u64::from(self.body_start)
    }

    /// The whole body is there.
    pub fn is_complete(&self) -> bool {
        self.state.load(Ordering::Acquire) == COMPLETE
    }

    /// The fill died: no more bytes will come.
    pub fn is_failed(&self) -> bool {
        self.state.load(Ordering::Acquire) == FAILED
    }

    /// Contiguous bytes of the body from `offset`; empty at the end of what is there.
    pub fn body_chunk(&self, offset: u64) -> &[u8] {
        self.body.chunk_at(u64::from(self.body_start) + offset)
    }

    /// Appends the body's bytes `offset..offset + len`, as far as they are there, to a payload. Returns how many.
    pub fn push_body(&self, offset: u64, len: u64, out: &mut Vec<Slice>) -> u64 {
        push_slices(&self.body, u64::from(self.body_start) + offset, len, out)
    }

    /// Somebody beside the index holds it or its bytes: evicting it would free nothing now.
    pub(super) fn is_held(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
            || Arc::strong_count(&self.body) > 1
            || self.head.as_ref().is_some_and(|head| Arc::strong_count(head) > 1)
    }

    pub(super) fn blob(&self) -> &Arc<Blob> {
        &self.body
    }

    /// Bytes this object keeps charged.
    pub(super) fn room(&self) -> u64 {
        self.body.room() + self.head.as_ref().map_or(0, |h| h.room())
    }

    pub(super) fn complete(&self) {
        self.body_len.store(self.body_available(), Ordering::Release);
        self.state.store(COMPLETE, Ordering::Release);
    }

    pub(super) fn fail(&self) {
        self.state.store(FAILED, Ordering::Release);
    }
}
