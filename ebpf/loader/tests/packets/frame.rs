//! Frames are built here and expected ones are written out in hex: nothing of the programs' own arithmetic is
//! used for either.

/// IP protocols.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// EtherTypes.
pub const V4: u16 = 0x0800;
pub const V6: u16 = 0x86dd;
/// TCP flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
/// Offset of the IP header.
pub const IP: usize = 14;

/// The bytes of hex digits; spaces are for the reader.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    assert_eq!(digits.len(), text.chars().filter(|c| !c.is_whitespace()).count(), "not hex: {text}");
    assert!(digits.len().is_multiple_of(2), "half a byte: {text}");
    digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()
}

/// Layers one after the other, then a payload.
pub fn layers(layers: &[&str], payload: &[u8]) -> Vec<u8> {
    let mut frame: Vec<u8> = layers.iter().flat_map(|layer| hex(layer)).collect();
    frame.extend(payload);
    frame
}

/// To 02:00:00:00:00:01, from 02:00:00:00:00:02.
pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = hex("020000000001 020000000002");
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// RFC 1071 over whole words, as written there.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An IPv4 packet with TOS 0x28, id 0x1234, don't-fragment, TTL 64.
pub fn ipv4_options(src: &str, dst: &str, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let addr = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let header = 20 + options.len();
    let mut ip = vec![0x40 | (header / 4) as u8, 0x28];
    ip.extend(((header + payload.len()) as u16).to_be_bytes());
    ip.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
    ip.extend(addr(src));
    ip.extend(addr(dst));
    ip.extend(options);
    let check = checksum(&ip);
    ip[10..12].copy_from_slice(&check);
    ip.extend(payload);
    ip
}

/// As [`ipv4_options`], without any.
pub fn ipv4(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_options(src, dst, protocol, &[], payload)
}

/// An IPv6 packet with traffic class 0xb8, flow label 0x12345, hop limit 64.
pub fn ipv6(src: &str, dst: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let addr = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut ip = hex("6b812345");
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    ip.extend(addr(src));
    ip.extend(addr(dst));
    ip.extend(payload);
    ip
}

/// A segment of 25 bytes from port 31337.
pub fn tcp(dport: u16, flags: u8) -> Vec<u8> {
    tcp_from(31_337, dport, flags)
}

/// A segment of 25 bytes.
pub fn tcp_from(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let mut tcp = sport.to_be_bytes().to_vec();
    tcp.extend(dport.to_be_bytes());
    tcp.extend(hex("00000001 00000002 50"));
    tcp.push(flags);
    tcp.extend(hex("2000 beef 0000"));
    tcp.extend(b"hello");
    tcp
}

/// A datagram of 8 bytes and its body from port 31337.
pub fn udp(dport: u16, body: &[u8]) -> Vec<u8> {
    let mut udp = 31_337u16.to_be_bytes().to_vec();
    udp.extend(dport.to_be_bytes());
    udp.extend((8 + body.len() as u16).to_be_bytes());
    udp.extend(hex("beef"));
    udp.extend(body);
    udp
}

/// `frame` with `bytes` written at `at`.
pub fn edit(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The first `len` bytes.
pub fn cut(frame: &[u8], len: usize) -> Vec<u8> {
    frame[..len].to_vec()
}

/// One byte a pair of digits, for messages.
pub fn dump(frame: &[u8]) -> String {
    frame.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}
