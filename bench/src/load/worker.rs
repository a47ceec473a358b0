//! One load thread: the schedule of intended sends, and the connections that carry them.
//!
//! The order of a turn: arrivals due now join the backlog, free connections take from it, time-outs are
//! looked for, counters are handed over once a second, then readiness is waited for until the next of
//! these is due. What a connection does with an event is in [`super::session`].

use super::generate::Generator;
use super::plan::{Mode, Plan};
use super::session::{Phase, Slot};
use super::stats::{Counts, ErrorClass};
use crate::poll::Poll;
use std::collections::VecDeque;
use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

/// Intended sends that may wait for a connection, per thread; later ones count as `not_sent`.
const BACKLOG_MAX: usize = 1 << 20;
/// Connections being opened at once before the run starts, per thread: less than a listener's backlog.
const PRECONNECT_BURST: usize = 256;
/// The stop flag is looked at this often.
const WAKE_NS: u64 = 50_000_000;
/// Bytes read at once; one buffer per thread.
const READ_SIZE: usize = 256 * 1024;
const SECOND_NS: u64 = 1_000_000_000;

/// What a thread tells the reporter.
#[derive(Debug)]
pub enum Report {
    /// Counters of one second of one thread.
    Second(u64, Box<Counts>),
    /// Counters since the last whole second; the thread is done. Requests still under way are given apart.
    Done(u64, Box<Counts>, u64),
}

pub(super) struct Worker<'a> {
    pub plan: &'a Plan,
    pub poll: Poll,
    pub slots: Vec<Slot>,
    pub idle: VecDeque<u32>,
    pub closed: VecDeque<u32>,
    pub counts: Counts,
    pub generator: Generator,
    pub buffer: Vec<u8>,
    pub timeout_ns: u64,
    pub backoff_ns: u64,
    /// Requests that a connection has.
    pub busy: usize,
    /// Connections whose backoff is running.
    pub backing_off: usize,
    /// No request starts any more.
    pub ending: bool,
    /// Requests that may still start; `u64::MAX`: no bound.
    pub budget: u64,
    backlog: VecDeque<u64>,
    epoch: Instant,
    next_sweep: u64,
}

/// Runs one thread of the plan.
pub fn run(
    plan: &Plan,
    thread: usize,
    barrier: &Barrier,
    stop: &AtomicBool,
    reports: &Sender<Report>,
) -> io::Result<()> {
    let prepared = prepare(plan, thread, stop);
    barrier.wait();
    let mut worker = prepared?;
    worker.run(stop, reports)
}

fn prepare<'a>(plan: &'a Plan, thread: usize, stop: &AtomicBool) -> io::Result<Worker<'a>> {
    if let Some(cpu) = plan.cpu {
        crate::poll::pin(cpu + thread)?;
    }
    let mut worker = Worker::new(plan, thread)?;
    if !plan.new_connection {
        worker.preconnect(stop)?;
    }
    Ok(worker)
}

/// The part of `whole` that one of `threads` takes.
fn share(whole: u64, thread: usize, threads: usize) -> u64 {
    let (thread, threads) = (thread as u64, threads as u64);
    whole / threads + u64::from(thread < whole % threads)
}

impl<'a> Worker<'a> {
    fn new(plan: &'a Plan, thread: usize) -> io::Result<Self> {
        let connections = share(plan.connections as u64, thread, plan.threads) as usize;
        let slots: Vec<_> = (0..connections)
            .map(|index| {
                let number = index * plan.threads + thread;
                let source = (!plan.sources.is_empty()).then(|| plan.sources[number % plan.sources.len()]);
                Slot::new(number % plan.targets.len(), source)
            })
            .collect();
        Ok(Self {
            plan,
            poll: Poll::new()?,
            closed: (0..slots.len() as u32).collect(),
            slots,
            idle: VecDeque::new(),
            counts: Counts::default(),
            generator: Generator::new(plan, thread),
            buffer: vec![0; READ_SIZE],
            timeout_ns: plan.timeout.as_nanos() as u64,
            backoff_ns: plan.connect_backoff.as_nanos() as u64,
            busy: 0,
            backing_off: 0,
            ending: false,
            budget: plan.requests.map_or(u64::MAX, |n| share(n, thread, plan.threads)),
            backlog: VecDeque::new(),
            epoch: Instant::now(),
            next_sweep: 0,
        })
    }

