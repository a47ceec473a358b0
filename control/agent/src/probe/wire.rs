//! Sockets of probes: connecting, GET, datagrams.
//!
//! A probe that goes the way of a VIP carries a mark (`SO_MARK`) that the kernel program of the probe path knows;
//! its local port is its own alone, since all answers come from the VIP's one address and port.

use crate::health::Outcome;
use sluice_abi::probe::mark_of;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// Bytes of a response head read for its status line.
const HEAD_BYTES_MAX: usize = 4096;
/// Room for a datagram: longer ones are compared by their beginning anyway.
const DATAGRAM_BYTES: usize = 2048;

fn socket(address: SocketAddr, kind: Type, path: Option<u16>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    if let Some(path) = path {
        socket.set_mark(mark_of(path))?;
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, 0).into())?;
    }
    Ok(socket)
}

/// A connection; closed by a reset, so that probes leave no TIME-WAIT behind, here or there.
pub async fn connect(address: SocketAddr, path: Option<u16>) -> io::Result<TcpStream> {
    let socket = socket(address, Type::STREAM, path)?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
    stream.set_zero_linger()?;
    Ok(stream)
}

/// GET of a path, judged by its status.
pub async fn get<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    path: &str,
    host: Option<&str>,
    address: SocketAddr,
) -> Outcome {
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sluice-agent\r\nConnection: close\r\n\r\n"
    );
    if stream.write_all(request.as_bytes()).await.is_err() || stream.flush().await.is_err() {
        return Outcome::Dead;
    }
    read_status(stream).await.map_or(Outcome::Dead, outcome_of)
}

const fn outcome_of(status: u16) -> Outcome {
    match status {
        200..=399 => Outcome::Good,
        _ => Outcome::Refusing,
    }
}

async fn read_status<S: AsyncRead + Unpin>(stream: &mut S) -> Option<u16> {
    let mut head = Vec::with_capacity(512);
    while head.len() < HEAD_BYTES_MAX {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = head.iter().position(|b| *b == b'\n') {
            return status_of(&head[..end]);
        }
    }
    None
}

/// Status of a status line (RFC 9112 section 4).
fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5).filter(|_| rest[0].is_ascii_digit() && rest[1] == b' ')?;
    let ended = rest.get(5).is_none_or(|b| matches!(b, b' ' | b'\r'));
    let number = std::str::from_utf8(digits).ok().filter(|_| ended)?;
    number.parse().ok().filter(|status| (100..=599).contains(status))
}

/// Sends a datagram. With `expect`, an answer that begins so is good and one that does not is a refusal; without,
/// all but an ICMP error within the timeout is good.
pub async fn udp(
    address: SocketAddr,
    path: Option<u16>,
    send: &[u8],
    expect: Option<&[u8]>,
    timeout: Duration,
) -> Outcome {
    let asked = async {
        let socket = UdpSocket::from_std(socket(address, Type::DGRAM, path)?.into())?;
        socket.connect(address).await?;
        socket.send(send).await?;
        let mut answer = vec![0; DATAGRAM_BYTES];
        let len = socket.recv(&mut answer).await?;
        answer.truncate(len);
        Ok::<_, io::Error>(answer)
    };
    match (tokio::time::timeout(timeout, asked).await, expect) {
        (Ok(Ok(answer)), Some(expect)) if !answer.starts_with(expect) => Outcome::Refusing,
        (Ok(Ok(_)), _) => Outcome::Good,
        // A connected socket is told of ICMP errors, as of a closed port.
        (Ok(Err(_)), _) => Outcome::Dead,
        (Err(_), Some(_)) => Outcome::Dead,
        (Err(_), None) => Outcome::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(status_of(b"HTTP/1.1 200 OK\r"), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 503\r"), Some(503));
        for bad in [&b"HTTP/2 200"[..], b"HTTP/1.1 20", b"HTTP/1.1 2000", b"HTTP/1.1 +20 ", b"SSH-2.0", b""] {
            assert_eq!(status_of(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
