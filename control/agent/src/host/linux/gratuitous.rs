//! Telling a segment that an address is here now: a gratuitous ARP (RFC 5227 section 3) or an unsolicited
//! neighbour advertisement (RFC 4861 section 7.2.6), so that nobody goes on sending to the former holder.
//!
//! Frames are made by pure functions here and sent by the loader.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const BROADCAST: [u8; 6] = [0xff; 6];
/// All nodes of the link, ff02::1, and its Ethernet address (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Frames to a lost neighbour cost traffic, one frame costs nothing: it is said twice.
const TIMES: usize = 2;
const ETH_ARP: u16 = 0x0806;
const ETH_IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Override: replace what is cached. Not solicited, not a router.
const OVERRIDE: u8 = 0x20;
/// Bytes of an advertisement with one link-layer address option.
const ADVERTISEMENT_LEN: u16 = 32;

/// Tells the segment of an interface, from its own MAC.
pub fn tell(address: IpAddr, ifindex: u32, mac: [u8; 6]) -> std::io::Result<()> {
    let frame = match address {
        IpAddr::V4(v4) => arp(v4, mac),
        IpAddr::V6(v6) => advertisement(v6, mac),
    };
    (0..TIMES).try_for_each(|_| sluice_loader::send_frame(ifindex, &frame))
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame
}

/// An ARP announcement: a request whose sender and target are the address.
fn arp(address: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETH_ARP);
    // Ethernet, IPv4, lengths 6 and 4, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

fn advertisement(address: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    // Target link-layer address, one unit of eight bytes.
    message.extend([2, 1]);
    message.extend(mac);
    let sum = checksum(address, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(ALL_NODES_MAC, mac, ETH_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(ADVERTISEMENT_LEN.to_be_bytes());
    // Receivers drop neighbour messages whose hop limit is not 255.
    frame.extend([ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// Internet checksum over pseudo header and message (RFC 4443 section 2.3).
fn checksum(from: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo = [0, 0, 0, u8::try_from(ADVERTISEMENT_LEN).unwrap_or(0), 0, 0, 0, ICMPV6];
    let all = [&from.octets()[..], &ALL_NODES.octets(), &pseudo, message];
    let words = all.iter().flat_map(|part| part.chunks_exact(2));
    let sum: u32 = words.map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn an_arp_announcement_names_the_address_twice() {
        let frame = arp(Ipv4Addr::new(192, 0, 2, 10), MAC);
        let wanted = [
            &[0xff; 6][..],
            &MAC,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &MAC,
            &[192, 0, 2, 10],
            &[0; 6],
            &[192, 0, 2, 10],
        ];
        assert_eq!(frame, wanted.concat());
    }

    /// Sum worked out by hand: with its checksum in place the whole adds up to all ones.
    #[test]
    fn an_advertisement_sums_up() {
        let address: Ipv6Addr = "2001:db8::10".parse().expect("address");
        let frame = advertisement(address, MAC);
        assert_eq!(frame.len(), 14 + 40 + usize::from(ADVERTISEMENT_LEN));
        assert_eq!(frame[..6], ALL_NODES_MAC);
        assert_eq!((frame[20], frame[21]), (ICMPV6, 255));
        assert_eq!(frame[54], NEIGHBOUR_ADVERTISEMENT);
        assert_eq!(frame[58], OVERRIDE);
        assert_eq!(checksum(address, &frame[54..]), 0);
        assert_eq!(frame[56..58], [0xf9, 0x06]);
    }
}
