//! `KVM_GET_STATS_FD`: a descriptor from which a VM's or vCPU's own counters are read.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;

/// Opens the statistics of a VM or vCPU.
pub fn open(kvm: &impl AsRawFd) -> io::Result<File> {
    // SAFETY: the request takes no argument and touches no memory of ours.
    let fd = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_STATS_FD as _, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    // The kernel makes it without close-on-exec.
    rustix::io::fcntl_setfd(file.as_fd(), rustix::io::FdFlags::CLOEXEC)?;
    Ok(file)
}
