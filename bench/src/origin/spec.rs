//! What the query of an object URL asks of the origin.

use crate::pattern;

/// Largest object served, bytes.
pub const SIZE_MAX: u64 = 1 << 40;
/// Longest delay, ms.
pub const DELAY_MAX_MS: u64 = 600_000;

/// How to answer one object request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `size=N`: length of the body, bytes.
    pub size: u64,
    /// Start of the body in the pattern.
    pub start: usize,
    /// `status=N`.
    pub status: u16,
    /// `cc=...` (percent-decoded) or `ttl=S` as `max-age=S`.
    pub cache_control: Option<String>,
    /// `vary=...`.
    pub vary: Option<String>,
    /// `etag=1`: an entity tag over key, size and `v`.
    pub etag: Option<String>,
    /// `lm=1`: a fixed `Last-Modified`.
    pub last_modified: bool,
    /// `delay_ms=N` before the first byte.
    pub delay_ms: u64,
    /// `chunked=1`.
    pub chunked: bool,
    /// `close=1`: `Connection: close` and the connection ends.
    pub close: bool,
    /// `cut=N`: the connection ends after N body bytes.
    pub cut: Option<u64>,
}

/// A query that cannot be carried out; answered 400 with this text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("query parameter {name}: {value:?} is out of range or no number")]
pub struct BadQuery {
    name: String,
    value: String,
}

impl Spec {
    /// Reads `/obj/{key}?query`; `None` when the target is no object.
    pub fn parse(target: &str) -> Option<Result<Self, BadQuery>> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = path.strip_prefix("/obj/")?;
        Some(Self::from_query(key, query))
    }

    fn from_query(key: &str, query: &str) -> Result<Self, BadQuery> {
        let mut spec = Self {
            size: pattern::DEFAULT_SIZE,
            start: pattern::start_of(key.as_bytes()),
            status: 200,
            cache_control: None,
            vary: None,
            etag: None,
            last_modified: false,
            delay_ms: 0,
            chunked: false,
            close: false,
            cut: None,
        };
        let (mut etag, mut version) = (false, String::new());
        for (name, value) in query.split('&').filter_map(|p| p.split_once('=')) {
            match name {
                "size" => spec.size = number(name, value, 0, SIZE_MAX)?,
                "status" => spec.status = number(name, value, 200, 599)? as u16,
                "ttl" => {
                    let ttl = number(name, value, 0, u64::from(u32::MAX))?;
                    spec.cache_control = Some(format!("max-age={ttl}"));
                }
                "cc" => spec.cache_control = Some(field_value(name, value)?),
                "vary" => spec.vary = Some(field_value(name, value)?),
                "etag" => etag = value == "1",
                "v" => version = field_value(name, value)?,
                "lm" => spec.last_modified = value == "1",
                "delay_ms" => spec.delay_ms = number(name, value, 0, DELAY_MAX_MS)?,
                "chunked" => spec.chunked = value == "1",
                "close" => spec.close = value == "1",
                "cut" => spec.cut = Some(number(name, value, 0, SIZE_MAX)?),
                // Others only make the URL another one.
                _ => {}
            }
        }
        if etag {
            spec.etag = Some(format!("\"{:016x}-{}-{version}\"", pattern::hash(key.as_bytes()), spec.size));
        }
        Ok(spec)
    }
}

fn number(name: &str, value: &str, min: u64, max: u64) -> Result<u64, BadQuery> {
    match value.parse() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(BadQuery { name: name.to_owned(), value: value.to_owned() }),
    }
}

/// Percent-decodes into what a field value may hold; anything else would split the response head.
fn field_value(name: &str, value: &str) -> Result<String, BadQuery> {
    let bad = || BadQuery { name: name.to_owned(), value: value.to_owned() };
    let mut out = String::new();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (bytes.next().ok_or_else(bad)?, bytes.next().ok_or_else(bad)?);
                let digit = |b: u8| (b as char).to_digit(16).ok_or_else(bad);
                (digit(high)? * 16 + digit(low)?) as u8
            }
            other => other,
        };
        if !(0x20..0x7f).contains(&decoded) || decoded == b'"' && name == "v" {
            return Err(bad());
        }
        out.push(decoded as char);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(target: &str) -> Spec {
        Spec::parse(target).expect("an object").expect("a good query")
    }

    #[test]
    fn reads_every_parameter() {
        let got = spec(
            "/obj/a?size=5&ttl=9&vary=Accept&etag=1&v=2&delay_ms=3&chunked=1&status=404&lm=1&close=1&cut=2&n=7",
        );
        assert_eq!((got.size, got.status, got.delay_ms, got.cut), (5, 404, 3, Some(2)));
        assert_eq!(got.cache_control.as_deref(), Some("max-age=9"));
        assert_eq!(got.vary.as_deref(), Some("Accept"));
        assert!(got.chunked && got.last_modified && got.close);
        assert_ne!(got.etag, spec("/obj/a?size=5&etag=1&v=3").etag, "the version is part of the tag");
        assert_eq!(
            spec("/obj/a?cc=no-store,+max-age%3D1").cache_control.as_deref(),
            Some("no-store, max-age=1")
        );
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        for query in ["size=x", "size=-1", "status=99", "delay_ms=600001", "cc=a%0d%0aX:+y", "cc=%4", "v=%22"]
        {
            assert!(Spec::parse(&format!("/obj/a?{query}")).expect("an object").is_err(), "{query}");
        }
        assert!(Spec::parse("/elsewhere").is_none());
    }
}
