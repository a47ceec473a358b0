//! The operator's book: the documents as they should be, edits to them, and the bad versions of them that a
//! source may show.
//!
//! Every version the book has ever held is kept, so that a replayed or stale one can be shown again.

use crate::rng::Rng;
use sluice_api::placement::*;
use std::collections::BTreeMap;

/// Nodes that may balance a VIP.
pub const FRONTS: [&str; 2] = ["front1", "front2"];

/// Most VIPs and pools that edits make.
const VIPS_MAX: usize = 6;

/// Most backends of all pools that edits make: fewer than the ids of a simulated node.
const BACKENDS_MAX: usize = 14;

/// Shortest and longest promise of a VIP that edits write. A flow that talks more often than the first keeps
/// its backend whatever the documents say.
pub const FLOW_IDLE_MS: (u64, u64) = (1_000, 30_000);

/// What a version with a number in force and other content is called.
pub const CONFLICT: &str = "bad_conflict";

/// What an edit or a bad version is, for the trace and the counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Name of the document (as its file is named).
    pub document: String,
    /// The bytes of the file.
    pub bytes: Vec<u8>,
    /// What was done, as a counter name.
    pub what: &'static str,
}

/// All documents, and all they ever were.
#[derive(Clone, Debug)]
pub struct Book {
    newest: BTreeMap<String, Document>,
    versions: BTreeMap<(String, u64), Vec<u8>>,
    next_backend: u32,
    next_vip: u32,
    next_site: u32,
}

/// The bytes of a document's file.
pub fn bytes(document: &Document) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(document).expect("a document is plain data");
    text.push(b'\n');
    text
}

fn empty(name: &str) -> Document {
    Document {
        api_version: API_VERSION.to_owned(),
        name: name.to_owned(),
        generation: 1,
        networks: Vec::new(),
        pools: Vec::new(),
        vips: Vec::new(),
        groups: Vec::new(),
        origins: Vec::new(),
        sites: Vec::new(),
    }
}

impl Book {
    /// A site with one network, one pool, one VIP, one group, one origin and one host.
    pub fn new(rng: &mut Rng) -> Self {
        let mut base = empty("base");
        base.networks = vec![
            Network { name: "site".into(), cidr: "10.0.0.0/8".into() },
            Network { name: "site6".into(), cidr: "fd00::/16".into() },
        ];
        base.origins =
            vec![Origin { name: "origin".into(), addresses: vec!["10.9.0.1:80".into()], host: None }];
        let mut book = Self {
            newest: BTreeMap::new(),
            versions: BTreeMap::new(),
            next_backend: 1,
            next_vip: 1,
            next_site: 1,
        };
        let mut edge = empty("edge");
        let backends = (0..rng.between(1, 4)).map(|_| book.backend(rng)).collect();
        let health = Some(Health {
            rise: rng.between(1, 3) as u32,
            fall: rng.between(1, 3) as u32,
            ..Health::new(HealthKind::Tcp, 80)
        });
        edge.pools = vec![Pool { health, ..Pool::new("nodes", backends) }];
        edge.vips = vec![book.vip(rng, "nodes")];
        let mut cdn = empty("cdn");
        cdn.groups = vec![group(rng)];
        cdn.sites = vec![book.site()];
        for document in [base, edge, cdn] {
            book.keep(document);
        }
        book
    }

    /// The documents as they should be.
    pub fn newest(&self) -> &BTreeMap<String, Document> {
        &self.newest
    }

    /// Every version ever written, by name and generation.
    pub fn versions(&self) -> &BTreeMap<(String, u64), Vec<u8>> {
        &self.versions
    }

    fn keep(&mut self, document: Document) {
        self.versions.insert((document.name.clone(), document.generation), bytes(&document));
        self.newest.insert(document.name.clone(), document);
    }

    /// The file of one document, or of all, as they should be.
    pub fn show_newest(&self, rng: &mut Rng) -> Shown {
        let documents: Vec<&Document> = self.newest.values().collect();
        let document = rng.pick(&documents);
        Shown { document: document.name.clone(), bytes: bytes(document), what: "shown_again" }
    }

    /// A right edit: one document gets its next generation.
    pub fn edit(&mut self, rng: &mut Rng) -> Shown {
        let name = if rng.chance(700) { "edge" } else { "cdn" };
        let mut document = self.newest[name].clone();
        document.generation += rng.between(1, 3);
        let what = if name == "edge" {
            self.edit_edge(rng, &mut document)
        } else {
            self.edit_cdn(rng, &mut document)
        };
        self.keep(document.clone());
        Shown { document: name.to_owned(), bytes: bytes(&document), what }
    }

