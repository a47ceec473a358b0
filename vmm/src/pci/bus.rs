//! Which function answers a configuration or BAR access.
//!
//! Runs on vCPU threads. Each function has its own lock; none is taken while another is held.

use super::config_space::{ConfigSpace, Identity};
use crate::layout::{ECAM, ECAM_SIZE, PCI_WINDOW, PCI_WINDOW_SIZE};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Devices of a bus.
pub const SLOTS: usize = 32;

/// A PCI function with at most one memory BAR.
pub trait Function: Send {
    /// Reads configuration space.
    fn config_read(&mut self, offset: usize, data: &mut [u8]);
    /// Writes configuration space.
    fn config_write(&mut self, offset: usize, data: &[u8]);
    /// Base and length of the BAR while it answers.
    fn window(&self) -> Option<(u64, u64)>;
    /// Reads the BAR.
    fn bar_read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes the BAR.
    fn bar_write(&mut self, offset: u64, data: &[u8]);
}

struct HostBridge(ConfigSpace);

impl Function for HostBridge {
    fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }
    fn config_write(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }
    fn window(&self) -> Option<(u64, u64)> {
        None
    }
    fn bar_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn bar_write(&mut self, _: u64, _: &[u8]) {}
}

/// The bus.
pub struct Bus {
    slots: Vec<Arc<Mutex<dyn Function>>>,
    next_bar: u64,
}

impl Default for Bus {
    fn default() -> Self {
        // The identity that QEMU gives its generic host bridge: no driver binds to it.
        let id = Identity {
            vendor: 0x1b36,
            device: 0x0008,
            class: [6, 0, 0],
            revision: 0,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        let bridge: Arc<Mutex<dyn Function>> = Arc::new(Mutex::new(HostBridge(ConfigSpace::new(&id))));
        Self { slots: vec![bridge], next_bar: PCI_WINDOW }
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Bus {
    /// Room for a BAR of `len` bytes.
    pub fn allocate_bar(&mut self, len: u64) -> Option<u64> {
        let base = self.next_bar.next_multiple_of(len);
        let end = base.checked_add(len)?;
        if end > PCI_WINDOW + PCI_WINDOW_SIZE {
            return None;
        }
        self.next_bar = end;
        Some(base)
    }

    /// Puts a function into the next free slot; says which, unless all are taken.
    pub fn add(&mut self, function: Arc<Mutex<dyn Function>>) -> Option<usize> {
        if self.slots.len() == SLOTS {
            return None;
        }
        self.slots.push(function);
        Some(self.slots.len() - 1)
    }

    /// A read by the guest. False if nobody answers.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        if let Some(at) = within_ecam(addr) {
            match self.function(at) {
                Some((mut function, offset)) => function.config_read(offset, data),
                None => data.fill(0xff),
            }
            return true;
        }
        self.with_bar(addr, data.len(), |function, offset| function.bar_read(offset, data))
    }

    /// A write by the guest. False if nobody answers.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        if let Some(at) = within_ecam(addr) {
            if let Some((mut function, offset)) = self.function(at) {
                function.config_write(offset, data);
            }
            return true;
        }
        self.with_bar(addr, data.len(), |function, offset| function.bar_write(offset, data))
    }

    /// The function at an offset of the ECAM window, and the offset in its space.
    fn function(&self, at: u64) -> Option<(MutexGuard<'_, dyn Function + 'static>, usize)> {
        let (slot, number, offset) = ((at >> 15) as usize, at >> 12 & 7, (at & 0xfff) as usize);
        let function = self.slots.get(slot).filter(|_| number == 0)?;
        Some((lock(function), offset))
    }

    fn with_bar(&self, addr: u64, len: usize, access: impl FnOnce(&mut dyn Function, u64)) -> bool {
        for function in &self.slots {
            let mut function = lock(function);
            if let Some((base, size)) = function.window() {
                let inside = addr >= base && addr - base < size && (addr - base) + len as u64 <= size;
                if inside {
                    access(&mut *function, addr - base);
                    return true;
                }
            }
        }
        false
    }
}

fn within_ecam(addr: u64) -> Option<u64> {
    addr.checked_sub(ECAM).filter(|at| *at < ECAM_SIZE)
}

/// A function whose handler panicked is still there for the others: the panic is reported by its own thread.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_reads_as_ones_and_the_bridge_is_there() {
        let bus = Bus::default();
        let mut id = [0; 4];
        assert!(bus.read(ECAM, &mut id));
        assert_eq!(u32::from_le_bytes(id), 0x0008_1b36);
        assert!(bus.read(ECAM + (1 << 15), &mut id));
        assert_eq!(id, [0xff; 4]);
        assert!(bus.read(ECAM + (1 << 12), &mut id), "function 1 of the bridge");
        assert_eq!(id, [0xff; 4]);
        assert!(!bus.read(PCI_WINDOW, &mut id), "no BAR there");
        assert!(!bus.write(u64::MAX, &id));
    }

    #[test]
    fn bars_are_aligned_and_end() {
        let mut bus = Bus::default();
        assert_eq!(bus.allocate_bar(0x4000), Some(PCI_WINDOW));
        assert_eq!(bus.allocate_bar(0x10_0000), Some(PCI_WINDOW + 0x10_0000));
        assert_eq!(bus.allocate_bar(PCI_WINDOW_SIZE), None);
    }
}
