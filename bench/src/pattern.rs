//! The bytes of an object, as a function of its key and the offset.
//!
//! Every body is a window into one fixed pseudo-random ring. The ring's length is prime, so a body shifted
//! by any power of two (a buffer sent twice, a page skipped) differs from the right one.

use std::sync::OnceLock;

/// Length of the ring, bytes. The largest prime below 64 KiB: fits the L2 cache, so sending costs no
/// memory traffic of its own.
pub const RING_LEN: usize = 65_521;

/// Size of an object whose URL names none, bytes.
pub const DEFAULT_SIZE: u64 = 1024;

static RING: OnceLock<Box<[u8]>> = OnceLock::new();

fn ring() -> &'static [u8] {
    RING.get_or_init(|| {
        let mut rng = crate::rng::Rng::new(0x5175_1ce0);
        (0..RING_LEN).map(|_| (rng.next_u64() >> 56) as u8).collect()
    })
}

/// Where the body of `key` starts in the ring.
pub fn start_of(key: &[u8]) -> usize {
    (hash(key) % RING_LEN as u64) as usize
}

/// FNV-1a, then one mixing round: short keys differ in their low bytes only.
pub fn hash(key: &[u8]) -> u64 {
    let fnv =
        key.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    crate::rng::mix(fnv)
}

/// The longest run of the body at `offset` that is contiguous in memory, at most `max` bytes.
pub fn slice(start: usize, offset: u64, max: usize) -> &'static [u8] {
    let at = (start as u64 + offset) % RING_LEN as u64;
    let tail = &ring()[at as usize..];
    &tail[..tail.len().min(max)]
}

/// Whether `got` is the body of the object starting at `start`, from `offset` on.
pub fn matches(start: usize, mut offset: u64, mut got: &[u8]) -> bool {
    while !got.is_empty() {
        let want = slice(start, offset, got.len());
        if &got[..want.len()] != want {
            return false;
        }
        offset += want.len() as u64;
        got = &got[want.len()..];
    }
    true
}

/// What an `/obj/{key}?size=N` URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Start of the body in the ring.
    pub start: usize,
    /// Length of the body, bytes.
    pub len: u64,
}

/// What the origin answers to `target` (path and query); `None` for anything that is no object.
pub fn expected(target: &str) -> Option<Expected> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = path.strip_prefix("/obj/")?;
    let size = query.split('&').find_map(|p| p.strip_prefix("size="));
    let len = match size {
        Some(text) => text.parse().ok()?,
        None => DEFAULT_SIZE,
    };
    Some(Expected { start: start_of(key.as_bytes()), len })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(key: &str, len: usize) -> Vec<u8> {
        let start = start_of(key.as_bytes());
        let mut out = Vec::new();
        while out.len() < len {
            out.extend_from_slice(slice(start, out.len() as u64, len - out.len()));
        }
        out
    }

    #[test]
    fn bodies_wrap_and_verify() {
        let whole = body("k1", 3 * RING_LEN + 17);
        let start = start_of(b"k1");
        assert!(matches(start, 0, &whole));
        assert!(matches(start, 70_000, &whole[70_000..]));
        assert!(!matches(start, 0, &whole[65_536..]), "a body shifted by 64 KiB must not pass");
        assert!(!matches(start_of(b"k2"), 0, &whole));
        let mut torn = whole;
        torn[100_000] ^= 1;
        assert!(!matches(start, 0, &torn));
    }

    #[test]
    fn expected_reads_key_and_size() {
        assert_eq!(expected("/obj/a?ttl=5&size=77"), Some(Expected { start: start_of(b"a"), len: 77 }));
        assert_eq!(expected("/obj/a").map(|e| e.len), Some(DEFAULT_SIZE));
        assert_eq!(expected("/other/a?size=1"), None);
        assert_eq!(expected("/obj/a?size=x"), None);
    }
}
