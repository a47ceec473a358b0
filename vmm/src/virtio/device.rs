//! What a device is to the transport, and what the transport hands it at DRIVER_OK.

use super::fault::{Counters, Fault};
use super::queue::Queue;
use crate::ram::GuestRam;
use crate::threads::Threads;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vmm_sys_util::eventfd::EventFd;

/// VIRTIO_F_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub const F_VERSION_1: u64 = 1 << 32;
/// What every queue here can do.
pub const F_COMMON: u64 = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;

/// What kind a device is on the bus.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Virtio device id (VIRTIO 1.2, 5).
    pub id: u16,
    /// PCI class and subclass.
    pub class: [u8; 2],
}

/// A virtio device.
pub trait Device: Send {
    /// What it is.
    fn kind(&self) -> Kind;
    /// Its name in counters and messages.
    fn name(&self) -> &str;
    /// Features offered.
    fn features(&self) -> u64;
    /// Largest size of each queue.
    fn queue_sizes(&self) -> &[u16];
    /// The device-specific configuration.
    fn config(&self) -> &[u8];
    /// Starts the worker. Called once between resets.
    fn start(&mut self, start: Start) -> io::Result<()>;
    /// Stops the worker and waits for it: afterwards nothing of the device touches guest memory.
    fn stop(&mut self);
    /// Its counters.
    fn counters(&self) -> Arc<Counters>;
}

/// One queue as the worker gets it.
#[derive(Debug)]
pub struct Line {
    /// The queue.
    pub queue: Queue,
    /// The guest's kicks.
    pub kick: Arc<EventFd>,
    /// The queue's interrupt, if the driver gave it a vector.
    pub interrupt: Option<Arc<EventFd>>,
}

impl Line {
    /// Interrupts the guest if it wants to hear of what was pushed.
    pub fn interrupt_if_wanted(&mut self, counters: &Counters) -> Result<(), Fault> {
        if self.queue.wants_interrupt()?
            && let Some(event) = &self.interrupt
        {
            Counters::add(&counters.interrupts, 1);
            event.write(1).map_err(|_| Fault::Backend)?;
        }
        Ok(())
    }

    /// Takes the count of kicks.
    pub fn take_kick(&self, counters: &Counters) {
        if self.kick.read().is_ok() {
            Counters::add(&counters.kicks, 1);
        }
    }
}

/// What the worker of a device is made from.
#[derive(Debug)]
pub struct Start {
    /// Guest memory.
    pub ram: Arc<GuestRam>,
    /// Features that the driver took.
    pub features: u64,
    /// The queues; `None` where the driver enabled none.
    pub lines: Vec<Option<Line>>,
    /// Where faults are reported.
    pub health: Arc<Health>,
    /// How threads are made.
    pub threads: Arc<Threads>,
}

impl Start {
    /// Takes queue `n`, which the device cannot do without.
    pub fn take_line(&mut self, n: usize) -> Option<Line> {
        let line = self.lines.get_mut(n).and_then(Option::take);
        if line.is_none() {
            self.health.fail(Fault::QueueSetup);
        }
        line
    }
}

/// Whether a started device still works. One per start.
#[derive(Debug)]
pub struct Health {
    broken: AtomicBool,
    counters: Arc<Counters>,
    /// Interrupt of a configuration change, which carries the news of a needed reset.
    interrupt: Option<Arc<EventFd>>,
}

impl Health {
    /// A healthy device.
    pub fn new(counters: Arc<Counters>, interrupt: Option<Arc<EventFd>>) -> Self {
        Self { broken: AtomicBool::new(false), counters, interrupt }
    }

    /// The device met `fault`: counts it, asks the driver for a reset. The caller stops working on the queues.
    pub fn fail(&self, fault: Fault) {
        self.counters.fault(fault);
        if !self.broken.swap(true, Ordering::AcqRel)
            && let Some(event) = &self.interrupt
        {
            let _ = event.write(1);
        }
    }

    /// Whether a reset is needed.
    pub fn needs_reset(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}
