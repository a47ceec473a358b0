//! The agent's end of the proxy's admin socket: one request line, one reply line.

use crate::host::HostError;
use sluice_api::proxy_admin::{Answer, Reply, Request};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest wait for a reply: a change of 100,000 rows takes well below a second.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest reply line, bytes.
const REPLY_BYTES_MAX: u64 = 16 << 20;

/// Sends one request on a connection of its own.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, HostError> {
    let failed = |what: &str, error: std::io::Error| {
        HostError::passing(format!("{what} proxy at {}: {error}", socket.display()))
    };
    let mut stream = UnixStream::connect(socket).map_err(|e| failed("connect to", e))?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(|e| failed("set up", e))?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(|e| failed("set up", e))?;
    let mut line =
        serde_json::to_vec(request).map_err(|e| HostError::lasting(format!("write request: {e}")))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|e| failed("write to", e))?;
    let mut reply = Vec::new();
    BufReader::new(stream.take(REPLY_BYTES_MAX))
        .read_until(b'\n', &mut reply)
        .map_err(|e| failed("read from", e))?;
    if reply.last() != Some(&b'\n') {
        return Err(HostError::passing(format!(
            "proxy at {} closed in the middle of a reply",
            socket.display()
        )));
    }
    match serde_json::from_slice(&reply) {
        Ok(Reply::Ok(answer)) => Ok(answer),
        Ok(Reply::Error { field, message }) if field.is_empty() => Err(HostError::lasting(message)),
        Ok(Reply::Error { field, message }) => Err(HostError::lasting(format!("{field}: {message}"))),
        Err(error) => Err(HostError::lasting(format!("reply of the proxy is not understood: {error}"))),
    }
}
