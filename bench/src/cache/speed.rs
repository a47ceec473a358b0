//! Nanoseconds of lookups: store, route table, ring, key.

use super::{NoWakeup, fill, key, query};
use crate::rng::{Rng, Zipf, mix};
use crate::suite::row::{Better, Case, Row};
use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use sluice_api::placement::{Origin, Site};
use sluice_core::cache::{CacheKey, KeySeed, MethodClass, Scheme, request_key};
use sluice_core::ring::{Ring, RingMember};
use sluice_core::route::RouteTable;
use sluice_proxy::store::{ENTRY_BYTES, Lookup, Store, StoreConfig};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, RwLock};

/// Processor time of this thread, ns.
fn cpu_ns() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e9 + t.tv_nsec as f64
}

/// Nanoseconds per call.
fn ns_each(calls: usize, mut call: impl FnMut(usize)) -> f64 {
    let begin = cpu_ns();
    (0..calls).for_each(&mut call);
    (cpu_ns() - begin) / calls as f64
}

const OBJECTS: u64 = 100_000;
const BODY: usize = 1024;
const CALLS: usize = 400_000;

/// Order of lookups: Zipf over the objects, the same for every subject.
fn order(seed: u64) -> Vec<u32> {
    let zipf = Zipf::new(OBJECTS as usize, 0.9);
    let mut rng = Rng::new(seed);
    (0..CALLS).map(|_| mix(zipf.sample(&mut rng) as u64) as u32 % OBJECTS as u32).collect()
}

/// A hit: lookup, handle, and giving the handle back.
pub fn store_hits(rounds: usize) -> Result<Vec<Row>> {
    let capacity = OBJECTS * (BODY as u64 + 1024) * 2;
    let store = Store::new(StoreConfig { capacity_bytes: capacity, shards: 4 }, Arc::new(NoWakeup))?;
    let moka = moka::sync::Cache::builder()
        .max_capacity(capacity)
        .weigher(|_: &CacheKey, v: &Arc<[u8]>| v.len() as u32)
        .build();
    let quick = quick_cache::sync::Cache::<CacheKey, Arc<[u8]>>::new(2 * OBJECTS as usize);
    for id in 0..OBJECTS {
        fill(&store, key(id), &[1; BODY]);
        moka.insert(key(id), vec![1; BODY].into());
        quick.insert(key(id), vec![1; BODY].into());
    }
    moka.run_pending_tasks();
    let order = order(7);
    let mut case = Case::new("hit, 100,000 objects of 1 KiB, Zipf 0.9", "ns", Better::Lower);
    let mut one = Case::new("hit, one hot key", "ns", Better::Lower);
    for _ in 0..rounds {
        let hit = |k: CacheKey| {
            let found = store.lookup_or_begin(&query(k));
            assert!(matches!(found, Lookup::Hit { .. }));
            black_box(&found);
        };
        case.push("sluice", ns_each(CALLS, |i| hit(key(u64::from(order[i])))));
        case.push("moka", ns_each(CALLS, |i| drop(black_box(moka.get(&key(u64::from(order[i])))))));
        case.push("quick_cache", ns_each(CALLS, |i| drop(black_box(quick.get(&key(u64::from(order[i])))))));
        one.push("sluice", ns_each(CALLS, |_| hit(key(1))));
        one.push("moka", ns_each(CALLS, |_| drop(black_box(moka.get(&key(1))))));
        one.push("quick_cache", ns_each(CALLS, |_| drop(black_box(quick.get(&key(1))))));
    }
    let mut overhead = Case::new("index bytes per stored object, charged", "bytes", Better::Lower);
    overhead.push("sluice", ENTRY_BYTES as f64);
    let mut rows = case.rows("cache", &["moka"]);
    rows.extend(one.rows("cache", &["moka"]));
    rows.extend(overhead.rows("cache", &[]));
    rows.extend(fills(rounds)?);
    Ok(rows)
}

/// A miss that is filled, with an eviction each: everything but the network.
fn fills(rounds: usize) -> Result<Vec<Row>> {
    let store = Store::new(StoreConfig { capacity_bytes: 64 << 20, shards: 4 }, Arc::new(NoWakeup))?;
    let mut next = 0u64;
    let mut case =
        Case::new("fill of 1 KiB with eviction, memcpy of the same beside it", "ns", Better::Lower);
    let (from, mut to) = (vec![3u8; 64 << 20], vec![0u8; 64 << 20]);
    for _ in 0..rounds {
        let calls = CALLS / 4;
        case.push(
            "sluice",
            ns_each(calls, |_| {
                next += 1;
                fill(&store, key(next | 1 << 40), &[1; BODY]);
            }),
        );
        case.push(
            "memcpy",
            ns_each(calls, |i| {
                let at = mix(i as u64) as usize % ((64 << 20) - BODY);
                to[at..at + BODY].copy_from_slice(&from[at..at + BODY]);
                black_box(&to);
            }),
        );
    }
    Ok(case.rows("cache", &["memcpy"]))
}

