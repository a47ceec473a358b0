//! Cache keys: 128 bits of a keyed hash over method class, scheme, host and target.
//!
//! The URL itself is not stored; two URLs share a key with probability 2^-128, and without the seed nobody can
//! look for such a pair offline. Machines of one group use one seed, so that all name the same owner.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

/// Seed of the key hash; the same on all machines of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySeed(pub [u8; 16]);

impl KeySeed {
    /// The seed where none is configured. It is public: SipHash's guarantee against chosen URLs then rests on
    /// the 128 bits alone (2^64 tries for a collision).
    pub const DEFAULT: KeySeed = KeySeed(*b"sluice cache v1\0");
}

/// Key of a stored response.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey(pub u128);

impl CacheKey {
    /// The half that names the owner in the ring.
    #[inline]
    pub const fn owner_hash(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The half that names the place in this machine's tables.
    #[inline]
    pub const fn table_hash(self) -> u64 {
        self.0 as u64
    }
}

impl std::hash::Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.table_hash());
    }
}

impl std::fmt::Display for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Methods that share stored responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodClass {
    /// GET, and HEAD answered from a stored GET (RFC 9111 section 4).
    Get,
}

/// Scheme of the target URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// Key of a request.
///
/// `host` is normalised: lower case, no default port, no trailing dot; another port is part of it
/// (`a.example:8080`). `target` is path and query as sent, byte for byte: origins may tell `%7E` from `~`.
pub fn request_key(
    seed: KeySeed,
    class: MethodClass,
    scheme: Scheme,
    host: &[u8],
    target: &[u8],
) -> CacheKey {
    let mut hash = SipHasher24::new_with_key(&seed.0);
    let class = match class {
        MethodClass::Get => 1u8,
    };
    let scheme = match scheme {
        Scheme::Http => 1u8,
        Scheme::Https => 2u8,
    };
    // The length of the host makes the rest unambiguous. Fixed little-endian bytes: `write_u32` is native.
    let [a, b, c, d] = (host.len() as u32).to_le_bytes();
    hash.write(&[1, class, scheme, 0, a, b, c, d]);
    hash.write(host);
    hash.write(target);
    CacheKey(hash.finish128().as_u128())
}

/// Key of a variant: the key of its URL, the epoch of its Vary record, and what `feed` adds.
pub(super) fn variant_key(primary: CacheKey, epoch: u64, feed: impl FnOnce(&mut SipHasher24)) -> CacheKey {
    let mut hash = SipHasher24::new_with_key(&primary.0.to_le_bytes());
    hash.write(&epoch.to_le_bytes());
    feed(&mut hash);
    CacheKey(hash.finish128().as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two machines must agree: these values are part of the protocol and never change. They were computed by another
    /// implementation of SipHash-2-4-128.
    #[test]
    fn golden_vectors() {
        let cases: [(Scheme, &str, &str, &str); 5] = [
            (Scheme::Http, "a.example", "/", "d5553eca08667fdb6408e12c426c4a77"),
            (Scheme::Http, "a.example", "/x?y=1", "c62edd62bf2649b8e284fa46729bb280"),
            (Scheme::Https, "a.example", "/", "b6fb8b9658e8af05bd46f4d9e1964519"),
            (Scheme::Http, "a.exampl", "e/", "22af850b3c39736d8d20c8f2f3833ff5"),
            (Scheme::Http, "", "", "a5fc928bdae82366363d4063445e7f9e"),
        ];
        for (scheme, host, target, want) in cases {
            let key =
                request_key(KeySeed::DEFAULT, MethodClass::Get, scheme, host.as_bytes(), target.as_bytes());
            assert_eq!(key.to_string(), want, "{host} {target}");
        }
    }

    #[test]
    fn the_seed_changes_every_key() {
        let key = |seed| request_key(seed, MethodClass::Get, Scheme::Http, b"a.example", b"/");
        assert_ne!(key(KeySeed::DEFAULT), key(KeySeed([0; 16])));
    }
}
