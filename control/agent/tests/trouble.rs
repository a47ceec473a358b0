//! The engine while its ledger or its source is in trouble.

use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use sluice_agent::clock::FakeClock;
use sluice_agent::engine::{Config, Engine, SourceEvent};
use sluice_agent::host::fake::FakeHost;
use sluice_agent::ledger::{Ledger, Opened};
use sluice_api::rest::{DrainKind, DrainRequest};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SITE: &str = include_str!("../../../docs/examples/cdn.yaml");
const HOSTS: &str = include_str!("../../../docs/examples/sites.yaml");
/// More failures than any test outlives.
const ALWAYS: usize = usize::MAX;

/// Memory whose next syncs fail.
#[derive(Debug)]
struct Flaky {
    memory: InMemoryBackend,
    /// Syncs that succeed before any fails.
    skips: Arc<AtomicUsize>,
    failures: Arc<AtomicUsize>,
}

impl StorageBackend for Flaky {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        let spend = |left: usize| left.checked_sub(1);
        if self.skips.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok() {
            return self.memory.sync_data();
        }
        match self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend) {
            Ok(_) => Err(io::Error::other("the disk refuses a sync")),
            Err(_) => self.memory.sync_data(),
        }
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }
}

struct Node {
    engine: Engine<FakeHost>,
    clock: FakeClock,
    skips: Arc<AtomicUsize>,
    failures: Arc<AtomicUsize>,
}

fn file(name: &str, text: &str) -> SourceEvent {
    SourceEvent::File { file: name.into(), text: Ok(text.as_bytes().to_vec()) }
}

fn listing(files: &[&str]) -> SourceEvent {
    SourceEvent::Listing { files: files.iter().map(|f| (*f).to_owned()).collect() }
}

impl Node {
    fn new() -> Node {
        let mut host = FakeHost::new();
        for last in 11..=13 {
            host.add_link(format!("10.2.0.{last}").parse().expect("address"));
        }
        let (skips, failures) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let memory = InMemoryBackend::new();
        let disk = Flaky { memory, skips: Arc::clone(&skips), failures: Arc::clone(&failures) };
        let ledger = Ledger::on(disk).expect("ledger");
        let clock = FakeClock::default();
        let config = Config { node: "front-1".into(), announce: true, with_proxy: true, placements: None };
        let engine = Engine::start(config, Box::new(clock.clone()), ledger, &Opened::default(), host);
        Node { engine: engine.expect("start"), clock, skips, failures }
    }

    /// With both documents in force.
    fn filled() -> Node {
        let mut node = Node::new();
        node.see(vec![
            file("cdn.yaml", SITE),
            file("sites.yaml", HOSTS),
            listing(&["cdn.yaml", "sites.yaml"]),
        ]);
        assert!(node.engine.converged() && node.names() == ["cdn", "sites"]);
        node
    }

    fn see(&mut self, events: Vec<SourceEvent>) {
        self.engine.on_source(events, self.engine.now_us());
    }

    fn skip_syncs(&self, n: usize) {
        self.skips.store(n, Ordering::Relaxed);
    }

    fn fail_syncs(&self, n: usize) {
        self.failures.store(n, Ordering::Relaxed);
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.clock.advance_ms(10);
            self.engine.tick();
        }
    }

    fn names(&self) -> Vec<&str> {
        self.engine.kept().keys().map(String::as_str).collect()
    }

    fn events(&self, kind: &str) -> usize {
        self.engine.events_after(0).iter().filter(|e| e.kind == kind).count()
    }

    fn has_error(&mut self, item: &str) -> bool {
        self.engine.status().errors.iter().any(|e| e.item == item)
    }
}

#[test]
fn documents_refused_by_the_ledger_come_into_force_when_it_works_again() {
    let mut node = Node::new();
    node.fail_syncs(1);
    node.see(vec![file("cdn.yaml", SITE), listing(&["cdn.yaml"])]);
    assert!(node.names().is_empty() && node.has_error("ledger"));
    assert_eq!(node.events("ledger_failed"), 1);
    node.pass(1_000);
    assert_eq!(node.names(), ["cdn"]);
    assert!(node.engine.converged() && !node.has_error("ledger"));
    assert_eq!((node.events("ledger_failed"), node.events("ledger_works")), (1, 1));
}

