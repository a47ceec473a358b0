//! The placement documents of the lab: two files an operator could have written.
//!
//! `balancer.yaml` holds networks, the pool of nodes and the VIPs; `cache.yaml` the groups, the origin and the
//! site. Each change writes a file anew with the next generation.

use super::plan::{HTTP_PORT, LabPlan, Role, SITE_HOST, VIPS};
use super::state::write_atomically;
use sluice_api::placement::{
    API_VERSION, Backend, BackendState, Document, Group, Health, HealthKind, Member, Mode, Network, Origin,
    Pool, Protocol, Route, Site, Vip,
};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// Name of the pool behind every VIP.
pub const POOL: &str = "nodes";
/// Name of the group of caching nodes.
pub const EDGE_GROUP: &str = "edge";
/// Name of the group above it.
pub const PARENT_GROUP: &str = "parent";
/// Name of the document with the VIPs.
pub const BALANCER: &str = "balancer";
/// Name of the document with groups and sites.
pub const CACHE: &str = "cache";
/// RAM of each node's cache, bytes: below what the keys of the default load need, so that eviction is at work.
const CACHE_BYTES: u64 = 64 << 20;
/// A node is found dead in a second: three probes 200 ms apart, each given that long.
const HEALTH_INTERVAL_MS: u64 = 200;
const HEALTH_FALL: u32 = 3;
const HEALTH_RISE: u32 = 2;
/// Changed slots remember their previous owner this long.
const FLOW_IDLE_MS: u64 = 60_000;

/// The desired state of the lab, as documents.
#[derive(Clone, Debug)]
pub struct LabDocuments {
    nodes: Vec<u8>,
    drained: BTreeSet<u8>,
    generation_balancer: u64,
    generation_cache: u64,
}

impl LabDocuments {
    /// The documents a lab starts with.
    pub fn new(plan: &LabPlan) -> Self {
        LabDocuments {
            nodes: (1..=plan.nodes).collect(),
            drained: BTreeSet::new(),
            generation_balancer: 1,
            generation_cache: 1,
        }
    }

    /// Adds a node to pool and group.
    pub fn add_node(&mut self, node: u8) {
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
            self.next();
        }
    }

    /// Drains a node in pool and group, or brings it back.
    pub fn drain_node(&mut self, node: u8, on: bool) {
        let changed = if on { self.drained.insert(node) } else { self.drained.remove(&node) };
        if changed {
            self.next();
        }
    }

    fn next(&mut self) {
        self.generation_balancer += 1;
        self.generation_cache += 1;
    }

    /// Generation of a document by name.
    pub fn generation(&self, name: &str) -> u64 {
        if name == BALANCER { self.generation_balancer } else { self.generation_cache }
    }

    fn state(&self, node: u8) -> BackendState {
        if self.drained.contains(&node) { BackendState::Drain } else { BackendState::Active }
    }

    /// Networks, pool and VIPs.
    pub fn balancer(&self) -> Document {
        let backend = |n: &u8| Backend {
            name: Role::Node(*n).name(),
            address: Some(Role::Node(*n).v4().to_string()),
            address6: Some(Role::Node(*n).v6().to_string()),
            weight: 100,
            state: self.state(*n),
        };
        Document {
            networks: vec![
                Network { name: "fabric4".into(), cidr: "10.7.0.0/24".into() },
                Network { name: "fabric6".into(), cidr: "fd07::/64".into() },
            ],
            pools: vec![Pool {
                health: Some(Health {
                    interval_ms: HEALTH_INTERVAL_MS,
                    timeout_ms: HEALTH_INTERVAL_MS,
                    rise: HEALTH_RISE,
                    fall: HEALTH_FALL,
                    ..Health::new(HealthKind::Tcp, HTTP_PORT)
                }),
                ..Pool::new(POOL, self.nodes.iter().map(backend).collect())
            }],
            vips: VIPS.iter().map(vip).collect(),
            ..document(BALANCER, self.generation_balancer)
        }
    }

    /// Groups, origin and site.
    pub fn cache(&self) -> Document {
        let member = |role: Role, state| Member {
            name: role.name(),
            address: format!("{}:{HTTP_PORT}", role.v4()),
            weight: 100,
            state,
        };
        let parent = member(Role::Parent, BackendState::Active);
        let group = |name: &str, members: Vec<Member>, parents: Vec<Member>| Group {
            name: name.into(),
            members,
            parents,
            listen: vec![format!("0.0.0.0:{HTTP_PORT}"), format!("[::]:{HTTP_PORT}")],
            cache_bytes: CACHE_BYTES,
            bounded_load_percent: 125,
        };
        let members = self.nodes.iter().map(|n| member(Role::Node(*n), self.state(*n))).collect();
        Document {
            groups: vec![
                group(EDGE_GROUP, members, vec![parent.clone()]),
                group(PARENT_GROUP, vec![parent], Vec::new()),
            ],
            origins: vec![Origin {
                name: "origin".into(),
                addresses: vec![format!("{}:{HTTP_PORT}", Role::Origin.v4())],
                host: None,
            }],
            // The rest (`*`) is served too, so that a curl by address works.
            sites: vec![site(SITE_HOST), site("*")],
            ..document(CACHE, self.generation_cache)
        }
    }

    /// Writes both files; a watcher sees each change in one step.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        for document in [self.balancer(), self.cache()] {
            write_document(dir, &document)?;
        }
        Ok(())
    }
}

