//! The block device (VIRTIO 1.2, 5.2) over a raw image or a block device of the host.
//!
//! One queue, one worker thread, one io_uring: the thread sleeps in a single system call that ends at a kick, a stop or
//! a completion. Requests go to the file in the order of the queue and finish in any order. Formats other than raw are
//! out on purpose: format code is where the peers lost data.

mod file;
mod request;
mod worker;

pub use file::{DiskError, DiskFile};

use super::device::{Device, F_COMMON, Kind, Start};
use super::fault::{Counters, Fault};
use super::queue::MAX_SIZE;
use super::worker::Worker;
use std::io;
use std::sync::Arc;

/// Sectors are 512 bytes whatever the block size is (5.2.4).
pub const SECTOR: u64 = 512;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;
/// Most sectors of one discard or write-zeroes: 1 GiB, so that one request cannot occupy the file for minutes.
const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// The device.
#[derive(Debug)]
pub struct Block {
    id: String,
    disk: Arc<DiskFile>,
    features: u64,
    config: [u8; 60],
    counters: Arc<Counters>,
    worker: Option<Worker>,
}

impl Block {
    /// A device over `disk`, whose serial number is `id`.
    pub fn new(id: &str, disk: DiskFile) -> Self {
        let mut config = [0; 60];
        config[..8].copy_from_slice(&(disk.size() / SECTOR).to_le_bytes());
        // A request has a header and a status besides its data.
        config[12..16].copy_from_slice(&(u32::from(MAX_SIZE) - 2).to_le_bytes());
        config[20..24].copy_from_slice(&disk.block_size().to_le_bytes());
        config[34..36].copy_from_slice(&1_u16.to_le_bytes());
        let alignment = disk.block_size() / SECTOR as u32;
        for (at, value) in
            [(36, MAX_RANGE_SECTORS), (40, 1), (44, alignment), (48, MAX_RANGE_SECTORS), (52, 1)]
        {
            config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        config[56] = u8::from(disk.can_discard());
        let mut features = F_COMMON | F_SEG_MAX | F_BLK_SIZE | F_FLUSH;
        for (bit, offered) in
            [(F_RO, disk.read_only()), (F_DISCARD, disk.can_discard()), (F_WRITE_ZEROES, disk.can_zero())]
        {
            features |= if offered { bit } else { 0 };
        }
        Self {
            id: id.to_owned(),
            disk: Arc::new(disk),
            features,
            config,
            counters: Arc::default(),
            worker: None,
        }
    }

    /// The file behind it.
    pub fn disk(&self) -> &DiskFile {
        &self.disk
    }
}

impl Device for Block {
    fn kind(&self) -> Kind {
        Kind { id: 2, class: [1, 0x80] }
    }
    fn name(&self) -> &str {
        &self.id
    }
    fn features(&self) -> u64 {
        self.features
    }
    fn queue_sizes(&self) -> &[u16] {
        &[MAX_SIZE]
    }
    fn config(&self) -> &[u8] {
        &self.config
    }
    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn start(&mut self, mut start: Start) -> io::Result<()> {
        let Some(line) = start.take_line(0) else { return Ok(()) };
        let mut run = worker::Run::new(&self.id, self.disk.clone(), line, self.counters.clone());
        let (health, ram) = (start.health.clone(), start.ram.clone());
        self.worker = Some(Worker::start(&start.threads, &format!("blk {}", self.id), move |stop| {
            if let Err(fault) = run.until(stop, ram) {
                health.fail(fault);
            }
        })?);
        Ok(())
    }

    fn stop(&mut self) {
        self.worker = None;
    }
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Backend
    }
}
