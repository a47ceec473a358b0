//! How long a change takes the engine, without disk or kernel: 10,000 backends in a pool, 100,000 sites.
//!
//! `cargo run --release -p sluice-agent --example change_time`

use sluice_agent::clock::SystemClock;
use sluice_agent::engine::{Config, Engine, SourceEvent};
use sluice_agent::host::fake::FakeHost;
use sluice_agent::ledger::{Ledger, Opened};
use std::fmt::Write;
use std::time::Instant;

const BACKENDS: u32 = 10_000;
const SITES: u32 = 100_000;

fn pool(generation: u32, weight: u32) -> String {
    let mut text = format!(
        r#"{{"apiVersion":"sluice/v1","name":"pool","generation":{generation},"networks":[{{"name":"n","cidr":"10.0.0.0/8"}}],"vips":[{{"name":"v","address":"192.0.2.1","port":80,"protocol":"tcp","mode":"l2_direct","pool":"p","nodes":["node"]}}],"pools":[{{"name":"p","backends":["#
    );
    for i in 0..BACKENDS {
        let weight = if i == 7 { weight } else { 100 };
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(
            text,
            r#"{comma}{{"name":"b{i}","address":"10.1.{}.{}","weight":{weight}}}"#,
            i / 250,
            i % 250 + 1
        );
    }
    text.push_str("]}]}");
    text
}

fn sites(generation: u32) -> String {
    let mut text = format!(
        r#"{{"apiVersion":"sluice/v1","name":"sites","generation":{generation},"origins":[{{"name":"o","addresses":["10.0.0.1:80"]}}],"groups":[{{"name":"g","listen":["0.0.0.0:80"],"members":[{{"name":"node","address":"10.0.0.2:80"}}]}}],"sites":["#
    );
    for i in 0..SITES {
        let comma = if i == 0 { "" } else { "," };
        let cache = i != 7 || generation.is_multiple_of(2);
        let _ = write!(
            text,
            r#"{comma}{{"host":"s{i}.example","origin":"o","group":"g","routes":[{{"path":"/","cache":{cache}}}]}}"#
        );
    }
    text.push_str("]}");
    text
}

fn extra(generation: u32) -> String {
    format!(
        "apiVersion: sluice/v1\nname: extra\ngeneration: {generation}\nsites:\n  - {{host: one.example, origin: o, group: g, routes: [{{path: /, default_ttl_ms: {generation}}}]}}\n"
    )
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config { node: "node".into(), announce: true, with_proxy: true, placements: None };
    let mut host = FakeHost::new();
    for i in 0..BACKENDS {
        host.add_link(format!("10.1.{}.{}", i / 250, i % 250 + 1).parse()?);
    }
    let ledger = Ledger::on(redb::backends::InMemoryBackend::new())?;
    let mut engine = Engine::start(config, Box::new(SystemClock::start()), ledger, &Opened::default(), host)?;
    let mut put = |what: &str, file: &str, text: String| {
        let bytes = text.len();
        let start = Instant::now();
        engine.on_source(vec![SourceEvent::File { file: file.into(), text: Ok(text.into_bytes()) }], 0);
        println!("{what:<48} {:>10.3} ms  ({bytes} bytes)", start.elapsed().as_secs_f64() * 1e3);
        assert!(
            engine.status().documents.iter().all(|d| d.refused.is_empty()),
            "{:?}",
            engine.status().documents
        );
    };
    put("first pool of 10,000 backends", "pool.json", pool(1, 100));
    for g in 2..5 {
        put("weight of one of 10,000 backends", "pool.json", pool(g, 50 + g));
    }
    put("first 100,000 sites", "sites.json", sites(1));
    for g in 2..5 {
        put("one of 100,000 sites in one document", "sites.json", sites(g));
    }
    for g in 1..5 {
        put("a site in its own document beside 100,000", "extra.yaml", extra(g));
    }
    Ok(())
}