    fn edit_edge(&mut self, rng: &mut Rng, edge: &mut Document) -> &'static str {
        let at = rng.index(edge.pools.len());
        let backends = edge.pools.iter().map(|p| p.backends.len()).sum::<usize>();
        match rng.below(8) {
            0 | 1 if backends < BACKENDS_MAX => {
                let backend = self.backend(rng);
                edge.pools[at].backends.push(backend);
                "edit_backend_added"
            }
            2 if edge.pools[at].backends.len() > 1 => {
                let gone = rng.index(edge.pools[at].backends.len());
                edge.pools[at].backends.remove(gone);
                "edit_backend_removed"
            }
            3 if edge.vips.len() < VIPS_MAX => {
                let name = format!("pool{}", self.next_vip);
                if backends < BACKENDS_MAX - 2 && rng.chance(500) {
                    let backends = (0..rng.between(1, 3)).map(|_| self.backend(rng)).collect();
                    edge.pools.push(Pool::new(name.clone(), backends));
                    edge.vips.push(self.vip(rng, &name));
                } else {
                    let pool = edge.pools[at].name.clone();
                    edge.vips.push(self.vip(rng, &pool));
                }
                "edit_vip_added"
            }
            4 if edge.vips.len() > 1 => {
                let gone = rng.index(edge.vips.len());
                edge.vips.remove(gone);
                let named: Vec<String> = edge.vips.iter().filter_map(|v| v.pool.clone()).collect();
                edge.pools.retain(|p| named.contains(&p.name));
                "edit_vip_removed"
            }
            5 => {
                let backends = &mut edge.pools[at].backends;
                let backend = rng.index(backends.len());
                backends[backend].weight = rng.between(0, 1000) as u32;
                "edit_weight"
            }
            6 => {
                let vip = rng.index(edge.vips.len());
                edge.vips[vip].flow_idle_ms = rng.between(FLOW_IDLE_MS.0, FLOW_IDLE_MS.1);
                "edit_flow_idle"
            }
            _ => {
                let backends = &mut edge.pools[at].backends;
                let backend = rng.index(backends.len());
                backends[backend].state = match backends[backend].state {
                    BackendState::Active => BackendState::Drain,
                    BackendState::Drain => BackendState::Active,
                };
                "edit_drain"
            }
        }
    }

    fn edit_cdn(&mut self, rng: &mut Rng, cdn: &mut Document) -> &'static str {
        match rng.below(4) {
            0 => {
                cdn.sites.push(self.site());
                "edit_site_added"
            }
            1 if cdn.sites.len() > 1 => {
                let gone = rng.index(cdn.sites.len());
                cdn.sites.remove(gone);
                "edit_site_removed"
            }
            2 => {
                let at = rng.index(cdn.sites.len());
                let ttl = rng.between(0, 60_000);
                cdn.sites[at].routes = vec![Route {
                    path: "/".into(),
                    origin: None,
                    cache: rng.chance(500),
                    default_ttl_ms: ttl,
                }];
                "edit_site_changed"
            }
            _ => {
                let members = &mut cdn.groups[0].members;
                let at = rng.index(members.len());
                members[at].weight = rng.between(1, 1000) as u32;
                "edit_member_weight"
            }
        }
    }

    /// Something that must change nothing: stale, conflicting, half-written, or wrong in a field.
    pub fn spoil(&self, rng: &mut Rng) -> Shown {
        let documents: Vec<&Document> = self.newest.values().collect();
        let mut document = (*rng.pick(&documents)).clone();
        let name = document.name.clone();
        let held = document.generation;
        match rng.below(6) {
            0 => {
                let stale: Vec<&Vec<u8>> = self
                    .versions
                    .range((name.clone(), 0)..(name.clone(), held))
                    .map(|(_, text)| text)
                    .collect();
                if stale.is_empty() {
                    return Shown { document: name, bytes: bytes(&document), what: "shown_again" };
                }
                Shown { document: name, bytes: stale[rng.index(stale.len())].clone(), what: "bad_stale" }
            }
            1 => {
                document.networks.push(Network { name: "other".into(), cidr: "192.168.0.0/24".into() });
                Shown { document: name, bytes: bytes(&document), what: CONFLICT }
            }
            2 => {
                document.generation += 1;
                let whole = bytes(&document);
                let cut = rng.between(1, whole.len() as u64 - 3) as usize;
                Shown { document: name, bytes: whole[..cut].to_vec(), what: "bad_torn" }
            }
            3 => {
                document.generation += 1;
                let text = String::from_utf8(bytes(&document)).expect("JSON is UTF-8");
                let text = text.replacen('{', "{\"surprise\": 1,", 1);
                Shown { document: name, bytes: text.into_bytes(), what: "bad_unknown_field" }
            }
            4 => {
                document.generation += 1;
                document.sites.push(Site {
                    host: "lost.test".into(),
                    routes: Vec::new(),
                    origin: "nowhere".into(),
                    group: "cdn".into(),
                });
                Shown { document: name, bytes: bytes(&document), what: "bad_reference" }
            }
            _ => {
                document.generation += 1;
                document.pools.push(Pool::new("empty", Vec::new()));
                Shown { document: name, bytes: bytes(&document), what: "bad_empty_pool" }
            }
        }
    }

    fn backend(&mut self, rng: &mut Rng) -> Backend {
        let n = self.next_backend;
        self.next_backend += 1;
        Backend {
            name: format!("node{n}"),
            address: Some(format!("10.1.{}.{}", n / 250, n % 250 + 1)),
            address6: Some(format!("fd00::1:{n:x}")),
            weight: if rng.chance(600) { 100 } else { rng.between(1, 1000) as u32 },
            state: BackendState::Active,
        }
    }

    fn vip(&mut self, rng: &mut Rng, pool: &str) -> Vip {
        let n = self.next_vip;
        self.next_vip += 1;
        let nodes = match rng.below(3) {
            0 => vec![FRONTS[0].to_owned()],
            1 => vec![FRONTS[1].to_owned()],
            _ => FRONTS.iter().map(|f| (*f).to_owned()).collect(),
        };
        Vip {
            name: format!("vip{n}"),
            address: if rng.chance(300) { format!("fd00::2:{n:x}") } else { format!("10.2.0.{n}") },
            port: *rng.pick(&[80, 443, 53]),
            protocol: *rng.pick(&[Protocol::Tcp, Protocol::Udp]),
            mode: *rng.pick(&[Mode::L2Direct, Mode::Ipip]),
            pool: Some(pool.to_owned()),
            nodes,
            gue: None,
            nat: None,
            flow_idle_ms: rng.between(FLOW_IDLE_MS.0, FLOW_IDLE_MS.1),
            balance: Balance::default(),
            announce: false,
        }
    }

    fn site(&mut self) -> Site {
        let n = self.next_site;
        self.next_site += 1;
        Site { host: format!("h{n}.test"), routes: Vec::new(), origin: "origin".into(), group: "cdn".into() }
    }
}

