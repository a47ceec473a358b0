//! The simulated origin: answers by [`super::content`], and remembers who fetched what.

use super::client::ID_FIELD;
use super::content;
use super::wire::{Message, Reader};
use crate::report::{Check, Violation};
use crate::rng::Rng;
use std::collections::BTreeMap;

/// A request that reached the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Client request that caused it, if it carries one.
    pub id: Option<u64>,
    /// Method.
    pub method: String,
    /// Host and path.
    pub url: (String, String),
    /// Received-by names of the Via field, in order.
    pub via: Vec<String>,
}

/// One connection to the origin.
pub struct OriginConnection {
    reader: Reader,
}

impl Default for OriginConnection {
    fn default() -> Self {
        Self { reader: Reader::requests() }
    }
}

/// An answer of the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What was asked.
    pub fetch: Fetch,
    /// Bytes of the response.
    pub bytes: Vec<u8>,
    /// The connection ends after it.
    pub close: bool,
}

impl OriginConnection {
    /// Bytes came: an answer for each request that is whole now.
    pub fn on_bytes(&mut self, bytes: &[u8], rng: &mut Rng) -> Result<Vec<Reply>, Violation> {
        let requests = self
            .reader
            .feed(bytes)
            .map_err(|fault| Violation::new("upstream_requests_are_right", fault.0))?;
        requests.iter().map(|request| reply(request, rng)).collect()
    }
}

fn reply(request: &Message, rng: &mut Rng) -> Result<Reply, Violation> {
    let wrong = |what: &str| {
        Violation::new(
            "upstream_requests_are_right",
            format!("{what}: {:?} {:?}", request.start, request.fields),
        )
    };
    let (method, path) = request.request().ok_or_else(|| wrong("request line"))?;
    let host = request.field("host").ok_or_else(|| wrong("no host"))?;
    let via = request
        .fields
        .iter()
        .filter(|(n, _)| n == "via")
        .flat_map(|(_, v)| v.split(','))
        .map(|hop| hop.trim().split(' ').nth(1).unwrap_or_default().to_owned())
        .collect();
    let fetch = Fetch {
        id: request.field(ID_FIELD).and_then(|v| v.parse().ok()),
        method: method.to_owned(),
        url: (host.to_owned(), path.to_owned()),
        via,
    };
    let (bytes, close) = content::object(host, path).response(method == "HEAD", rng);
    Ok(Reply { fetch, bytes, close: close || request.says_close() })
}

/// All that was fetched in a run.
#[derive(Clone, Debug, Default)]
pub struct Log {
    by_url: BTreeMap<(String, String), u64>,
    posts: BTreeMap<u64, u64>,
}

impl Log {
    /// Note a fetch and check what must hold for each.
    pub fn note(&mut self, fetch: &Fetch, members: &[String]) -> Check {
        at_most_one_peer_hop(fetch, members)?;
        if fetch.method == "GET" {
            *self.by_url.entry(fetch.url.clone()).or_default() += 1;
        }
        if fetch.method == "POST"
            && let Some(id) = fetch.id
        {
            let times = self.posts.entry(id).or_default();
            *times += 1;
            post_is_sent_once(id, *times)?;
        }
        Ok(())
    }

    /// Fetches of a URL with GET.
    pub fn fetches(&self, url: &(String, String)) -> u64 {
        self.by_url.get(url).copied().unwrap_or(0)
    }

    /// URLs fetched with GET.
    pub fn urls(&self) -> impl Iterator<Item = (&(String, String), u64)> {
        self.by_url.iter().map(|(url, n)| (url, *n))
    }
}

/// A request passes at most two members of a group: the one it came to and the owner of its key.
pub fn at_most_one_peer_hop(fetch: &Fetch, members: &[String]) -> Check {
    let passed: Vec<&String> = fetch.via.iter().filter(|hop| members.contains(hop)).collect();
    if passed.len() <= 2 {
        return Ok(());
    }
    Err(Violation::new("at_most_one_peer_hop", format!("{fetch:?} passed {passed:?}")))
}

/// A request that is not safe to repeat is sent on once (RFC 9110 section 9.2.2).
pub fn post_is_sent_once(id: u64, times: u64) -> Check {
    if times <= 1 {
        return Ok(());
    }
    Err(Violation::new("post_is_sent_once", format!("POST {id} reached the origin {times} times")))
}

/// A URL that may be stored is fetched at most `allowed` times.
pub fn fetched_at_most(url: &(String, String), times: u64, allowed: u64) -> Check {
    if times <= allowed {
        return Ok(());
    }
    Err(Violation::new("fetched_at_most", format!("{url:?} was fetched {times} times, {allowed} allowed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(method: &str, via: &[&str]) -> Fetch {
        Fetch {
            id: Some(7),
            method: method.to_owned(),
            url: ("h".into(), "/c1".into()),
            via: via.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    #[test]
    fn each_rule_can_fail() {
        let members = ["m1".to_owned(), "m2".to_owned(), "m3".to_owned()];
        let mut log = Log::default();
        assert_eq!(log.note(&fetch("GET", &["m1", "m2", "parent"]), &members), Ok(()));
        assert!(log.note(&fetch("GET", &["m1", "m2", "m3"]), &members).is_err());
        assert_eq!(log.note(&fetch("POST", &["m1"]), &members), Ok(()));
        assert!(log.note(&fetch("POST", &["m1"]), &members).is_err());
        assert!(fetched_at_most(&fetch("GET", &[]).url, 2, 1).is_err());
    }

    #[test]
    fn answers_what_was_asked_and_reads_via() {
        let mut connection = OriginConnection::default();
        let request = b"GET /c5 HTTP/1.1\r\nHost: h1.test\r\nVia: 1.1 m1, 1.1 m2\r\nX-Sim-Id: 9\r\n\r\n";
        let mut replies = Vec::new();
        for part in request.chunks(5) {
            replies.extend(connection.on_bytes(part, &mut Rng::new(1)).expect("a right request"));
        }
        let object = content::object("h1.test", "/c5");
        assert_eq!(replies.len(), 1);
        assert_eq!(
            (replies[0].fetch.id, replies[0].fetch.via.as_slice()),
            (Some(9), &["m1".into(), "m2".into()][..])
        );
        let mut reader = Reader::responses();
        reader.expect(false);
        let mut got = reader.feed(&replies[0].bytes).expect("right");
        got.extend(reader.end());
        assert_eq!(got[0].body, object.body);
    }
}
