//! Frames of the simulated clients: Ethernet, IPv4 or IPv6 without options, TCP or UDP, right checksums.

use sluice_abi::layout::proto;

/// What a client's packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// First packet of a TCP flow.
    Syn,
    /// Any later packet of a TCP flow.
    Data,
    /// Last packet of a TCP flow.
    Fin,
    /// A datagram.
    Datagram,
}

/// The VIP's address in the IP version of the run, in the first bytes.
pub const fn vip_address(v6: bool) -> [u8; 16] {
    if v6 {
        [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a]
    } else {
        [10, 200, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

/// The VIP's port.
pub const VIP_PORT: u16 = 80;

/// Bytes carried by every packet but a SYN.
const PAYLOAD: &[u8; 8] = b"payload.";

/// The frame of flow number `flow`, from an address and port of its own.
pub fn frame(v6: bool, flow: u32, kind: Kind) -> Vec<u8> {
    let udp = kind == Kind::Datagram;
    let payload: &[u8] = if kind == Kind::Syn { &[] } else { PAYLOAD };
    let source_port = 1024 + (flow % 60_000) as u16;
    let mut segment = Vec::with_capacity(32);
    segment.extend(source_port.to_be_bytes());
    segment.extend(VIP_PORT.to_be_bytes());
    if udp {
        segment.extend((8 + payload.len() as u16).to_be_bytes());
        segment.extend([0, 0]);
    } else {
        let flags = match kind {
            Kind::Syn => 0x02,
            Kind::Fin => 0x11,
            Kind::Data | Kind::Datagram => 0x18,
        };
        segment.extend(1000u32.to_be_bytes());
        segment.extend(if kind == Kind::Syn { 0u32 } else { 2000 }.to_be_bytes());
        segment.extend([5 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    }
    segment.extend(payload);
    let protocol = if udp { proto::UDP } else { proto::TCP };
    let (source, target) = addresses(v6, flow);
    let checksum_at = if udp { 6 } else { 16 };
    let sum = checksum(&[&source, &target, &[0, protocol], &(segment.len() as u16).to_be_bytes(), &segment]);
    segment[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    bytes.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    bytes.extend(ip_header(v6, protocol, segment.len() as u16, &source, &target));
    bytes.extend(segment);
    bytes
}

fn addresses(v6: bool, flow: u32) -> (Vec<u8>, Vec<u8>) {
    let flow = flow.to_be_bytes();
    if v6 {
        let mut source = vec![0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        source.extend(flow);
        (source, vip_address(true).to_vec())
    } else {
        (vec![10, 100, flow[2], flow[3]], vip_address(false)[..4].to_vec())
    }
}

fn ip_header(v6: bool, protocol: u8, length: u16, source: &[u8], target: &[u8]) -> Vec<u8> {
    let mut header = if v6 {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(length.to_be_bytes());
        header.extend([protocol, 64]);
        header
    } else {
        let mut header = vec![0x45, 0];
        header.extend((20 + length).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        header
    };
    header.extend(source);
    header.extend(target);
    if !v6 {
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    header
}

/// Internet checksum (RFC 1071) over parts of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_sum_to_zero_and_lengths_agree() {
        for kind in [Kind::Syn, Kind::Data, Kind::Fin, Kind::Datagram] {
            let bytes = frame(false, 70_000, kind);
            assert_eq!(checksum(&[&bytes[14..34]]), 0, "{kind:?}");
            assert_eq!(usize::from(u16::from_be_bytes([bytes[16], bytes[17]])), bytes.len() - 14);
            let bytes = frame(true, 70_000, kind);
            assert_eq!(usize::from(u16::from_be_bytes([bytes[18], bytes[19]])), bytes.len() - 54);
            let (length, next) = ([bytes[18], bytes[19]], [0, bytes[20]]);
            assert_eq!(checksum(&[&bytes[22..54], &next, &length, &bytes[54..]]), 0, "{kind:?}");
        }
    }
}
