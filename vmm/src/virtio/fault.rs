//! A guest's mistakes, by name, and what a device does about them.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a guest did wrong with a queue. One counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A ring does not lie in memory.
    RingOutsideMemory,
    /// The available index ran ahead by more than the queue holds.
    IndexJump,
    /// A descriptor's or the chain's index is not below the queue size.
    DescriptorIndex,
    /// A chain has more descriptors than the queue, so it meets itself.
    DescriptorLoop,
    /// A buffer does not lie in memory.
    BufferOutsideMemory,
    /// A readable buffer after a writable one.
    ReadAfterWrite,
    /// An indirect table where none may be: not negotiated, nested, or with a next flag.
    IndirectMisplaced,
    /// An indirect table whose length is no number of descriptors or too many.
    IndirectLength,
    /// A chain with more bytes than [`super::queue::MAX_CHAIN_BYTES`].
    ChainTooLong,
    /// A request that lacks its header or its status byte, or whose sizes are not what its type asks.
    RequestShape,
    /// A queue was enabled with an address or size that it cannot have.
    QueueSetup,
    /// The kernel's or host's side of a device failed for good.
    Backend,
}

impl Fault {
    /// All, in the counters' order.
    pub const ALL: [Self; 12] = [
        Self::RingOutsideMemory,
        Self::IndexJump,
        Self::DescriptorIndex,
        Self::DescriptorLoop,
        Self::BufferOutsideMemory,
        Self::ReadAfterWrite,
        Self::IndirectMisplaced,
        Self::IndirectLength,
        Self::ChainTooLong,
        Self::RequestShape,
        Self::QueueSetup,
        Self::Backend,
    ];

    /// The name in counters and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::RingOutsideMemory => "ring_outside_memory",
            Self::IndexJump => "index_jump",
            Self::DescriptorIndex => "descriptor_index",
            Self::DescriptorLoop => "descriptor_loop",
            Self::BufferOutsideMemory => "buffer_outside_memory",
            Self::ReadAfterWrite => "read_after_write",
            Self::IndirectMisplaced => "indirect_misplaced",
            Self::IndirectLength => "indirect_length",
            Self::ChainTooLong => "chain_too_long",
            Self::RequestShape => "request_shape",
            Self::QueueSetup => "queue_setup",
            Self::Backend => "backend",
        }
    }
}

/// Counters of one device, shared by its worker and whoever reports.
#[derive(Debug, Default)]
pub struct Counters {
    faults: [AtomicU64; Fault::ALL.len()],
    /// Kicks that the worker woke up for.
    pub kicks: AtomicU64,
    /// Interrupts sent.
    pub interrupts: AtomicU64,
    /// Requests or packets finished.
    pub requests: AtomicU64,
    /// Bytes moved, both directions.
    pub bytes: AtomicU64,
    /// Requests answered with an error.
    pub errors: AtomicU64,
    /// Packets or bytes thrown away because the other side took none.
    pub dropped: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts a fault.
    pub fn fault(&self, fault: Fault) {
        Self::add(&self.faults[fault as usize], 1);
    }

    /// How often a fault happened.
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize].load(Ordering::Relaxed)
    }

    /// All counters by name; faults only where there were any.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        let plain = [
            ("kicks", &self.kicks),
            ("interrupts", &self.interrupts),
            ("requests", &self.requests),
            ("bytes", &self.bytes),
            ("errors", &self.errors),
            ("dropped", &self.dropped),
        ];
        let plain = plain.into_iter().map(|(name, counter)| (name, counter.load(Ordering::Relaxed)));
        let faults = Fault::ALL.into_iter().map(|f| (f.name(), self.faults(f))).filter(|(_, n)| *n > 0);
        plain.chain(faults).collect()
    }
}
