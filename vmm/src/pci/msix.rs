//! MSI-X of one function: the table, its masks, and the eventfds behind the vectors.
//!
//! ```text
//! worker writes eventfd ─► connected: KVM injects the table's message, no exit
//!                       └► masked: the eventfd keeps the count; KVM reads it when the vector is connected again
//! ```
//! A vector is connected exactly while MSI-X is on and neither it nor the function is masked. So nothing is lost while
//! masked, and the pending bit is "the eventfd has a count".

use crate::wiring::{Message, Wiring};
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of a table entry.
pub const ENTRY: usize = 16;
/// Message control bit: MSI-X on.
pub const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control bit: all vectors masked.
pub const CONTROL_MASK: u16 = 1 << 14;
const MASKED: u8 = 1;

struct Vector {
    event: Arc<EventFd>,
    gsi: u32,
    connected: Option<Message>,
}

/// The vectors of a function.
pub struct Msix {
    wiring: Arc<dyn Wiring>,
    table: Vec<u8>,
    vectors: Vec<Vector>,
    control: u16,
    failed: u64,
}

impl std::fmt::Debug for Msix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Msix").field("vectors", &self.vectors.len()).field("control", &self.control).finish()
    }
}

impl Msix {
    /// `count` vectors, all masked, MSI-X off.
    pub fn new(wiring: Arc<dyn Wiring>, count: usize) -> io::Result<Self> {
        let mut table = vec![0; count * ENTRY];
        let mut vectors = Vec::with_capacity(count);
        for entry in table.chunks_exact_mut(ENTRY) {
            entry[12] = MASKED;
            let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
            vectors.push(Vector { event, gsi: wiring.allocate_gsi()?, connected: None });
        }
        Ok(Self { wiring, table, vectors, control: 0, failed: 0 })
    }

    /// The eventfd of a vector, if there is such a vector.
    pub fn event(&self, vector: u16) -> Option<Arc<EventFd>> {
        self.vectors.get(usize::from(vector)).map(|v| v.event.clone())
    }

    /// Number of vectors.
    pub fn count(&self) -> usize {
        self.vectors.len()
    }

    /// How often the kernel refused to connect a vector.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The message control register was written.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & (CONTROL_ENABLE | CONTROL_MASK);
        self.rewire();
    }

    /// Reads the table.
    pub fn read_table(&self, offset: usize, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.table.get(offset + i).copied().unwrap_or(0);
        }
    }

    /// Writes the table.
    pub fn write_table(&mut self, offset: usize, data: &[u8]) {
        for (i, value) in data.iter().enumerate() {
            let at = offset + i;
            let mask = match at % ENTRY {
                12 => MASKED,
                13.. => 0,
                _ => 0xff,
            };
            if let Some(byte) = self.table.get_mut(at) {
                *byte = *byte & !mask | value & mask;
            }
        }
        self.rewire();
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        for (i, vector) in self.vectors.iter().enumerate() {
            let Some(byte) = (i / 8).checked_sub(offset).and_then(|at| data.get_mut(at)) else { continue };
            if vector.connected.is_none() && has_count(&vector.event) {
                *byte |= 1 << (i % 8);
            }
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.control = 0;
        for entry in self.table.chunks_exact_mut(ENTRY) {
            entry.fill(0);
            entry[12] = MASKED;
        }
        self.rewire();
        for vector in &self.vectors {
            let _ = vector.event.read();
        }
    }

    /// Connects and disconnects what the table and the masks now say.
    fn rewire(&mut self) {
        let on = self.control & CONTROL_ENABLE != 0 && self.control & CONTROL_MASK == 0;
        for (vector, entry) in self.vectors.iter_mut().zip(self.table.chunks_exact(ENTRY)) {
            let wanted = (on && entry[12] & MASKED == 0).then(|| message(entry));
            if wanted == vector.connected {
                continue;
            }
            if vector.connected.take().is_some() {
                self.wiring.disconnect_msi(vector.gsi, &vector.event);
            }
            if let Some(message) = wanted {
                match self.wiring.connect_msi(vector.gsi, message, &vector.event) {
                    Ok(()) => vector.connected = Some(message),
                    Err(_) => self.failed += 1,
                }
            }
        }
    }
}

impl Drop for Msix {
    fn drop(&mut self) {
        for vector in &mut self.vectors {
            if vector.connected.take().is_some() {
                self.wiring.disconnect_msi(vector.gsi, &vector.event);
            }
        }
    }
}

fn message(entry: &[u8]) -> Message {
    let word = |at: usize| entry[at..].first_chunk().map(|b| u32::from_le_bytes(*b)).unwrap_or(0);
    Message { address_low: word(0), address_high: word(4), data: word(8) }
}

fn has_count(event: &EventFd) -> bool {
    crate::wiring::readable(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::testing::Recorder;

    #[test]
    fn a_vector_is_connected_only_while_nothing_masks_it() {
        let wiring = Arc::new(Recorder::default());
        let mut msix = Msix::new(wiring.clone(), 2).expect("vectors");
        let mut entry = [0; ENTRY];
        entry[..4].copy_from_slice(&0xfee0_0000_u32.to_le_bytes());
        entry[8] = 0x41;
        msix.write_table(ENTRY, &entry);
        assert_eq!(wiring.connected(), []);
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
        assert_eq!(wiring.connected(), []);
        msix.set_control(CONTROL_ENABLE);
        let message = Message { address_low: 0xfee0_0000, address_high: 0, data: 0x41 };
        assert_eq!(wiring.connected(), [(1, message)]);
        msix.write_table(ENTRY + 12, &[1, 0, 0, 0]);
        assert_eq!(wiring.connected(), []);
        let mut pending = [0; 8];
        msix.read_pending(0, &mut pending);
        assert_eq!(pending[0], 0);
        msix.event(1).expect("vector").write(1).expect("event");
        msix.read_pending(0, &mut pending);
        assert_eq!(pending[0], 2);
        msix.write_table(ENTRY + 12, &[0; 4]);
        assert_eq!(wiring.connected(), [(1, message)]);
        msix.reset();
        assert_eq!(wiring.connected(), []);
    }

    #[test]
    fn a_kernel_that_refuses_is_counted() {
        let wiring = Arc::new(Recorder::refusing());
        let mut msix = Msix::new(wiring, 1).expect("vectors");
        msix.set_control(CONTROL_ENABLE);
        msix.write_table(0, &[0; ENTRY]);
        assert!(msix.failed() > 0);
    }

    #[test]
    fn accesses_past_the_table_do_nothing() {
        let mut msix = Msix::new(Arc::new(Recorder::default()), 1).expect("vectors");
        msix.write_table(ENTRY - 2, &[0xff; 8]);
        let mut data = [0xee; 8];
        msix.read_table(ENTRY, &mut data);
        assert_eq!(data, [0; 8]);
        msix.read_pending(64, &mut data);
    }
}
