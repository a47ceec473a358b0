//! A worker over the simulated ring: what the clock decides, without waiting for it.

use super::{Mode, Setup, Worker};
use crate::config::Published;
use crate::limits::Tuning;
use crate::mailbox::Mailboxes;
use crate::stats::WorkerStats;
use crate::time::Now;
use sluice_uring::sim::{Faults, SimIo, SimNet};
use sluice_uring::{BufGroup, Event, Io};
use std::sync::Arc;
use std::time::Duration;

struct Rig {
    net: SimNet,
    worker: Worker<SimIo>,
    client: SimIo,
    stats: Arc<WorkerStats>,
    closed: bool,
}

impl Rig {
    /// A worker with one client connected.
    fn new() -> Self {
        let net = SimNet::new(1, Faults::default());
        let mut io = net.node("10.0.0.1".parse().unwrap());
        let listener = io.listen(80);
        let stats = Arc::<WorkerStats>::default();
        let setup = Setup {
            tuning: Tuning::default(),
            name: "n".into(),
            published: Arc::new(Published::new()),
            stats: stats.clone(),
            store: None,
            worker: 0,
            mailbox: Mailboxes::new(1).of(0),
        };
        let mut worker = Worker::new(io, setup, Now::default());
        worker.listen(listener);
        let mut client = net.node("10.0.0.2".parse().unwrap());
        let sock = client.connect("10.0.0.1:80".parse().unwrap()).unwrap();
        client.recv(sock, BufGroup::Small);
        let mut this = Self { net, worker, client, stats, closed: false };
        this.run_to(100);
        assert_eq!(this.stats.gauges.connections_open.get(), 1);
        this
    }

    fn now(&self) -> Now {
        Now { us: self.net.now_us(), unix_s: 1_600_000_000 }
    }

    /// Runs until this moment, ms, in steps finer than any timer.
    fn run_to(&mut self, ms: u64) {
        let mut events = Vec::new();
        while self.net.now_us() < ms * 1000 {
            self.net.advance((self.net.now_us() + 10_000).min(ms * 1000));
            self.worker.io().wait(Duration::ZERO, &mut events).unwrap();
            let now = self.now();
            self.worker.turn(now, &mut events, &|| now.us);
            self.client.wait(Duration::ZERO, &mut events).unwrap();
            self.closed |= events.drain(..).any(|e| matches!(e, Event::Eof { .. }));
        }
    }

    fn mode(&mut self, mode: Mode) {
        let now = self.now();
        self.worker.set_mode(mode, now);
    }
}

#[test]
fn a_drain_closes_idle_connections_after_its_grace() {
    let mut rig = Rig::new();
    rig.mode(Mode::Draining);
    rig.run_to(1_000);
    assert!(!rig.closed);
    rig.run_to(1_500);
    assert!(rig.closed);
    assert_eq!(rig.stats.counters.drain_closed.get(), 1);
}

#[test]
fn a_drain_taken_back_gives_idle_connections_their_time_again() {
    let mut rig = Rig::new();
    rig.mode(Mode::Draining);
    rig.run_to(500);
    rig.mode(Mode::Serving);
    let idle_ms = Tuning::default().idle_ms;
    rig.run_to(idle_ms);
    assert!(!rig.closed, "closed by a drain that is over");
    rig.run_to(idle_ms + 1_500);
    assert!(rig.closed);
    assert_eq!((rig.stats.counters.drain_closed.get(), rig.stats.counters.idle_closed.get()), (0, 1));
}
