//! What the origin was asked, shared by its threads.

use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// URLs counted one by one; requests for further ones are in `urls_untracked`.
const URLS_MAX: usize = 200_000;
/// URLs listed when the query names no `top`.
const TOP_DEFAULT: usize = 20;

/// Counters since start. Requests to `/.origin/` are not in them.
#[derive(Debug, Default)]
pub struct Stats {
    /// Requests answered, all kinds.
    pub total: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections closed at once because the table was full.
    pub refused_full: u64,
    /// Connections closed because of a request that could not be read.
    pub malformed: u64,
    status: BTreeMap<u16, u64>,
    methods: BTreeMap<String, u64>,
    urls: HashMap<Box<str>, u64>,
    urls_untracked: u64,
}

impl Stats {
    /// Counts one request.
    pub fn count(&mut self, method: &str, target: &str, status: u16) {
        self.total += 1;
        *self.status.entry(status).or_default() += 1;
        match self.methods.get_mut(method) {
            Some(n) => *n += 1,
            None => _ = self.methods.insert(method.to_owned(), 1),
        }
        if let Some(n) = self.urls.get_mut(target) {
            *n += 1;
        } else if self.urls.len() < URLS_MAX {
            self.urls.insert(target.into(), 1);
        } else {
            self.urls_untracked += 1;
        }
    }

    /// The document at `/.origin/stats?top=N`, the most asked-for URLs first.
    pub fn document(&self, name: &str, query: &str) -> Value {
        let top = query.split('&').find_map(|p| p.strip_prefix("top=")).and_then(|n| n.parse().ok());
        let mut urls: Vec<_> = self.urls.iter().collect();
        urls.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let urls: Vec<_> = urls
            .into_iter()
            .take(top.unwrap_or(TOP_DEFAULT))
            .map(|(url, requests)| json!({ "url": url, "requests": requests }))
            .collect();
        json!({
            "name": name,
            "total": self.total,
            "connections_accepted": self.accepted,
            "connections_open": self.open,
            "refused_full": self.refused_full,
            "malformed": self.malformed,
            "status": self.status,
            "methods": self.methods,
            "urls_distinct": self.urls.len(),
            "urls_untracked": self.urls_untracked,
            "urls": urls,
        })
    }
}
