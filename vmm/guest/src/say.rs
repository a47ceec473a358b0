//! The debug port: text, and the exit code that ends the VM.

use crate::cpu::outb;

const TEXT: u16 = 0x402;
const EXIT: u16 = 0x403;

/// Prints the parts and a line end.
pub fn line(parts: &[&str]) {
    for byte in parts.iter().flat_map(|p| p.bytes()).chain([b'\n']) {
        outb(TEXT, byte);
    }
}

/// Ends the VM.
pub fn exit(code: u8) -> ! {
    outb(EXIT, code);
    loop {
        crate::cpu::halt();
    }
}
