//! Which device answers an I/O port. Everything else reads as ones and swallows writes.

use super::serial::SerialPort;
use crate::layout::{
    COM1, DEBUG_PORT, I8042, RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS, SLEEP_TYPE_S5,
};
use std::sync::{Mutex, PoisonError};

/// Keyboard controller command that pulses the reset line: how Linux reboots when all else fails.
const I8042_RESET: u8 = 0xfe;
/// Sleep control register: "enter the state now".
const SLEEP_ENABLE: u8 = 1 << 5;
/// Longest text of a test guest that is kept.
const MAX_DEBUG_TEXT: usize = 1 << 20;

/// What a port access asks of the whole VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEffect {
    /// Nothing: go on.
    None,
    /// Nobody answers there.
    Unclaimed,
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A test guest ended with this code.
    DebugExit(u8),
}

/// The ports.
#[derive(Debug, Default)]
pub struct Ports {
    serial: Option<SerialPort>,
    /// Text of the test guest, where the document asked for the debug port.
    debug: Option<Mutex<Vec<u8>>>,
}

impl Ports {
    /// Ports with these devices.
    pub fn new(serial: Option<SerialPort>, debug: bool) -> Self {
        Self { serial, debug: debug.then(Mutex::default) }
    }

    /// What the test guest said so far.
    pub fn debug_text(&self) -> String {
        let text = self.debug.as_ref().map(|d| d.lock().unwrap_or_else(PoisonError::into_inner).clone());
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    }

    /// A read by the guest.
    pub fn read(&self, port: u16, data: &mut [u8]) -> PortEffect {
        data.fill(0xff);
        match port {
            COM1..0x400 if self.serial.is_some() => {
                if let Some(serial) = &self.serial {
                    data[0] = serial.read((port - COM1) as u8);
                }
            }
            // Neither full nor empty: nothing to wait for, nobody to talk to.
            I8042 | SLEEP_CONTROL | SLEEP_STATUS | RESET => data.fill(0),
            _ => return PortEffect::Unclaimed,
        }
        PortEffect::None
    }

    /// A write by the guest. String instructions bring many bytes at once for one port.
    pub fn write(&self, port: u16, data: &[u8]) -> PortEffect {
        let Some(&first) = data.first() else { return PortEffect::None };
        match port {
            COM1..0x400 => match &self.serial {
                Some(serial) => data.iter().for_each(|byte| serial.write((port - COM1) as u8, *byte)),
                None => return PortEffect::Unclaimed,
            },
            I8042 if first == I8042_RESET => return PortEffect::Reset,
            RESET if first == RESET_VALUE => return PortEffect::Reset,
            SLEEP_CONTROL if first == SLEEP_ENABLE | SLEEP_TYPE_S5 << 2 => return PortEffect::PowerOff,
            I8042 | RESET | SLEEP_CONTROL | SLEEP_STATUS => {}
            _ => return self.debug_write(port, data, first),
        }
        PortEffect::None
    }

    fn debug_write(&self, port: u16, data: &[u8], first: u8) -> PortEffect {
        let Some(debug) = &self.debug else { return PortEffect::Unclaimed };
        match port.wrapping_sub(DEBUG_PORT) {
            0 => {
                let mut text = debug.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MAX_DEBUG_TEXT - text.len();
                text.extend(&data[..data.len().min(room)]);
                PortEffect::None
            }
            1 => PortEffect::DebugExit(first),
            _ => PortEffect::Unclaimed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registers_that_end_a_vm() {
        let ports = Ports::new(None, false);
        assert_eq!(ports.write(SLEEP_CONTROL, &[0x34]), PortEffect::PowerOff);
        assert_eq!(ports.write(SLEEP_CONTROL, &[0x14]), PortEffect::None, "the type alone does nothing");
        assert_eq!(ports.write(RESET, &[1]), PortEffect::Reset);
        assert_eq!(ports.write(RESET, &[0]), PortEffect::None);
        assert_eq!(ports.write(I8042, &[0xfe]), PortEffect::Reset);
        assert_eq!(ports.write(I8042, &[0xaa]), PortEffect::None);
        assert_eq!(ports.write(DEBUG_PORT + 1, &[7]), PortEffect::Unclaimed, "only where asked for");
    }

    #[test]
    fn what_is_not_there_reads_as_ones() {
        let ports = Ports::new(None, true);
        let mut data = [0; 4];
        assert_eq!(ports.read(0xcf8, &mut data), PortEffect::Unclaimed);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(ports.read(COM1 + 5, &mut data), PortEffect::Unclaimed);
        assert_eq!(ports.read(I8042, &mut data[..1]), PortEffect::None);
        assert_eq!(data[0], 0);
        assert_eq!(ports.write(DEBUG_PORT, b"PASS a\n"), PortEffect::None);
        assert_eq!(ports.write(DEBUG_PORT + 1, &[3]), PortEffect::DebugExit(3));
        assert_eq!(ports.debug_text(), "PASS a\n");
    }
}
