//! Answers datagrams with the server's name, for flow-stability checks.

use std::io;
use std::net::{SocketAddr, UdpSocket};

/// Longest datagram answered whole, bytes: an IPv4 UDP payload cannot be longer.
const DATAGRAM_MAX: usize = 65_507;

/// Serves until an error: each answer is the name, a line feed, and what was asked. Blocks.
///
/// Answers leave from the address bound, so a server behind a virtual IP binds that address itself.
pub fn echo(address: SocketAddr, name: &str) -> io::Result<()> {
    let socket: UdpSocket = crate::poll::udp(address)?;
    socket.set_nonblocking(false)?;
    let prefix = format!("{name}\n").into_bytes();
    let mut buffer = vec![0; prefix.len() + DATAGRAM_MAX];
    buffer[..prefix.len()].copy_from_slice(&prefix);
    loop {
        // Errors of one answer (no route, refused, too long with the name added) are not errors of the server.
        let (len, from) = match socket.recv_from(&mut buffer[prefix.len()..]) {
            Ok(got) => got,
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused) => {
                continue;
            }
            Err(e) => return Err(e),
        };
        let _unanswered = socket.send_to(&buffer[..prefix.len() + len], from);
    }
}