    pub(super) fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Opens every connection before the clock of the run starts.
    fn preconnect(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut waiting = std::mem::take(&mut self.closed);
        let mut opening: Vec<u32> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            opening.retain(|&slot| self.slots[slot as usize].phase == Phase::Connecting);
            while opening.len() < PRECONNECT_BURST
                && let Some(slot) = waiting.pop_front()
            {
                self.connect(slot);
                opening.push(slot);
            }
            if opening.is_empty() && waiting.is_empty() {
                return Ok(());
            }
            self.poll.wait(Some(WAKE_NS))?;
            self.handle_events();
            self.sweep();
        }
        Ok(())
    }

    fn run(&mut self, stop: &AtomicBool, reports: &Sender<Report>) -> io::Result<()> {
        let start = self.now();
        let end = start + self.plan.duration.as_nanos() as u64;
        let mut arrivals = Arrivals::new(self, start);
        let mut second = 0;
        let mut unfinished = 0;
        loop {
            let now = self.now();
            while now >= start + (second + 1) * SECOND_NS {
                let counts = std::mem::take(&mut self.counts);
                // A reporter that is gone ended the run; the stop flag tells.
                let _gone = reports.send(Report::Second(second, Box::new(counts)));
                second += 1;
            }
            if stop.load(Ordering::Relaxed) {
                unfinished = (self.busy + self.backlog.len()) as u64;
                break;
            }
            self.ending |= now >= end || self.budget == 0;
            arrivals.join(self, now);
            self.assign();
            self.sweep();
            if self.ending && self.finished(now, end) {
                break;
            }
            let next_second = start + (second + 1) * SECOND_NS;
            let end_due = if self.ending { u64::MAX } else { end };
            let due = arrivals.next_ns.min(next_second).min(self.next_sweep).min(end_due);
            self.poll.wait(Some(due.saturating_sub(self.now()).min(WAKE_NS)))?;
            self.handle_events();
        }
        for _ in 0..if unfinished == 0 { self.backlog.len() } else { 0 } {
            self.counts.error(ErrorClass::NotSent);
        }
        let counts = std::mem::take(&mut self.counts);
        let _gone = reports.send(Report::Done(second, Box::new(counts), unfinished));
        Ok(())
    }

    /// After the end: whether nothing is under way, or the grace time is over.
    fn finished(&self, now: u64, end: u64) -> bool {
        let none_left = self.slots.iter().all(|s| s.phase == Phase::Dead);
        let nothing_waits = self.backlog.is_empty() || none_left || now > end + self.timeout_ns;
        self.busy == 0 && nothing_waits || now > end + 2 * self.timeout_ns
    }

    /// Free connections take what waits; when saturating, every free connection takes a new request.
    fn assign(&mut self) {
        loop {
            let saturating = self.plan.mode == Mode::Saturate;
            if self.backlog.is_empty() && (!saturating || self.ending || self.budget == 0) {
                return;
            }
            let Some(slot) = self.free_slot() else { return };
            let intended = match self.backlog.pop_front() {
                Some(intended) => intended,
                None => {
                    self.budget -= 1;
                    self.now()
                }
            };
            self.start_request(slot, intended);
        }
    }

    fn free_slot(&mut self) -> Option<u32> {
        while let Some(slot) = self.idle.pop_front() {
            if self.slots[slot as usize].phase == Phase::Idle {
                return Some(slot);
            }
        }
        while let Some(slot) = self.closed.pop_front() {
            if self.slots[slot as usize].phase == Phase::Closed {
                return Some(slot);
            }
        }
        None
    }

    fn handle_events(&mut self) {
        for index in 0..self.poll.len() {
            let ready = self.poll.ready(index);
            self.on_ready(ready);
        }
    }

    /// Looks for connections whose time is over, a fraction of the time-out apart.
    fn sweep(&mut self) {
        let now = self.now();
        if now < self.next_sweep {
            return;
        }
        let step = if self.backing_off > 0 { self.backoff_ns } else { self.timeout_ns };
        self.next_sweep = now + (step / 32).clamp(1_000_000, 100_000_000);
        for slot in 0..self.slots.len() as u32 {
            if now >= self.slots[slot as usize].deadline_ns {
                self.on_deadline(slot);
            }
        }
    }

    /// The next sweep comes no later than `due`.
    pub(super) fn next_sweep_by(&mut self, due: u64) {
        self.next_sweep = self.next_sweep.min(due);
    }

    fn push_backlog(&mut self, intended: u64) {
        if self.backlog.len() < BACKLOG_MAX {
            self.backlog.push_back(intended);
        } else {
            self.counts.error(ErrorClass::NotSent);
        }
    }
}

/// The intended send times of one thread.
struct Arrivals {
    next_ns: u64,
    exact: f64,
    rate: f64,
    poisson: bool,
}

impl Arrivals {
    fn new(worker: &mut Worker<'_>, start: u64) -> Self {
        let Mode::Open { rate, poisson } = worker.plan.mode else {
            return Self { next_ns: u64::MAX, exact: f64::MAX, rate: 0.0, poisson: false };
        };
        let rate = rate / worker.plan.threads as f64;
        // The first gap is random, so that threads do not send in step.
        let first = worker.generator.gap_ns(rate, true).min(1e9 / rate);
        let exact = start as f64 + first;
        Self { next_ns: exact as u64, exact, rate, poisson }
    }

    fn join(&mut self, worker: &mut Worker<'_>, now: u64) {
        while self.next_ns <= now && !worker.ending {
            worker.push_backlog(self.next_ns);
            worker.budget -= 1;
            worker.ending |= worker.budget == 0;
            self.exact += worker.generator.gap_ns(self.rate, self.poisson);
            self.next_ns = self.exact as u64;
        }
        if worker.ending {
            self.next_ns = u64::MAX;
        }
    }
}
