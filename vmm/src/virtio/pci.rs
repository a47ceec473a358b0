//! The PCI transport (VIRTIO 1.2, 4.1): modern only, MSI-X only, one 16 KiB BAR.
//!
//! ```text
//! BAR  0x0000 common   0x1000 ISR, 0x1800 device config   0x2000 notify   0x3000 MSI-X table, 0x3c00 pending
//!
//! status:  0 ──ACKNOWLEDGE, DRIVER──► ──FEATURES_OK──► ──DRIVER_OK──► running ──fault──► NEEDS_RESET
//!          ▲                                                             │                  │
//!          └──────────────────────── write of 0: worker stopped, all forgotten ─────────────┘
//! ```
//! Runs on vCPU threads behind the function's lock; data moves on the device's own threads. A guest that writes
//! registers out of order or out of range finds them unchanged.

use super::device::{Device, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Health, Line, Start};
use super::fault::Fault;
use super::queue::{Queue, Setup};
use crate::pci::bus::Function;
use crate::pci::config_space::{ConfigSpace, Identity};
use crate::pci::msix::{ENTRY, Msix};
use crate::ram::GuestRam;
use crate::threads::Threads;
use crate::wiring::Wiring;
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Length of the BAR.
pub const BAR_LEN: u64 = 0x4000;
const COMMON: u64 = 0;
const COMMON_LEN: u64 = 0x40;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x1800;
const DEVICE_LEN: u64 = 0x800;
const NOTIFY: u64 = 0x2000;
const NOTIFY_LEN: u64 = 0x1000;
const NOTIFY_STEP: u64 = 4;
const TABLE: u64 = 0x3000;
const PENDING: u64 = 0x3c00;
const MAX_VECTORS: usize = ((PENDING - TABLE) as usize) / ENTRY;

const VENDOR: u16 = 0x1af4;
const DEVICE_BASE: u16 = 0x1040;
const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;
/// `VIRTIO_PCI_CAP_PCI_CFG`: a window into the BAR from configuration space.
const CFG_PCI: u8 = 5;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 0x40;
const FAILED: u8 = 0x80;
const NO_VECTOR: u16 = 0xffff;

#[derive(Clone, Copy, Debug)]
struct QueueRegisters {
    max: u16,
    size: u16,
    vector: u16,
    enabled: bool,
    desc: u64,
    avail: u64,
    used: u64,
}

impl QueueRegisters {
    fn new(max: u16) -> Self {
        Self { max, size: max, vector: NO_VECTOR, enabled: false, desc: 0, avail: 0, used: 0 }
    }
}

/// A virtio device on the bus.
pub struct VirtioPci {
    device: Box<dyn Device>,
    space: ConfigSpace,
    msix: Msix,
    msix_at: usize,
    window_at: usize,
    wiring: Arc<dyn Wiring>,
    ram: Arc<GuestRam>,
    threads: Arc<Threads>,
    status: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
    kicks: Vec<Arc<EventFd>>,
    /// Base at which the kicks are connected.
    kicks_at: Option<u64>,
    health: Option<Arc<Health>>,
}

impl std::fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtioPci").field("device", &self.device.name()).finish_non_exhaustive()
    }
}

