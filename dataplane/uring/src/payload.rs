//! Bytes on their way out.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Bytes that may be read by the kernel while anyone holds them.
///
/// # Safety
/// `bytes` returns the same memory with the same content each time until the value is dropped, and `file`
/// names a file whose bytes at that offset are the same ones for as long as the kernel may read them, also
/// after this value was dropped (pages still queued in a socket must not be written again).
pub unsafe trait StableBytes: Send + Sync + 'static {
    /// The bytes.
    fn bytes(&self) -> &[u8];
    /// The file that holds them too, for `sendfile(2)`, and where in it they start.
    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }
}

// SAFETY: a boxed slice never moves its heap memory and is immutable behind an Arc.
unsafe impl StableBytes for Box<[u8]> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A part of shared bytes.
#[derive(Clone)]
pub struct Slice {
    owner: Arc<dyn StableBytes>,
    start: usize,
    len: usize,
}

impl Slice {
    /// `len` bytes of `owner` from `start`.
    ///
    /// # Panics
    /// When the range is not inside the owner's bytes.
    pub fn new(owner: Arc<dyn StableBytes>, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= owner.bytes().len()));
        Self { owner, start, len }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.owner.bytes()[self.start..self.start + self.len]
    }

    /// See [`StableBytes::file`].
    pub fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.owner.file().map(|(fd, offset)| (fd, offset + self.start as u64))
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice({} bytes from {})", self.len, self.start)
    }
}

/// What one send carries: bytes of its own, then shared ones.
#[derive(Debug, Default)]
pub struct Payload {
    /// Goes first.
    pub head: Vec<u8>,
    /// Follows, in order.
    pub body: Vec<Slice>,
}

impl Payload {
    /// Own bytes only.
    pub fn bytes(head: Vec<u8>) -> Self {
        Self { head, body: Vec::new() }
    }

    /// Number of bytes in all.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.iter().map(Slice::len).sum::<usize>()
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.iter().all(Slice::is_empty)
    }

    /// The pieces in order, without the first `skip` bytes.
    pub fn pieces(&self, skip: usize) -> impl Iterator<Item = &[u8]> {
        let mut skip = skip;
        std::iter::once(self.head.as_slice()).chain(self.body.iter().map(Slice::bytes)).filter_map(
            move |piece| {
                let cut = skip.min(piece.len());
                skip -= cut;
                (cut < piece.len()).then(|| &piece[cut..])
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_skip_what_was_sent() {
        let owner: Arc<dyn StableBytes> = Arc::new(b"0123456789".to_vec().into_boxed_slice());
        let payload = Payload {
            head: b"ab".to_vec(),
            body: vec![Slice::new(owner.clone(), 2, 3), Slice::new(owner, 9, 1)],
        };
        assert_eq!(payload.len(), 6);
        for skip in 0..=6 {
            let rest: Vec<u8> = payload.pieces(skip).flatten().copied().collect();
            assert_eq!(rest, &b"ab2349"[skip..]);
        }
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn a_slice_outside_its_owner_is_refused() {
        let _ = Slice::new(Arc::new(vec![0u8; 4].into_boxed_slice()), 3, 2);
    }
}
