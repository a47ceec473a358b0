//! Vary and the keys of variants (RFC 9111 section 4.1).

use super::key::variant_key;
use super::{CacheKey, FieldSource};
use crate::http1::FieldId;
use std::hash::Hasher;

/// More names than this count as `*`: each one multiplies the variants, and the hit ratio falls below use.
pub const VARY_FIELDS_MAX: usize = 8;

/// What a response's Vary says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vary {
    /// Absent or empty: one response for all.
    None,
    /// `*`, a name that is none, or too many names: never matches another request.
    Any,
    /// Selected by these request fields.
    Fields(VarySpec),
}

impl Vary {
    /// Reads the Vary field lines of a response.
    pub fn parse<F: FieldSource + ?Sized>(response: &F) -> Self {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut any = false;
        response.each(FieldId::Vary, &mut |value| {
            for name in value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|n| !n.is_empty()) {
                any |= name == b"*" || !name.iter().all(|b| b.is_ascii_graphic());
                names.push(name.to_ascii_lowercase().into());
            }
        });
        names.sort_unstable();
        names.dedup();
        match names.len() {
            _ if any => Vary::Any,
            0 => Vary::None,
            n if n > VARY_FIELDS_MAX => Vary::Any,
            _ => Vary::Fields(VarySpec { names: names.into() }),
        }
    }
}

/// Names of the selecting request fields: lower case, sorted, without repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VarySpec {
    names: Box<[Box<[u8]>]>,
}

impl VarySpec {
    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter().map(|n| &**n)
    }

    /// Key of the variant this request selects.
    ///
    /// Values are compared after combining lines, without whitespace around list members (section 4.1 allows
    /// both); Accept-Encoding also without case and order of its members. `epoch` tells records apart
    /// that were made before and after a purge.
    pub fn variant_key<F: FieldSource + ?Sized>(
        &self,
        primary: CacheKey,
        epoch: u64,
        request: &F,
    ) -> CacheKey {
        variant_key(primary, epoch, |hash| {
            for name in &self.names {
                hash.write(name);
                hash.write(b":");
                if **name == *b"accept-encoding" {
                    feed_sorted(request, name, hash);
                } else {
                    feed_in_order(request, name, hash);
                }
                // No field value holds a line feed, so names and values cannot run together.
                hash.write(b"\n");
            }
        })
    }
}

fn feed_in_order<F: FieldSource + ?Sized>(request: &F, name: &[u8], hash: &mut impl Hasher) {
    request.each_named(name, &mut |value| {
        for member in value.split(|b| *b == b',') {
            hash.write(member.trim_ascii());
            hash.write(b",");
        }
    });
}

fn feed_sorted<F: FieldSource + ?Sized>(request: &F, name: &[u8], hash: &mut impl Hasher) {
    let mut members: Vec<Vec<u8>> = Vec::new();
    request.each_named(name, &mut |value| {
        let list = value.split(|b| *b == b',').map(|m| m.trim_ascii().to_ascii_lowercase());
        members.extend(list.filter(|m| !m.is_empty()));
    });
    members.sort_unstable();
    for member in members {
        hash.write(&member);
        hash.write(b",");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vary(lines: &[&str]) -> Vary {
        let lines: Vec<_> = lines.iter().map(|l| ("vary", *l)).collect();
        Vary::parse(lines.as_slice())
    }

    fn key(spec: &Vary, request: &[(&str, &str)]) -> CacheKey {
        let Vary::Fields(spec) = spec else { panic!("no fields in {spec:?}") };
        spec.variant_key(CacheKey(7), 1, request)
    }

    #[test]
    fn forms() {
        assert_eq!(vary(&[]), Vary::None);
        assert_eq!(vary(&["", " , "]), Vary::None);
        assert_eq!(vary(&["accept, *"]), Vary::Any);
        assert_eq!(vary(&["a b"]), Vary::Any);
        assert_eq!(vary(&["a,b,c,d,e,f,g,h,i"]), Vary::Any);
        assert_eq!(vary(&["B, a", "b"]), vary(&["a,b"]));
    }

    #[test]
    fn selecting_values() {
        let v = vary(&["Accept-Language"]);
        let base = key(&v, &[("accept-language", "de, en")]);
        assert_eq!(base, key(&v, &[("Accept-Language", "de"), ("accept-language", "en")]));
        assert_eq!(base, key(&v, &[("accept-language", " de ,en"), ("cookie", "x")]));
        assert_ne!(base, key(&v, &[("accept-language", "en, de")]), "order may matter");
        assert_ne!(base, key(&v, &[]), "absent matches only absent");
        let v = vary(&["accept-encoding"]);
        assert_eq!(key(&v, &[("accept-encoding", "gzip, BR")]), key(&v, &[("accept-encoding", "br,gzip")]));
    }

    #[test]
    fn names_and_values_do_not_run_together() {
        let v = vary(&["a, b"]);
        assert_ne!(key(&v, &[("a", "x"), ("b", "")]), key(&v, &[("a", ""), ("b", "x")]));
    }

    #[test]
    fn epoch_and_primary_are_part_of_the_key() {
        let Vary::Fields(spec) = vary(&["a"]) else { panic!() };
        let none: &[(&str, &str)] = &[];
        let k = |primary, epoch| spec.variant_key(CacheKey(primary), epoch, none);
        assert!(k(1, 1) != k(2, 1) && k(1, 1) != k(1, 2));
        assert_eq!(format!("{}", k(1, 1)), "125b5530450fb78634e2a4f44515272f");
    }
}
