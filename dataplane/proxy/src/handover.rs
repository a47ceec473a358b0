//! Taking over the listeners of a running proxy.

use sluice_api::proxy_admin::{Reply, Request};
use sluice_uring::sys;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The predecessor answers at once or is not well.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there are no listeners.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The predecessor's socket cannot be used.
    #[error("admin socket of the predecessor: {0}")]
    Io(#[from] io::Error),
    /// It refused.
    #[error("the predecessor refused: {0}")]
    Refused(String),
    /// It answered something else.
    #[error("the predecessor answered {0:?}")]
    Reply(String),
}

/// Connects to the predecessor now, so that its socket's path may be taken over.
pub fn reach(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    Ok(stream)
}

/// Asks for the listeners; from then on the predecessor accepts nothing.
pub fn take(mut stream: &UnixStream, deadline_ms: u64) -> Result<Vec<OwnedFd>, TakeoverError> {
    let mut line = serde_json::to_vec(&Request::Handover { deadline_ms }).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let (mut reply, mut fds, mut chunk) = (Vec::new(), Vec::new(), [0; 4096]);
    while !reply.ends_with(b"\n") {
        let n = sys::recv_fds(stream, &mut chunk, &mut fds)?;
        if n == 0 {
            break;
        }
        reply.extend_from_slice(&chunk[..n]);
    }
    match serde_json::from_slice(&reply) {
        Ok(Reply::Ok(_)) if !fds.is_empty() => Ok(fds),
        Ok(Reply::Error { message, .. }) => Err(TakeoverError::Refused(message)),
        _ => Err(TakeoverError::Reply(String::from_utf8_lossy(&reply).into_owned())),
    }
}