#[test]
fn a_ledger_that_keeps_failing_is_tried_seldom_and_said_once() {
    let mut node = Node::filled();
    node.fail_syncs(ALWAYS);
    node.see(vec![listing(&["cdn.yaml"])]);
    node.pass(60_000);
    assert_eq!(node.names(), ["cdn", "sites"]);
    let tries = node.engine.stats().agent["ledger_retries"];
    assert!((10..30).contains(&tries), "{tries} tries in a minute");
    assert_eq!(node.events("ledger_failed"), 1);
    node.fail_syncs(0);
    node.pass(6_000);
    assert_eq!(node.names(), ["cdn"], "the removal was not forgotten");
}

#[test]
fn a_drain_that_the_ledger_refuses_is_refused_and_can_be_asked_for_again() {
    let mut node = Node::filled();
    let drain = DrainRequest { kind: DrainKind::Backend, name: "edge/edge-3".into() };
    node.fail_syncs(1);
    assert!(node.engine.drain(&drain, true).is_err());
    assert_eq!(node.events("ledger_failed"), 1);
    let report = node.engine.drain(&drain, true).expect("the ledger is opened again");
    assert_eq!(report.drains.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&drain]));
    assert!(!node.has_error("ledger"));
}

#[test]
fn a_file_renamed_while_the_ledger_refuses_removes_nothing() {
    let mut node = Node::filled();
    node.fail_syncs(4);
    node.see(vec![SourceEvent::Gone { file: "sites.yaml".into() }, file("hosts.yaml", HOSTS)]);
    node.pass(10_000);
    assert_eq!(node.names(), ["cdn", "sites"]);
    assert_eq!(node.engine.kept()["sites"].file, "hosts.yaml");
}

#[test]
fn files_that_come_back_one_by_one_remove_nothing() {
    let all = ["cdn.yaml", "sites.yaml"];
    let ways: [Vec<SourceEvent>; 3] = [
        vec![listing(&[])],
        all.iter().map(|file| SourceEvent::Gone { file: (*file).into() }).collect(),
        vec![listing(&[]), SourceEvent::Unreadable { message: "I/O error".into() }],
    ];
    for emptied in ways {
        let mut node = Node::filled();
        node.see(emptied.clone());
        node.pass(1_000);
        node.see(vec![file("cdn.yaml", SITE)]);
        node.pass(60_000);
        assert_eq!(node.names(), ["cdn", "sites"], "{emptied:?}");
        // Back before the list: nothing was ever gone.
        node.see(vec![file("sites.yaml", HOSTS), listing(&all)]);
        node.pass(1_000);
        assert_eq!((node.names().len(), node.events("document_removed")), (2, 0));
        // A list that names others and not this one is a removal again, after the settle time.
        node.see(vec![listing(&["cdn.yaml"])]);
        assert_eq!(node.names(), ["cdn", "sites"]);
        node.pass(1_000);
        assert_eq!(node.names(), ["cdn"], "{emptied:?}");
    }
}

#[test]
fn nothing_is_converged_while_an_error_stands() {
    let mut node = Node::new();
    // The documents' commit succeeds (two syncs), that of the ids does not.
    for syncs in 1..12 {
        let mut fresh = Node::new();
        fresh.skip_syncs(syncs);
        fresh.fail_syncs(ALWAYS);
        fresh.see(vec![file("cdn.yaml", SITE), listing(&["cdn.yaml"])]);
        if fresh.has_error("backend ids") {
            node = fresh;
            break;
        }
    }
    assert!(node.has_error("backend edge/edge-1") && !node.engine.status().converged);
    assert_eq!(node.engine.status().documents[0].observed_generation, 0, "it is not carried out");
    node.fail_syncs(0);
    node.pass(6_000);
    let status = node.engine.status();
    assert!(status.converged && status.errors.is_empty(), "{status:?}");
    assert_eq!(status.documents[0].observed_generation, 1);
    node.see(vec![SourceEvent::Unreadable { message: "I/O error".into() }]);
    assert!(!node.engine.status().converged);
    node.see(vec![listing(&["cdn.yaml"])]);
    assert!(node.engine.status().converged);
}
