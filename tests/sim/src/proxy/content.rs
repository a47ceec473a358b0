//! What the simulated origin holds: every URL has one body, worked out from its name, so that a client
//! knows the right answer without asking.

use crate::rng::Rng;

/// How the origin frames the body of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection closes.
    Close,
}

/// One URL of the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Host it lives on.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Its bytes.
    pub body: Vec<u8>,
    /// `public, max-age=...` rather than `no-store`.
    pub cacheable: bool,
    /// How the origin frames it.
    pub coding: Coding,
    /// 200 or 404.
    pub status: u16,
}

/// FNV-1a, 64 bits.
fn name_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The object of a URL. Any path has one; its first letter says whether it may be cached (`c`), so that a
/// scenario can choose.
pub fn object(host: &str, path: &str) -> Object {
    let mut rng = Rng::new(name_hash(&format!("{host} {path}")));
    let length = match rng.below(10) {
        0 => 0,
        1..=6 => rng.between(1, 2_000),
        7..=8 => rng.between(2_000, 20_000),
        _ => rng.between(20_000, 100_000),
    };
    let mut body = format!("{host}{path}\n").into_bytes();
    body.truncate(length as usize);
    while body.len() < length as usize {
        body.extend_from_slice(&rng.next().to_le_bytes());
    }
    body.truncate(length as usize);
    let coding = *rng.pick(&[Coding::Length, Coding::Length, Coding::Length, Coding::Chunked, Coding::Close]);
    Object {
        host: host.to_owned(),
        path: path.to_owned(),
        body,
        cacheable: path.starts_with("/c"),
        coding,
        status: if rng.chance(50) { 404 } else { 200 },
    }
}

impl Object {
    /// The response of the origin, and whether the connection ends after it.
    pub fn response(&self, head_only: bool, rng: &mut Rng) -> (Vec<u8>, bool) {
        let reason = if self.status == 200 { "OK" } else { "Not Found" };
        let policy = if self.cacheable { "public, max-age=86400" } else { "no-store" };
        let mut out =
            format!("HTTP/1.1 {} {reason}\r\nCache-Control: {policy}\r\n", self.status).into_bytes();
        match self.coding {
            Coding::Length => {
                out.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).into_bytes());
                if !head_only {
                    out.extend(&self.body);
                }
                (out, false)
            }
            Coding::Chunked => {
                out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                if !head_only {
                    chunked(&self.body, rng, &mut out);
                }
                (out, false)
            }
            Coding::Close => {
                out.extend(b"Connection: close\r\n\r\n");
                if !head_only {
                    out.extend(&self.body);
                }
                (out, true)
            }
        }
    }
}

/// `body` in chunks of random sizes.
pub fn chunked(body: &[u8], rng: &mut Rng, out: &mut Vec<u8>) {
    let mut rest = body;
    while !rest.is_empty() {
        let (part, after) = rest.split_at((rng.between(1, 8_000) as usize).min(rest.len()));
        out.extend(format!("{:x}\r\n", part.len()).into_bytes());
        out.extend(part);
        out.extend(b"\r\n");
        rest = after;
    }
    out.extend(b"0\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::wire::Reader;

    #[test]
    fn a_url_has_one_body_and_its_response_reads_back() {
        let mut rng = Rng::new(1);
        let mut codings = Vec::new();
        for n in 0..200 {
            let object = object("h1.test", &format!("/c{n}"));
            assert_eq!(object, super::object("h1.test", &format!("/c{n}")));
            let (bytes, closes) = object.response(false, &mut rng);
            let mut reader = Reader::responses();
            reader.expect(false);
            let mut got = reader.feed(&bytes).expect("the origin speaks HTTP");
            got.extend(closes.then(|| reader.end()).flatten());
            assert_eq!(got.len(), 1, "{object:?}");
            assert_eq!((got[0].status(), &got[0].body), (Some(object.status), &object.body));
            codings.push(object.coding);
        }
        for coding in [Coding::Length, Coding::Chunked, Coding::Close] {
            assert!(codings.contains(&coding), "{coding:?}");
        }
        assert_ne!(object("a", "/c1").body, object("b", "/c1").body);
    }
}