fn group(rng: &mut Rng) -> Group {
    let member = |n: usize, name: &str| Member {
        name: name.to_owned(),
        address: format!("10.3.0.{}:8080", n + 1),
        weight: 100,
        state: BackendState::Active,
    };
    // A front may be a member too: then its agent supervises a proxy beside its tables.
    let names = ["front1", "node1", "node2"];
    let first = rng.index(2);
    Group {
        name: "cdn".into(),
        members: names[first..].iter().enumerate().map(|(n, name)| member(n, name)).collect(),
        parents: Vec::new(),
        listen: vec!["0.0.0.0:8080".into()],
        cache_bytes: 1 << 20,
        bounded_load_percent: 125,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_api::check::{check_set, parse_document};

    #[test]
    fn edits_are_good_and_generations_grow() {
        for seed in 1..=50 {
            let mut rng = Rng::new(seed);
            let mut book = Book::new(&mut rng);
            for _ in 0..30 {
                let before = book.newest().clone();
                let shown = book.edit(&mut rng);
                assert!(book.newest()[&shown.document].generation > before[&shown.document].generation);
                let checked: Vec<_> = book
                    .newest()
                    .values()
                    .map(|d| parse_document(&bytes(d)).unwrap_or_else(|e| panic!("seed {seed}: {e:?}")))
                    .collect();
                check_set(&checked).unwrap_or_else(|e| panic!("seed {seed} {}: {e:?}", shown.what));
            }
        }
    }

    #[test]
    fn what_is_bad_alone_is_refused_alone() {
        let mut rng = Rng::new(3);
        let mut book = Book::new(&mut rng);
        book.edit(&mut rng);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let shown = book.spoil(&mut rng);
            seen.insert(shown.what);
            let parsed = parse_document(&shown.bytes);
            match shown.what {
                "bad_torn" | "bad_unknown_field" | "bad_empty_pool" => {
                    assert!(parsed.is_err(), "{}", shown.what)
                }
                _ => assert!(parsed.is_ok(), "{}: {parsed:?}", shown.what),
            }
        }
        assert_eq!(seen.len(), 7, "{seen:?}");
    }
}
