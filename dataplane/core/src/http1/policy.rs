//! What the proxy answers by itself before routing.

use super::RequestHead;

/// An answer that needs no upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalAnswer {
    /// TRACE is refused (it echoes credentials): 405.
    TraceRefused,
    /// CONNECT is refused (this is no forward proxy): 501, and the connection closes.
    ConnectRefused,
    /// OPTIONS that must not go further (`Max-Forwards: 0`) or that asks about the proxy itself (`*`):
    /// [`super::write_options_answer`].
    Options,
}

/// Whether the request is answered here.
pub fn local_answer(head: &RequestHead, buf: &[u8]) -> Option<LocalAnswer> {
    let _ = (head, buf);
    unimplemented!()
}

/// Whether to send [`super::CONTINUE_100`] now: the client waits for it and none of its body has arrived.
/// `body_bytes_buffered` are those already received behind the head.
pub fn expects_continue(head: &RequestHead, body_bytes_buffered: usize) -> bool {
    head.expect_continue && body_bytes_buffered == 0
}
