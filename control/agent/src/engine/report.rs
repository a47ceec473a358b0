//! What the agent tells: status, documents, statistics.

use super::Engine;
use crate::goal::{Target, pools_balanced};
use crate::host::Host;
use sluice_api::check::types::Pool;
use sluice_api::placement::BackendState;
use sluice_api::proxy_admin::{Answer, Request};
use sluice_api::rest::{BackendStats, DocumentInfo, DocumentList, Healthz, NodeStats, VipStats};
use sluice_api::status::{BackendStatus, DocumentStatus, ItemError, NodeStatus, ProxyStatus, VipStatus};
use sluice_loader::Counters;
use std::collections::BTreeMap;

impl<H: Host> Engine<H> {
    /// Status of the node.
    pub fn status(&mut self) -> NodeStatus {
        let counters = self.host.counters().ok().flatten().unwrap_or_default();
        NodeStatus {
            node: self.config.node.clone(),
            documents: self.document_status(),
            vips: self.vip_status(&counters),
            proxy: self.observed.proxy.as_ref().map(|proxy| ProxyStatus {
                pid: proxy.pid,
                revision: proxy.revision,
                sites: proxy.rows.as_ref().map_or(0, |rows| rows.sites.len() as u64),
                restarts: self.proxy_restarts,
            }),
            errors: self.all_errors(),
            converged: self.converged(),
        }
    }

    fn all_errors(&self) -> Vec<ItemError> {
        let others = self.other_errors.values();
        self.step_errors.iter().chain(&self.made.errors).chain(others).cloned().collect()
    }

    fn document_status(&self) -> Vec<DocumentStatus> {
        let mut out: BTreeMap<String, DocumentStatus> = BTreeMap::new();
        let fresh = |name: &str| DocumentStatus {
            name: name.to_owned(),
            generation: 0,
            observed_generation: 0,
            refused: Vec::new(),
        };
        for (name, kept) in self.ledger.documents() {
            let observed_generation = self.observed_generations.get(name).copied().unwrap_or(0);
            let mut status =
                DocumentStatus { generation: kept.generation, observed_generation, ..fresh(name) };
            status.refused.extend(self.documents.removal_refused.get(name).into_iter().flatten().cloned());
            out.insert(name.clone(), status);
        }
        for (file, refusal) in &self.documents.refused {
            let name = refusal.document.as_deref().unwrap_or(file);
            let status = out.entry(name.to_owned()).or_insert_with(|| fresh(name));
            status.refused.extend(refusal.errors.iter().cloned());
        }
        out.into_values().collect()
    }

    fn vip_status(&self, counters: &Counters) -> Vec<VipStatus> {
        let pools = pools_balanced(&self.config.node, &self.desired);
        let vips = crate::goal::balanced(&self.config.node, &self.desired);
        vips.map(|vip| {
            let pool = vip.pool().and_then(|name| pools.get(name));
            let owners = self.observed.vips.get(&vip.address()).map(|v| v.owners.clone()).unwrap_or_default();
            let backends = pool.map(|pool| self.backend_status(pool, &owners, counters)).unwrap_or_default();
            VipStatus { name: vip.name().to_owned(), address: vip.address().to_string(), backends }
        })
        .collect()
    }

    fn backend_status(&self, pool: &Pool, owners: &[u16], counters: &Counters) -> Vec<BackendStatus> {
        let mut slots: BTreeMap<u16, u32> = BTreeMap::new();
        owners.iter().for_each(|id| *slots.entry(*id).or_default() += 1);
        let total = owners.len().max(1);
        let status = |backend: &sluice_api::check::types::Backend| {
            let id = self.ledger.ids().get(&crate::goal::id_key(pool.name(), backend)).unwrap_or(0);
            let target = Target::Backend { pool: pool.name().to_owned(), name: backend.name().to_owned() };
            let health = match self.targets.get(&target) {
                Some((_, state)) => state.health().name(),
                None => "unknown",
            };
            let drained = backend.state() == BackendState::Drain
                || crate::goal::drained_by_operator(self.ledger.drains(), pool.name(), backend.name());
            let traffic = counters.backends.get(&id).copied().unwrap_or_default();
            let own = if id == 0 { 0 } else { slots.get(&id).copied().unwrap_or(0) };
            BackendStatus {
                name: backend.name().to_owned(),
                health: health.to_owned(),
                state: if drained { "drain" } else { "active" }.to_owned(),
                weight: u32::from(backend.weight()),
                share: f64::from(own) / total as f64,
                packets: traffic.packets,
                bytes: traffic.bytes,
            }
        };
        pool.backends().iter().map(status).collect()
    }

