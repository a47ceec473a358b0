//! How devices reach the interrupt controller and hear kicks: eventfds that KVM knows, no exit on the way.

use crate::layout::{FIRST_MSI_GSI, IOAPIC_LINES};
use crate::sys::kvm_vm::KvmVm;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// Most MSI vectors of a VM: KVM takes 4,096 routes; the legacy lines need some.
pub const MAX_MSI: u32 = 3072;

/// What a message-signalled interrupt writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Low half of the address.
    pub address_low: u32,
    /// High half of the address.
    pub address_high: u32,
    /// Data.
    pub data: u32,
}

/// Connects eventfds of devices to the VM.
pub trait Wiring: Send + Sync {
    /// A number for a vector.
    fn allocate_gsi(&self) -> io::Result<u32>;
    /// From now on a count in `event` sends `message`.
    fn connect_msi(&self, gsi: u32, message: Message, event: &EventFd) -> io::Result<()>;
    /// From now on it does not.
    fn disconnect_msi(&self, gsi: u32, event: &EventFd);
    /// From now on a guest's write to `addr` counts in `event` instead of exiting.
    fn connect_kick(&self, addr: u64, event: &EventFd) -> io::Result<()>;
    /// From now on it does not.
    fn disconnect_kick(&self, addr: u64, event: &EventFd);
}

/// Whether an eventfd has a count, without taking it.
pub fn readable(event: &EventFd) -> bool {
    let fd = crate::sys::borrow(event);
    wait_readable(&[fd], Some(0)).is_ok_and(|ready| ready[0])
}

/// Waits until one of the descriptors can be read or has an error, or the time is over.
pub fn wait_readable(fds: &[BorrowedFd<'_>], timeout_ms: Option<u32>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = timeout_ms
        .map(|ms| Timespec { tv_sec: i64::from(ms / 1000), tv_nsec: i64::from(ms % 1000) * 1_000_000 });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(polled.iter().map(|p| !p.revents().is_empty()).collect())
}

/// The wiring of a VM with the in-kernel interrupt controller.
#[derive(Debug)]
pub struct KvmWiring {
    vm: Arc<KvmVm>,
    state: Mutex<Routes>,
}

#[derive(Debug, Default)]
struct Routes {
    allocated: u32,
    msi: BTreeMap<u32, Message>,
}

impl KvmWiring {
    /// Wiring with the legacy lines routed as on a PC.
    pub fn new(vm: Arc<KvmVm>) -> io::Result<Self> {
        let wiring = Self { vm, state: Mutex::default() };
        wiring.publish(&Routes::default())?;
        Ok(wiring)
    }

    /// From now on a count in `event` pulses an IOAPIC line.
    pub fn connect_line(&self, line: u32, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.fd().register_irqfd(event, line)?)
    }

    fn publish(&self, routes: &Routes) -> io::Result<()> {
        let mut entries = Vec::with_capacity(40 + routes.msi.len());
        for line in 0..IOAPIC_LINES {
            if line < 16 {
                let (chip, pin) =
                    if line < 8 { (KVM_IRQCHIP_PIC_MASTER, line) } else { (KVM_IRQCHIP_PIC_SLAVE, line - 8) };
                entries.push(chip_route(line, chip, pin));
            }
            entries.push(chip_route(line, KVM_IRQCHIP_IOAPIC, line));
        }
        entries.extend(routes.msi.iter().map(|(gsi, message)| msi_route(*gsi, message)));
        let table = KvmIrqRouting::from_entries(&entries).map_err(|e| io::Error::other(format!("{e:?}")))?;
        Ok(self.vm.fd().set_gsi_routing(&table)?)
    }

    fn routes(&self) -> std::sync::MutexGuard<'_, Routes> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn chip_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_bindings::kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn msi_route(gsi: u32, message: &Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_bindings::kvm_irq_routing_msi {
        address_lo: message.address_low,
        address_hi: message.address_high,
        data: message.data,
        ..Default::default()
    };
    entry
}

impl Wiring for KvmWiring {
    fn allocate_gsi(&self) -> io::Result<u32> {
        let mut routes = self.routes();
        if routes.allocated == MAX_MSI {
            return Err(io::Error::other("all MSI vectors are taken"));
        }
        routes.allocated += 1;
        Ok(FIRST_MSI_GSI + routes.allocated - 1)
    }

    fn connect_msi(&self, gsi: u32, message: Message, event: &EventFd) -> io::Result<()> {
        let mut routes = self.routes();
        // A route that is still there from before the mask needs no new table, which costs a grace period.
        if routes.msi.insert(gsi, message) != Some(message) {
            self.publish(&routes)?;
        }
        Ok(self.vm.fd().register_irqfd(event, gsi)?)
    }

    fn disconnect_msi(&self, gsi: u32, event: &EventFd) {
        // Fails only for what is not registered.
        let _ = self.vm.fd().unregister_irqfd(event, gsi);
    }

    fn connect_kick(&self, addr: u64, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.fd().register_ioevent(event, &IoEventAddress::Mmio(addr), NoDatamatch)?)
    }

    fn disconnect_kick(&self, addr: u64, event: &EventFd) {
        let _ = self.vm.fd().unregister_ioevent(event, &IoEventAddress::Mmio(addr), NoDatamatch);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A wiring that only remembers.

    use super::*;
    use std::collections::BTreeSet;

    #[derive(Default)]
    pub struct Recorder {
        refuses: bool,
        gsis: Mutex<u32>,
        msi: Mutex<BTreeMap<u32, Message>>,
        kicks: Mutex<BTreeSet<u64>>,
    }

    impl Recorder {
        pub fn refusing() -> Self {
            Self { refuses: true, ..Self::default() }
        }
        pub fn connected(&self) -> Vec<(u32, Message)> {
            self.msi.lock().expect("lock").iter().map(|(gsi, m)| (*gsi, *m)).collect()
        }
        pub fn kicks(&self) -> Vec<u64> {
            self.kicks.lock().expect("lock").iter().copied().collect()
        }
    }

    impl Wiring for Recorder {
        fn allocate_gsi(&self) -> io::Result<u32> {
            let mut next = self.gsis.lock().expect("lock");
            *next += 1;
            Ok(*next - 1)
        }
        fn connect_msi(&self, gsi: u32, message: Message, _: &EventFd) -> io::Result<()> {
            if self.refuses {
                return Err(io::Error::other("refused"));
            }
            self.msi.lock().expect("lock").insert(gsi, message);
            Ok(())
        }
        fn disconnect_msi(&self, gsi: u32, _: &EventFd) {
            self.msi.lock().expect("lock").remove(&gsi);
        }
        fn connect_kick(&self, addr: u64, _: &EventFd) -> io::Result<()> {
            self.kicks.lock().expect("lock").insert(addr);
            Ok(())
        }
        fn disconnect_kick(&self, addr: u64, _: &EventFd) {
            self.kicks.lock().expect("lock").remove(&addr);
        }
    }
}
