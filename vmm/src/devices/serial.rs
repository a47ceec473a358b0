//! The 16550 serial port at COM1, for early boot messages: a device of one exit a byte. Bulk output belongs on the
//! virtio console.

use super::console::Output;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// The port's interrupt line, by irqfd.
#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The port. Clones are the same port.
#[derive(Clone)]
pub struct SerialPort(Arc<Mutex<Serial<Line, vm_superio::serial::NoEvents, Output>>>);

impl std::fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SerialPort")
    }
}

impl SerialPort {
    /// A port that interrupts by `event` and prints to `output`.
    pub fn new(event: EventFd, output: Output) -> Self {
        Self(Arc::new(Mutex::new(Serial::new(Line(event), output))))
    }

    /// Reads a register.
    pub fn read(&self, register: u8) -> u8 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(register)
    }

    /// Writes a register. Output that could not be written is lost, as on a port with no cable.
    pub fn write(&self, register: u8, value: u8) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write(register, value);
    }

    /// Bytes typed by the operator; says how many fitted.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).enqueue_raw_bytes(bytes).unwrap_or(0)
    }
}