impl VirtioPci {
    /// Puts `device` behind a BAR at `bar`.
    pub fn new(
        device: Box<dyn Device>,
        bar: u64,
        wiring: Arc<dyn Wiring>,
        ram: Arc<GuestRam>,
        threads: Arc<Threads>,
    ) -> io::Result<Self> {
        let kind = device.kind();
        let mut space = ConfigSpace::new(&Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + kind.id,
            class: [kind.class[0], kind.class[1], 0],
            revision: 1,
            subsystem_vendor: VENDOR,
            subsystem: DEVICE_BASE + kind.id,
        });
        space.set_memory_bar(bar, BAR_LEN);
        let queues: Vec<_> = device.queue_sizes().iter().map(|&max| QueueRegisters::new(max)).collect();
        let vectors = queues.len() + 1;
        assert!(vectors <= MAX_VECTORS);
        let msix = Msix::new(wiring.clone(), vectors)?;
        let mut kicks = Vec::with_capacity(queues.len());
        for _ in &queues {
            kicks.push(Arc::new(EventFd::new(EFD_NONBLOCK)?));
        }
        add_window(&mut space, 1, COMMON, COMMON_LEN, None);
        add_window(&mut space, 3, ISR, 1, None);
        add_window(&mut space, 4, DEVICE, DEVICE_LEN, None);
        add_window(&mut space, 2, NOTIFY, NOTIFY_LEN, Some(NOTIFY_STEP as u32));
        let window_at = add_window(&mut space, CFG_PCI, 0, 0, Some(0));
        let mut body = (vectors as u16 - 1).to_le_bytes().to_vec();
        body.extend((TABLE as u32).to_le_bytes());
        body.extend((PENDING as u32).to_le_bytes());
        let msix_at = space.add_capability(CAP_MSIX, &body, &[(3, 0xc0)]);
        Ok(Self {
            device,
            space,
            msix,
            msix_at,
            window_at,
            wiring,
            ram,
            threads,
            status: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queues,
            kicks,
            kicks_at: None,
            health: None,
        })
    }

    /// The device behind the transport.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The status register as the guest reads it.
    pub fn status(&self) -> u8 {
        let broken = self.health.as_ref().is_some_and(|h| h.needs_reset());
        self.status | if broken { NEEDS_RESET } else { 0 }
    }

    /// Stops the worker, as a reset does; for the end of the VM.
    pub fn stop(&mut self) {
        self.reset();
    }

    fn selected(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    fn common_read(&self, offset: u64) -> u32 {
        let queue = self.queues.get(usize::from(self.queue_select));
        let of_queue = |read: fn(&QueueRegisters) -> u64| queue.map_or(0, read);
        let half = |value: u64, high: bool| (if high { value >> 32 } else { value }) as u32;
        match offset {
            0x00 => self.device_feature_select,
            0x04 if self.device_feature_select < 2 => {
                half(self.device.features(), self.device_feature_select == 1)
            }
            0x08 => self.driver_feature_select,
            0x0c if self.driver_feature_select < 2 => {
                half(self.driver_features, self.driver_feature_select == 1)
            }
            0x10 => u32::from(self.config_vector),
            0x12 => self.queues.len() as u32,
            0x14 => u32::from(self.status()),
            0x16 => u32::from(self.queue_select),
            0x18 => of_queue(|q| u64::from(q.size)) as u32,
            0x1a => queue.map_or(u32::from(NO_VECTOR), |q| u32::from(q.vector)),
            0x1c => of_queue(|q| u64::from(q.enabled)) as u32,
            0x1e => u32::from(self.queue_select),
            0x20 | 0x24 => half(of_queue(|q| q.desc), offset == 0x24),
            0x28 | 0x2c => half(of_queue(|q| q.avail), offset == 0x2c),
            0x30 | 0x34 => half(of_queue(|q| q.used), offset == 0x34),
            _ => 0,
        }
    }

    fn common_write(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.device_feature_select = value,
            0x08 => self.driver_feature_select = value,
            0x0c if self.status & FEATURES_OK == 0 => match self.driver_feature_select {
                0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(value),
                1 => self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32,
                _ => {}
            },
            0x10 => self.config_vector = self.known_vector(value),
            0x14 => self.set_status(value as u8),
            0x16 => self.queue_select = value as u16,
            _ => self.queue_write(offset, value),
        }
    }

    /// Registers of the selected queue; they are frozen once it is enabled.
    fn queue_write(&mut self, offset: u64, value: u32) {
        let vector = self.known_vector(value);
        let frozen = self.status & DRIVER_OK != 0;
        let Some(queue) = self.selected().filter(|q| !frozen && !q.enabled) else { return };
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x18 if value.is_power_of_two() && value <= u32::from(queue.max) => queue.size = value as u16,
            0x1a => queue.vector = vector,
            0x1c => queue.enabled = value == 1,
            0x20 => queue.desc = low(queue.desc),
            0x24 => queue.desc = high(queue.desc),
            0x28 => queue.avail = low(queue.avail),
            0x2c => queue.avail = high(queue.avail),
            0x30 => queue.used = low(queue.used),
            0x34 => queue.used = high(queue.used),
            _ => {}
        }
    }

    /// A vector that does not exist reads back as "none": so the driver learns of it.
    fn known_vector(&self, value: u32) -> u16 {
        if (value as usize) < self.msix.count() { value as u16 } else { NO_VECTOR }
    }

    fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        let mut added = value & !self.status & (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
        if added & FEATURES_OK != 0 {
            let offered = self.device.features();
            let ok = self.driver_features & !offered == 0 && self.driver_features & F_VERSION_1 != 0;
            if !ok {
                added &= !(FEATURES_OK | DRIVER_OK);
            }
        }
        self.status |= added;
        if added & DRIVER_OK != 0 {
            if self.status & FEATURES_OK == 0 {
                self.status &= !DRIVER_OK;
            } else {
                self.start();
            }
        }
    }

    fn start(&mut self) {
        let health = Arc::new(Health::new(self.device.counters(), self.msix.event(self.config_vector)));
        self.health = Some(health.clone());
        let mut lines = Vec::with_capacity(self.queues.len());
        for (registers, kick) in self.queues.iter().zip(&self.kicks) {
            if !registers.enabled {
                lines.push(None);
                continue;
            }
            let setup = Setup {
                size: registers.size,
                desc: registers.desc,
                avail: registers.avail,
                used: registers.used,
                event_idx: self.driver_features & F_EVENT_IDX != 0,
                indirect: self.driver_features & F_INDIRECT_DESC != 0,
            };
            match Queue::new(self.ram.clone(), setup) {
                Ok(queue) => {
                    let interrupt = self.msix.event(registers.vector);
                    lines.push(Some(Line { queue, kick: kick.clone(), interrupt }));
                }
                Err(fault) => return health.fail(fault),
            }
        }
        self.connect_kicks();
        let start = Start {
            ram: self.ram.clone(),
            features: self.driver_features,
            lines,
            health: health.clone(),
            threads: self.threads.clone(),
        };
        if self.device.start(start).is_err() {
            health.fail(Fault::Backend);
        }
    }

    fn reset(&mut self) {
        self.device.stop();
        self.disconnect_kicks();
        self.health = None;
        self.status = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueRegisters::new(queue.max);
        }
        for kick in &self.kicks {
            let _ = kick.read();
        }
    }

    fn connect_kicks(&mut self) {
        let Some(base) = self.space.memory_bar() else { return };
        for (i, kick) in self.kicks.iter().enumerate() {
            // Without it kicks exit and are passed on by `bar_write`.
            let _ = self.wiring.connect_kick(base + NOTIFY + NOTIFY_STEP * i as u64, kick);
        }
        self.kicks_at = Some(base);
    }

    fn disconnect_kicks(&mut self) {
        if let Some(base) = self.kicks_at.take() {
            for (i, kick) in self.kicks.iter().enumerate() {
                self.wiring.disconnect_kick(base + NOTIFY + NOTIFY_STEP * i as u64, kick);
            }
        }
    }

    /// Moves the kicks along when the guest moves the BAR of a running device.
    fn follow_bar(&mut self) {
        if self.kicks_at.is_some() && self.kicks_at != self.space.memory_bar() {
            self.disconnect_kicks();
            self.connect_kicks();
        }
    }

    /// Offset and length that the window in configuration space points at, if they are in the BAR.
    fn window_target(&self) -> Option<(u64, usize)> {
        let (offset, len) =
            (self.space.read_u32(self.window_at + 8), self.space.read_u32(self.window_at + 12));
        let fits = matches!(len, 1 | 2 | 4) && u64::from(offset) + u64::from(len) <= BAR_LEN;
        (fits && offset.is_multiple_of(len)).then_some((u64::from(offset), len as usize))
    }

    fn touches_window(&self, offset: usize) -> bool {
        (self.window_at + 16..self.window_at + 20).contains(&offset)
    }
}

