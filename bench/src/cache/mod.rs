//! Cache measurements: miss ratios on a synthetic trace, and nanoseconds of lookups.
//!
//! Times are processor time of the measuring thread, so that a busy machine does not count; subjects take turns.

pub mod policy;
pub mod speed;
pub mod trace;

use crate::suite::row::{Better, Case, Row};
use anyhow::Result;
use policy::{Outcome, Policy};
use sluice_core::cache::{CacheKey, Freshness, Now, RequestControl, Vary};
use sluice_proxy::store::{Lookup, ObjectMeta, Query, Store, StoreConfig, Subscriber, Wakeup};
use std::sync::Arc;
use trace::Trace;

/// Nobody waits in these measurements.
#[derive(Debug)]
pub struct NoWakeup;

impl Wakeup for NoWakeup {
    fn wake(&self, _who: Subscriber) {}
}

/// No request fields.
pub const NO_FIELDS: &[(&str, &str)] = &[];

/// A plain GET for a key.
pub fn query(key: CacheKey) -> Query<'static> {
    Query {
        key,
        host_generation: 1,
        now: Now::default(),
        control: RequestControl::default(),
        request: &NO_FIELDS,
        may_fill: true,
        attempt: 0,
        subscriber: Subscriber { worker: 0, token: 0 },
    }
}

/// A 200 that stays fresh.
pub fn meta() -> ObjectMeta {
    let freshness = Freshness {
        lifetime_ms: u64::MAX,
        received_mono_ms: 0,
        initial_age_s: 0,
        stale_while_revalidate_s: 0,
        stale_if_error_s: 0,
        always_validate: false,
        never_stale: false,
    };
    ObjectMeta { status: 200, freshness, last_modified_s: None, date_s: None, etag: None }
}

/// A key like those of real URLs: all bits spread.
pub fn key(id: u64) -> CacheKey {
    let high = crate::rng::mix(id.wrapping_add(0x1234_5678));
    CacheKey(u128::from(high) << 64 | u128::from(crate::rng::mix(high ^ id)))
}

/// Stores `body` under a key; `false` if it was passed through.
pub fn fill(store: &Arc<Store>, key: CacheKey, body: &[u8]) -> bool {
    let Lookup::Begin(writer) = store.lookup_or_begin(&query(key)) else { return false };
    fill_begun(writer, body)
}

fn fill_begun(writer: sluice_proxy::store::FillWriter, body: &[u8]) -> bool {
    let head = [b'h'; 300];
    let Ok(mut writer) = writer.start(meta(), &Vary::None, &NO_FIELDS, &head, Some(body.len() as u64)) else {
        return false;
    };
    writer.append(body).is_ok() && writer.finish().is_ok()
}

/// The real store on the trace: its capacity covers heads and index too, unlike that of the policies beside it.
fn store_outcome(trace: &Trace, capacity: u64) -> Result<(Outcome, f64)> {
    let store = Store::new(StoreConfig { capacity_bytes: capacity, shards: 4 }, Arc::new(NoWakeup))?;
    let body = vec![7u8; trace::SIZE_MAX as usize];
    let mut outcome = Outcome::default();
    for &id in &trace.requests {
        let size = trace.sizes[id as usize];
        let hit = match store.lookup_or_begin(&query(key(u64::from(id)))) {
            Lookup::Hit { .. } => true,
            Lookup::Begin(writer) => {
                fill_begun(writer, &body[..size as usize]);
                false
            }
            _ => false,
        };
        outcome.count(hit, size);
    }
    let stats = store.stats();
    Ok((outcome, stats.bytes as f64 / stats.capacity_bytes as f64))
}

/// Object and byte miss ratios of policies and of the store.
pub fn miss_ratios(requests: usize, seed: u64) -> Result<Vec<Row>> {
    let trace = Trace::new(requests, seed);
    let mut rows = Vec::new();
    let mut used = Case::new("store: share of its memory in use after the trace", "ratio", Better::Higher);
    for percent in [1u64, 10] {
        let capacity = trace.footprint * percent / 100;
        let name = |what: &str| format!("{what} miss ratio, cache {percent} % of the footprint");
        let mut object = Case::new(name("object"), "ratio", Better::Lower);
        let mut byte = Case::new(name("byte"), "ratio", Better::Lower);
        let mut push = |subject: &str, outcome: &Outcome| {
            object.push(subject, outcome.object_miss_ratio());
            byte.push(subject, outcome.byte_miss_ratio());
        };
        let (outcome, full) = store_outcome(&trace, capacity)?;
        push("sluice", &outcome);
        used.push(&format!("sluice, {percent} %"), full);
        for mut policy in policy::all(capacity, &trace) {
            let outcome = run(&mut *policy, &trace);
            push(policy.name(), &outcome);
        }
        rows.extend(object.rows("cache", &["lru"]));
        rows.extend(byte.rows("cache", &["lru"]));
    }
    rows.extend(used.rows("cache", &[]));
    Ok(rows)
}

fn run(policy: &mut dyn Policy, trace: &Trace) -> Outcome {
    let mut outcome = Outcome::default();
    for (at, &id) in trace.requests.iter().enumerate() {
        let size = trace.sizes[id as usize];
        outcome.count(policy.request(at, id, u64::from(size)), size);
    }
    outcome
}
