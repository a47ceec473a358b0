//! The model of GUE variant 1 (draft-ietf-intarea-gue-09 section 3.2.2): an outer header for UDP, then a UDP
//! header, then the packet itself.

use sluice_abi::hash::gue_source_port;
use sluice_abi::layout::proto;
use sluice_abi::sum;

/// UDP header, bytes.
pub const UDP_LEN: usize = 8;

/// Turns the IPIP outer header that ends `frame` (`header` bytes of it) into one for UDP, and adds the UDP header.
pub fn follow(frame: &mut Vec<u8>, header: usize, port_be: u16, hash: u64, ip_len: usize) {
    let at = frame.len() - header;
    let longer = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]) + UDP_LEN as u16;
    let ip = &mut frame[at..];
    if header == 20 {
        let length = longer(&ip[2..4]);
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[9] = proto::UDP;
        ip[10..12].fill(0);
        let words = ip.chunks(2).map(|c| u32::from(u16::from_le_bytes([c[0], c[1]])));
        let check = !sum::fold(words.sum());
        ip[10..12].copy_from_slice(&check.to_le_bytes());
    } else {
        let length = longer(&ip[4..6]);
        ip[4..6].copy_from_slice(&length.to_be_bytes());
        ip[6] = proto::UDP;
    }
    frame.extend(gue_source_port(hash).to_be_bytes());
    frame.extend(port_be.to_ne_bytes());
    frame.extend((ip_len as u16 + UDP_LEN as u16).to_be_bytes());
    frame.extend([0, 0]);
}
