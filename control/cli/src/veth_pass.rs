//! `sluice veth-pass`: an XDP program that passes everything, at the veth ends whose peers transmit from XDP.
//!
//! veth takes a frame sent by XDP_TX or XDP_REDIRECT at its peer only while it has an XDP program itself;
//! without one the frame is lost and no counter shows it. The program is attached through netlink, not a BPF
//! link, so it stays when this process ends and goes with the interface.
