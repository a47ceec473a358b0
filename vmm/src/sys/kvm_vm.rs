//! KVM calls that need a raw address, and those that kvm-ioctls does not know.

use crate::ram::GuestRam;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::sync::Arc;

/// A VM's descriptor together with the memory that was given to it: memory outlives the VM.
#[derive(Debug)]
pub struct KvmVm {
    /// Dropped first.
    fd: VmFd,
    ram: Arc<GuestRam>,
}

impl KvmVm {
    /// Gives `ram` to the VM, a slot for each region.
    pub fn new(fd: VmFd, ram: Arc<GuestRam>) -> Result<Self, kvm_ioctls::Error> {
        for (slot, region) in ram.regions().iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.guest,
                memory_size: region.len as u64,
                userspace_addr: region.host as u64,
            };
            // SAFETY: the range is mapped, and `ram` keeps it mapped as long as the VM's descriptor is open.
            unsafe { fd.set_user_memory_region(region) }?;
        }
        Ok(Self { fd, ram })
    }

    /// The VM's descriptor.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// The guest's memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }
}
