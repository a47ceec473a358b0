//! From files to a guest that is about to run its first instruction.

pub mod acpi;
pub mod cpuid;
pub mod kernel;
pub mod memory_map;
pub mod registers;