/// Writes one document as `NAME.yaml`.
pub fn write_document(dir: &Path, document: &Document) -> io::Result<()> {
    let yaml = serde_norway::to_string(document).map_err(io::Error::other)?;
    write_atomically(&dir.join(format!("{}.yaml", document.name)), yaml.as_bytes())
}

fn document(name: &str, generation: u64) -> Document {
    Document {
        api_version: API_VERSION.into(),
        name: name.into(),
        generation,
        networks: Vec::new(),
        pools: Vec::new(),
        vips: Vec::new(),
        groups: Vec::new(),
        origins: Vec::new(),
        sites: Vec::new(),
    }
}

fn vip(vip: &super::plan::LabVip) -> Vip {
    Vip {
        name: vip.name.into(),
        address: vip.address.to_string(),
        port: vip.port,
        protocol: if vip.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp },
        mode: if vip.mode == "ipip" { Mode::Ipip } else { Mode::L2Direct },
        pool: Some(POOL.into()),
        nodes: vec![Role::Front.name()],
        gue: None,
        nat: None,
        flow_idle_ms: FLOW_IDLE_MS,
        balance: Default::default(),
        announce: false,
    }
}

fn site(host: &str) -> Site {
    Site {
        host: host.into(),
        routes: vec![
            Route { path: "/".into(), origin: None, cache: true, default_ttl_ms: 60_000 },
            Route { path: "/private/".into(), origin: None, cache: false, default_ttl_ms: 0 },
        ],
        origin: "origin".into(),
        group: EDGE_GROUP.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_api::check::{check_set, parse_document};

    fn checked(documents: &LabDocuments) {
        let parse = |d: Document| parse_document(serde_norway::to_string(&d).unwrap().as_bytes()).unwrap();
        let set = [parse(documents.balancer()), parse(documents.cache())];
        check_set(&set).unwrap();
    }

    #[test]
    fn the_documents_are_valid_through_every_change() {
        let mut documents = LabDocuments::new(&LabPlan { prefix: "lab".into(), nodes: 3 });
        checked(&documents);
        documents.add_node(4);
        documents.drain_node(1, true);
        checked(&documents);
        documents.drain_node(1, false);
        checked(&documents);
        assert_eq!(documents.generation(BALANCER), 4);
    }

    #[test]
    fn a_change_that_changes_nothing_takes_no_generation() {
        let mut documents = LabDocuments::new(&LabPlan { prefix: "lab".into(), nodes: 2 });
        documents.drain_node(1, false);
        documents.add_node(2);
        assert_eq!(documents.generation(CACHE), 1);
    }
}
