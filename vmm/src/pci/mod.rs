//! One PCI segment with one bus, reached through its ECAM window only: an access is one exit, where the old ports take
//! two. Device 0 is the host bridge; BARs are placed by us before the guest starts and may be moved by it.

pub mod bus;
pub mod config_space;
pub mod msix;