/// A virtio capability (4.1.4); says where it begins.
fn add_window(space: &mut ConfigSpace, kind: u8, offset: u64, len: u64, extra: Option<u32>) -> usize {
    let size = 16 + if extra.is_some() { 4 } else { 0 };
    let mut body = vec![size, kind, 0, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((len as u32).to_le_bytes());
    if let Some(extra) = extra {
        body.extend(extra.to_le_bytes());
    }
    let writable: Vec<_> = if kind == CFG_PCI { (8..20).map(|at| (at, 0xff)).collect() } else { vec![] };
    space.add_capability(CAP_VENDOR, &body, &writable)
}

impl Function for VirtioPci {
    fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        if self.touches_window(offset)
            && let Some((at, len)) = self.window_target()
        {
            let mut value = [0; 4];
            self.bar_read(at, &mut value[..len]);
            self.space.write(self.window_at + 16, &value);
        }
        self.space.read(offset, data);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        self.space.write(offset, data);
        if self.touches_window(offset)
            && let Some((at, len)) = self.window_target()
        {
            let mut value = [0; 4];
            self.space.read(self.window_at + 16, &mut value);
            self.bar_write(at, &value[..len]);
        }
        self.msix.set_control(self.space.read_u16(self.msix_at + 2));
        self.follow_bar();
    }

    fn window(&self) -> Option<(u64, u64)> {
        self.space.memory_bar().map(|base| (base, BAR_LEN))
    }

    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..COMMON_LEN => {
                let value = self.common_read(offset).to_le_bytes();
                let n = data.len().min(4);
                data[..n].copy_from_slice(&value[..n]);
            }
            DEVICE..NOTIFY => {
                let config = self.device.config().get((offset - DEVICE) as usize..).unwrap_or_default();
                let n = data.len().min(config.len());
                data[..n].copy_from_slice(&config[..n]);
            }
            TABLE..PENDING => self.msix.read_table((offset - TABLE) as usize, data),
            PENDING..BAR_LEN => self.msix.read_pending((offset - PENDING) as usize, data),
            _ => {}
        }
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        let mut raw = [0; 4];
        let n = data.len().min(4);
        raw[..n].copy_from_slice(&data[..n]);
        match offset {
            COMMON..COMMON_LEN => {
                self.common_write(offset, u32::from_le_bytes(raw));
                if data.len() == 8 {
                    let high = data[4..].first_chunk().map(|b| u32::from_le_bytes(*b)).unwrap_or(0);
                    self.common_write(offset + 4, high);
                }
            }
            NOTIFY..TABLE => {
                if let Some(kick) = self.kicks.get(((offset - NOTIFY) / NOTIFY_STEP) as usize) {
                    let _ = kick.write(1);
                }
            }
            TABLE..PENDING => self.msix.write_table((offset - TABLE) as usize, data),
            _ => {}
        }
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
#[path = "pci_tests.rs"]
mod tests;
