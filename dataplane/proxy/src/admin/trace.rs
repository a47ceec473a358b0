//! Where a URL would go, and why.

use crate::runtime::Shared;
use crate::store::{Query, Stored, Subscriber};
use sluice_api::proxy_admin::UrlTrace;
use sluice_core::cache::{
    self, CacheKey, FieldSource, KeySeed, MethodClass, RequestControl, Scheme, request_key,
};
use sluice_core::http1::{normalise_authority, write_decimal};

/// A URL taken apart.
pub(super) struct Url {
    /// Normal form, without port.
    host: Vec<u8>,
    /// With the port if it is not 80.
    authority: Vec<u8>,
    /// Path and query.
    target: Vec<u8>,
}

impl Url {
    pub(super) fn key(&self) -> CacheKey {
        request_key(KeySeed::DEFAULT, MethodClass::Get, Scheme::Http, &self.authority, &self.target)
    }

    fn path(&self) -> &[u8] {
        self.target.split(|b| *b == b'?').next().unwrap_or(&self.target)
    }
}

/// Parses `http://host[:port][/path][?query]`.
pub(super) fn parse_url(url: &str) -> Result<Url, String> {
    let rest = url.strip_prefix("http://").ok_or("must start with http://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err("holds a byte that no request target may hold".into());
    }
    let mut host = Vec::new();
    let port = normalise_authority(authority.as_bytes(), &mut host).ok_or("has no valid host")?;
    let mut full = host.clone();
    if let Some(port) = port.filter(|p| *p != 80) {
        full.push(b':');
        write_decimal(u64::from(port), &mut full);
    }
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok(Url { host, authority: full, target: target.into_bytes() })
}

pub(super) fn trace(shared: &Shared, method: Option<&str>, url: &str) -> Result<UrlTrace, (String, String)> {
    let url = parse_url(url).map_err(|m| ("url".to_owned(), m))?;
    let method = method.unwrap_or("GET");
    let table = &shared.published.table;
    let Some(matched) = table.lookup(&url.host, url.path()) else {
        return Err(("url".into(), "no site has this host: the answer is 421".into()));
    };
    let key = url.key();
    let site = table.row_name(&matched).unwrap_or_default();
    let route = table.route_prefix(&matched).unwrap_or_default();
    let mut out = UrlTrace {
        why: vec![format!("host {} matches site {site}", String::from_utf8_lossy(&url.host))],
        route,
        site,
        key: key.to_string(),
        key_hash: key.owner_hash(),
        owners: Vec::new(),
        stored: "uncacheable".into(),
        next_hop: String::new(),
    };
    let origin = table.origin(matched.origin).map_or_else(|| "(removed)".to_owned(), |o| o.name.to_string());
    if !matches!(method, "GET" | "HEAD") {
        out.why.push(format!("{method} is not cached: to the origin"));
        out.next_hop = format!("origin:{origin}");
        return Ok(out);
    }
    if !matched.cache || shared.store.is_none() {
        out.why.push("the route does not store: to the origin".into());
        out.next_hop = format!("origin:{origin}");
        return Ok(out);
    }
    own_or_peer(shared, key, &matched, &origin, &mut out);
    Ok(out)
}

fn own_or_peer(
    shared: &Shared,
    key: CacheKey,
    matched: &sluice_core::route::RouteMatch,
    origin: &str,
    out: &mut UrlTrace,
) {
    let group = shared.published.group();
    if let Some(group) = &group {
        out.owners = group.order(key.owner_hash()).map(|n| n.name.clone()).collect();
        if let Some(peer) = group.order(key.owner_hash()).find(|n| n.up)
            && peer.name != group.own_name
        {
            out.stored = "absent".into();
            out.why.push(format!("{} owns the key", peer.name));
            out.next_hop = format!("peer:{}", peer.name);
            return;
        }
        out.why.push("this member owns the key".into());
    }
    let now = shared.clock.now();
    let query = Query {
        key,
        host_generation: matched.generation,
        now: cache::Now { mono_ms: now.ms(), unix_s: now.unix_s },
        control: RequestControl::default(),
        request: &NoFields as &dyn FieldSource,
        may_fill: true,
        attempt: 0,
        subscriber: Subscriber { worker: u32::MAX, token: 0 },
    };
    let stored = shared.store.as_ref().map_or(Stored::Absent, |s| s.peek(&query));
    let (name, why, local) = match stored {
        Stored::Fresh => ("stored_fresh", "stored and fresh", true),
        Stored::Stale => ("stored_stale", "stored but stale: it is validated", false),
        Stored::Absent => ("absent", "not stored: it is fetched", false),
        Stored::Filling => ("filling", "another request fetches it: this one joins", true),
        Stored::Uncacheable => ("uncacheable", "remembered as uncacheable: it is not stored", false),
    };
    out.stored = name.into();
    out.why.push(why.into());
    let parent = group.and_then(|g| g.parent_order(key.owner_hash()).find(|n| n.up).map(|n| n.name.clone()));
    out.next_hop = match (local, parent) {
        (true, _) => "store".into(),
        (false, Some(parent)) => format!("parent:{parent}"),
        (false, None) => format!("origin:{origin}"),
    };
}

/// A request without fields.
struct NoFields;

impl FieldSource for NoFields {
    fn each(&self, _: sluice_core::http1::FieldId, _: &mut dyn FnMut(&[u8])) {}
    fn each_named(&self, _: &[u8], _: &mut dyn FnMut(&[u8])) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_the_keys_of_their_requests() {
        let key = |url| parse_url(url).unwrap().key();
        assert_eq!(key("http://A.example./x?y"), key("http://a.example:80/x?y"));
        assert_ne!(key("http://a.example:81/"), key("http://a.example/"));
        assert_eq!(key("http://a.example"), key("http://a.example/"));
        for bad in ["https://a/", "a.example/", "http:///x", "http://a/ b", "http://a/#f"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
