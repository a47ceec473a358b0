//! A virtual machine monitor for KVM on x86-64: one process per VM.
//!
//! ```text
//! config ── Spec ──► supervise ──► vm (builds, owns, takes down)
//!                     ├─ api .................... HTTP on a UNIX socket
//!                     ├─ memory, ram ............ guest memory, checked access
//!                     ├─ boot ................... kernel, ACPI, CPUID, registers
//!                     ├─ vcpu, exits ............ a pinned thread per vCPU
//!                     │    └─ devices, pci ...... what answers their exits
//!                     └─ virtio ................. a worker thread per device; kicks and interrupts are eventfds
//! ```
//! `unsafe` lives in [`sys`] alone. `docs/vmm.md` is the operator's view.

#![deny(unsafe_code)]

pub mod api;
pub mod args;
pub mod boot;
pub mod config;
pub mod devices;
pub mod exits;
pub mod layout;
pub mod memory;
pub mod pci;
pub mod ram;
pub mod supervise;
#[allow(unsafe_code)]
pub mod sys;
pub mod threads;
pub mod vcpu;
pub mod virtio;
pub mod vm;
pub mod wiring;
