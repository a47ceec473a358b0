//! Devices at I/O ports: the serial port and the few registers of a hardware-reduced platform.

pub mod console;
pub mod ports;
pub mod serial;