fn host(n: usize) -> String {
    format!("shop-{n:07}.customers.example")
}

fn site(host: String) -> Site {
    Site { host, routes: vec![], origin: "o".into(), group: "g".into() }
}

fn table(rows: usize) -> Result<RouteTable> {
    let table = RouteTable::new();
    table.upsert_origin(&Origin { name: "o".into(), addresses: vec!["127.0.0.1:80".into()], host: None })?;
    for n in 0..rows {
        table.upsert_site(&site(host(n)))?;
    }
    Ok(table)
}

/// Lookup and change of one row, at several table sizes; a map of the standard library behind a lock beside it.
pub fn routes(rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut memory = Case::new("route table, bytes per simple domain", "bytes", Better::Lower);
    for count in [1_000usize, 100_000, 1_000_000] {
        let table = table(count)?;
        let map: HashMap<String, Arc<Site>> =
            (0..count).map(|n| (host(n), Arc::new(site(host(n))))).collect();
        let map = RwLock::new(map);
        let hosts: Vec<String> = (0..50_000).map(|n| host(mix(n) as usize % count)).collect();
        let mut lookup = Case::new(format!("route lookup, {count} hosts"), "ns", Better::Lower);
        let mut change = Case::new(format!("change of one row among {count}"), "ns", Better::Lower);
        for _ in 0..rounds {
            let of = |i: usize| &hosts[i % hosts.len()];
            let found =
                |i: usize| assert!(black_box(table.lookup(of(i).as_bytes(), b"/index.html")).is_some());
            lookup.push("sluice", ns_each(CALLS / 2, found));
            let read = |i: usize| map.read().is_ok_and(|m| m.get(of(i)).cloned().is_some());
            lookup.push("RwLock<HashMap>", ns_each(CALLS / 2, |i| assert!(black_box(read(i)))));
            let new: Vec<Site> = hosts.iter().take(20_000).map(|h| site(h.clone())).collect();
            change.push("sluice", ns_each(new.len(), |i| drop(black_box(table.upsert_site(&new[i])))));
            let put = |i: usize| {
                map.write().is_ok_and(|mut m| m.insert(new[i].host.clone(), new[i].clone().into()).is_some())
            };
            change.push("RwLock<HashMap>", ns_each(new.len(), |i| assert!(black_box(put(i)))));
        }
        rows.extend(lookup.rows("cache", &["RwLock<HashMap>"]));
        rows.extend(change.rows("cache", &["RwLock<HashMap>"]));
        memory.push(&format!("sluice, {count} hosts"), table.stats().bytes as f64 / count as f64);
    }
    rows.extend(memory.rows("cache", &[]));
    Ok(rows)
}

/// Owner of a key: the ring beside rendezvous hashing, which asks every member.
pub fn ring(rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in [3usize, 128] {
        let members = (0..count).map(|n| RingMember { name: format!("node-{n}"), weight: 100, up: true });
        let ring = Ring::new(members.collect())?;
        let seeds: Vec<u64> = (0..count as u64).map(mix).collect();
        let mut case = Case::new(format!("owner of a key among {count} members"), "ns", Better::Lower);
        let rendezvous = |k: u64| seeds.iter().enumerate().max_by_key(|(_, s)| mix(*s ^ k)).map(|m| m.0);
        for _ in 0..rounds {
            let owned = |i: usize| assert!(black_box(ring.owner(mix(i as u64))).is_some());
            case.push("sluice", ns_each(CALLS, owned));
            case.push(
                "rendezvous",
                ns_each(CALLS, |i| assert!(black_box(rendezvous(mix(i as u64))).is_some())),
            );
        }
        rows.extend(case.rows("cache", &["rendezvous"]));
        let mut bounded =
            Case::new(format!("owner below its load cap among {count} members"), "ns", Better::Lower);
        let loads: Vec<u64> = (0..count as u64).map(|n| mix(n) % 8).collect();
        for _ in 0..rounds {
            bounded.push(
                "sluice",
                ns_each(CALLS / 4, |i| {
                    black_box(ring.pick(mix(i as u64), 125, |m| loads[m]));
                }),
            );
        }
        rows.extend(bounded.rows("cache", &[]));
    }
    let mut case = Case::new("key of a URL of 60 bytes", "ns", Better::Lower);
    let target = b"/static/js/app.3f2a9c.min.js?v=20240301&lang=en";
    for _ in 0..rounds {
        let host: &[u8] = black_box(b"www.a.example");
        case.push(
            "sluice",
            ns_each(CALLS, |_| {
                black_box(request_key(
                    KeySeed::DEFAULT,
                    MethodClass::Get,
                    Scheme::Http,
                    host,
                    black_box(target),
                ));
            }),
        );
    }
    rows.extend(case.rows("cache", &[]));
    Ok(rows)
}
