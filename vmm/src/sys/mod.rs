//! The only module with `unsafe`: mappings, raw system calls that no crate wraps, and the io_uring of a disk.
//!
//! Each file wraps one kernel interface in a safe type that keeps the obligations; nothing above it sees a pointer.

pub mod affinity;
pub mod file_ring;
pub mod kvm_stats;
pub mod kvm_vm;
pub mod mapping;
pub mod tap;

use std::os::fd::{AsRawFd, BorrowedFd};
use vmm_sys_util::eventfd::EventFd;

/// The descriptor of an event for as long as the event lives; `EventFd` has no `AsFd` of its own.
pub fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the result cannot outlive `event`, which keeps the descriptor open.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
