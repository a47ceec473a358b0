//! Virtio 1.x devices over PCI.
//!
//! ```text
//! guest ── kick: ioeventfd ──► worker thread of the device ── irqfd: MSI-X ──► guest
//!   └── config space, common registers: exits ──► pci::VirtioPci (behind a lock, not on the data path)
//! ```
//! [`queue`] reads what the guest writes and trusts none of it; [`fault`] says what happens when it lies: that device
//! stops with DEVICE_NEEDS_RESET, is counted, and everything else goes on.

pub mod block;
pub mod console;
pub mod device;
pub mod fault;
pub mod net;
pub mod pci;
pub mod queue;
pub mod rng;
pub mod worker;
