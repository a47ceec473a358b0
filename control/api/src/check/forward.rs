//! How packets of a VIP reach a backend: the mode and the fields that belong to one mode only.

use super::error::Errors;
use super::limits::NAT_SOURCES_MAX;
use super::names;
use super::types::Forward;
use crate::placement::{Mode, NatSource, Vip};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Checks mode, pool and the mode's own fields of `vips[i]`.
pub(super) fn forward(i: usize, vip: &Vip, e: &mut Errors) -> Option<Forward> {
    let at = |field: &str| format!("vips[{i}].{field}");
    if vip.gue.is_some() && vip.mode != Mode::Gue {
        e.add(at("gue"), "belongs to mode gue only");
    }
    if vip.nat.is_some() && vip.mode != Mode::Nat {
        e.add(at("nat"), "belongs to mode nat only");
    }
    let pool = match (&vip.pool, vip.mode) {
        (None, Mode::Local) => return Some(Forward::Local),
        (Some(_), Mode::Local) => {
            e.add(at("pool"), "a VIP of mode local has no pool");
            return None;
        }
        (None, _) => {
            e.add(at("pool"), "is missing; only mode local has none");
            return None;
        }
        (Some(pool), _) => pool.clone(),
    };
    match vip.mode {
        Mode::Local => None,
        Mode::L2Direct => Some(Forward::L2Direct { pool }),
        Mode::Ipip => Some(Forward::Ipip { pool }),
        Mode::Gue => {
            let port = vip.gue.clone().unwrap_or_default().port;
            if port == 0 {
                e.add(at("gue.port"), "port 0 is no port");
            }
            Some(Forward::Gue { pool, port })
        }
        Mode::Nat => {
            let Some(nat) = &vip.nat else {
                e.add(at("nat"), "is missing; mode nat needs source addresses");
                return None;
            };
            let backend_port = nat.backend_port.unwrap_or(vip.port);
            if backend_port == 0 {
                e.add(at("nat.backend_port"), "port 0 is no port");
            }
            Some(Forward::Nat { pool, backend_port, sources: sources(i, vip, &nat.sources, e) })
        }
    }
}

/// Source addresses by node: each node has some, none is there twice.
fn sources(i: usize, vip: &Vip, raw: &[NatSource], e: &mut Errors) -> BTreeMap<String, Vec<IpAddr>> {
    let at = |n: usize, field: &str| format!("vips[{i}].nat.sources[{n}].{field}");
    let v4 = names::ip(&vip.address).map(|a| a.is_ipv4());
    let mut by_node: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (n, source) in raw.iter().enumerate() {
        if !vip.nodes.contains(&source.node) {
            e.add(at(n, "node"), format!("{:?} is no node of this VIP", source.node));
        }
        let Some(address) = e.take(|| at(n, "address"), names::ip(&source.address)) else { continue };
        if v4.as_ref().is_ok_and(|v4| *v4 != address.is_ipv4()) {
            e.add(at(n, "address"), format!("{address} is not of the family of the VIP"));
        }
        if !seen.insert(address) {
            e.add(at(n, "address"), format!("{address} is there twice"));
        }
        by_node.entry(source.node.clone()).or_default().push(address);
    }
    for node in &vip.nodes {
        let count = by_node.get(node).map_or(0, Vec::len);
        if count == 0 || count > NAT_SOURCES_MAX {
            e.add(
                format!("vips[{i}].nat.sources"),
                format!("{count} addresses for node {node:?} are not within 1..={NAT_SOURCES_MAX}"),
            );
        }
    }
    by_node
}
