//! Layouts, limits, drop reasons and hashes shared by the kernel programs, the loader and the model.
//!
//! The one home of everything that kernel and user side must agree on. Types are `repr(C)` (or transparent),
//! fixed in width, free of padding that is not spelled out, and asserted in size. Changing any layout, hash or
//! meaning here means raising [`ABI_VERSION`]: a loader adopts pinned maps of its own version only.
//!
//! * [`layout`]: keys and values of the maps.
//! * [`hash`]: flow hash, Maglev slot, bucket and tag.
//! * [`flow`]: one flow entry in 64 bits, and its clock.
//! * [`fragment`]: one datagram in pieces in 128 bits, and its clock.
//! * [`icmp`]: limits of the ICMP messages the programs make.
//! * [`nat`]: flows of full NAT.
//! * [`slot`]: current and previous owner of a Maglev slot in 32 bits.
//! * [`probe`]: maps and marks of health checks sent the way of a VIP.
//! * [`reason`]: drop reasons and events, by name.
//! * [`vips`]: the table of VIPs.
//! * [`sum`]: Internet checksum arithmetic (RFC 1071, RFC 1624).

#![no_std]
#![forbid(unsafe_code)]

pub mod flow;
pub mod fragment;
pub mod hash;
pub mod icmp;
pub mod layout;
pub mod nat;
pub mod probe;
pub mod reason;
pub mod slot;
pub mod sum;
pub mod vips;

/// Raised with every change of a layout, hash or meaning in this crate.
pub const ABI_VERSION: u32 = 2;

/// Slots of every VIP: a prime, so that every offset/skip pair of Maglev visits all of them
/// (Eisenbud and others, NSDI 2016, section 3.4), and large enough for 1 % balance with 650 backends.
pub const SLOTS: u32 = 65_537;

/// Ids 1..=65,534: 0 is "none" and 65,535 is [`slot::ASK`].
pub const BACKEND_ID_MAX: u16 = 65_534;

/// Default size of the backend table (64 B each, and 24 B a CPU for counters).
pub const BACKENDS_DEFAULT: u32 = 4_096;

/// Default number of VIPs (512 B a CPU each for drop counters; slots, 256 KiB, only when the VIP exists).
pub const VIPS_DEFAULT: u32 = 1_024;

/// Default number of flow buckets: 8 entries each, 1 Mi entries in 8 MiB. Only flows on slots whose owner
/// changed lately have an entry.
pub const FLOW_BUCKETS_DEFAULT: u32 = 1 << 17;

/// Most flow buckets: the bucket number uses the low 26 bits of the hash, the tag the high 34.
pub const FLOW_BUCKETS_MAX: u32 = 1 << 26;

/// Entries of a bucket: one cache line.
pub const BUCKET_ENTRIES: usize = 8;

/// Largest VLAN-less Ethernet + IPv4 (60) + L4 header the programs look at, bytes.
pub const HEADERS_MAX: usize = 14 + 60 + 20;