    /// Documents in force.
    pub fn document_list(&self) -> DocumentList {
        let info = |(name, kept): (&String, &crate::ledger::Kept)| {
            let mut items = BTreeMap::new();
            if let Some(d) = self.documents.held.get(name) {
                let counts = [
                    ("networks", d.networks().len()),
                    ("pools", d.pools().len()),
                    ("vips", d.vips().len()),
                    ("groups", d.groups().len()),
                    ("origins", d.origins().len()),
                    ("sites", d.sites().len()),
                ];
                items.extend(counts.map(|(kind, n)| (kind.to_owned(), n as u64)));
            }
            DocumentInfo {
                name: name.clone(),
                generation: kept.generation,
                observed_generation: self.observed_generations.get(name).copied().unwrap_or(0),
                items,
            }
        };
        DocumentList { documents: self.ledger.documents().iter().map(info).collect() }
    }

    /// Text of a document in force.
    pub fn document_text(&self, name: &str) -> Option<Vec<u8>> {
        self.ledger.documents().get(name).map(|kept| kept.text.clone())
    }

    /// Short answer for supervisors.
    pub fn healthz(&self) -> Healthz {
        Healthz {
            node: self.config.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            converged: self.converged(),
        }
    }

    /// Counters and gauges.
    pub fn stats(&mut self) -> NodeStats {
        let mut errors: BTreeMap<String, u64> = BTreeMap::new();
        let counters = self.host.counters().unwrap_or_else(|_| {
            errors.insert("counter_reads_failed".to_owned(), 1);
            None
        });
        let balances = counters.is_some();
        let counters = counters.unwrap_or_default();
        let mut drops: BTreeMap<String, u64> = BTreeMap::new();
        for ((_, reason), packets) in &counters.drops {
            *drops.entry(reason.name().to_owned()).or_default() += packets;
        }
        let proxy = match self.observed.proxy.is_some().then(|| self.host.ask_proxy(&Request::Stats {})) {
            Some(Ok(Answer::Stats(stats))) => Some(stats),
            _ => None,
        };
        let mut agent = self.counts.all();
        agent.extend(errors);
        agent.insert("proxy_restarts".to_owned(), self.proxy_restarts);
        agent.insert("targets".to_owned(), self.targets.len() as u64);
        agent.insert("pools_in_panic".to_owned(), self.made.panics.len() as u64);
        NodeStats {
            node: self.config.node.clone(),
            vips: self.vip_stats(&counters),
            backends: self.backend_stats(&counters),
            drops,
            packet_events: counters.events.iter().map(|(e, n)| (e.name().to_owned(), *n)).collect(),
            flow_table: if balances { self.flow_stats() } else { BTreeMap::new() },
            agent,
            proxy,
        }
    }

    fn flow_stats(&self) -> BTreeMap<String, u64> {
        let swept = self.last_sweep;
        let fields = [
            ("live", swept.live),
            ("expired_last_sweep", swept.expired),
            ("asking_slots", swept.asking_slots),
            ("nat_flows", swept.nat_live),
            ("open_windows", self.windows.len() as u64),
        ];
        fields.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
    }

    fn vip_stats(&self, counters: &Counters) -> Vec<VipStats> {
        let stats = |vip: &std::sync::Arc<sluice_api::check::types::Vip>| {
            let address = vip.address().to_string();
            let pool = vip.pool().and_then(|name| self.desired.pools().get(name));
            let ids = pool.into_iter().flat_map(|pool| {
                pool.backends()
                    .iter()
                    .filter_map(|b| self.ledger.ids().get(&crate::goal::id_key(pool.name(), b)))
            });
            let traffic: Vec<_> = ids.filter_map(|id| counters.backends.get(&id)).collect();
            let drops =
                counters.drops.iter().filter(|((key, _), _)| key.is_some_and(|k| k.to_string() == address));
            VipStats {
                name: vip.name().to_owned(),
                packets: traffic.iter().map(|t| t.packets).sum(),
                bytes: traffic.iter().map(|t| t.bytes).sum(),
                drops: drops.map(|((_, reason), n)| (reason.name().to_owned(), *n)).collect(),
                window_open: self.windows.contains_key(&vip.address()),
                address,
            }
        };
        crate::goal::balanced(&self.config.node, &self.desired).map(stats).collect()
    }

    fn backend_stats(&self, counters: &Counters) -> Vec<BackendStats> {
        let stats = |(id, row): (&u16, &sluice_loader::BackendSpec)| {
            let traffic = counters.backends.get(id).copied().unwrap_or_default();
            let addresses = [row.addr4.map(|a| a.to_string()), row.addr6.map(|a| a.to_string())];
            BackendStats {
                id: *id,
                name: self.backend_name(*id),
                address: addresses.into_iter().flatten().collect::<Vec<_>>().join(","),
                packets: traffic.packets,
                bytes: traffic.bytes,
            }
        };
        self.observed.backends.iter().map(stats).collect()
    }
}
