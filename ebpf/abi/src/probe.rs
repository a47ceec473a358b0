//! Health checks sent the way of a VIP: how their packets are told from others.

/// High half of the mark (`SO_MARK`) of probes, `SP`; the low half is the backend's id.
pub const MARK: u32 = 0x5350_0000;
/// Which bits of a mark say that it is a probe's.
pub const MARK_MASK: u32 = 0xffff_0000;

/// Mark of the probes of a backend.
pub const fn mark_of(backend: u16) -> u32 {
    MARK | backend as u32
}
