//! What the proxy answers by itself before routing.

use super::{FieldId, Method, RequestHead};

/// An answer that needs no upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalAnswer {
    /// TRACE is refused (it echoes credentials): 405.
    TraceRefused,
    /// CONNECT is refused (this is no forward proxy): 501, and the connection closes.
    ConnectRefused,
    /// OPTIONS that must not go further (`Max-Forwards: 0`, RFC 9110 section 7.6.2) or that asks about the proxy
    /// itself (`*`): [`super::write_options_answer`].
    Options,
}

impl LocalAnswer {
    /// Status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            LocalAnswer::TraceRefused => 405,
            LocalAnswer::ConnectRefused => 501,
            LocalAnswer::Options => 204,
        }
    }

    /// Stable name for counters, logs and error bodies.
    pub const fn name(self) -> &'static str {
        match self {
            LocalAnswer::TraceRefused => "trace_refused",
            LocalAnswer::ConnectRefused => "connect_refused",
            LocalAnswer::Options => "options_answered",
        }
    }
}

/// Whether the request is answered here. Any body it has must still be read, or the connection closed.
pub fn local_answer(head: &RequestHead, buf: &[u8]) -> Option<LocalAnswer> {
    match head.method {
        Method::Trace => Some(LocalAnswer::TraceRefused),
        Method::Connect => Some(LocalAnswer::ConnectRefused),
        Method::Options if head.asks_about_server() => Some(LocalAnswer::Options),
        Method::Options => (max_forwards(head, buf) == Some(0)).then_some(LocalAnswer::Options),
        _ => None,
    }
}

/// Value of Max-Forwards if it is a number; capped at `u32::MAX`.
pub(super) fn max_forwards(head: &RequestHead, buf: &[u8]) -> Option<u32> {
    let value = head.fields(buf).get(FieldId::MaxForwards)?;
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0u32, |n, &d| n.saturating_mul(10).saturating_add(u32::from(d - b'0'))))
}

/// Whether to send [`super::CONTINUE_100`] now: the client waits for it and none of its body has arrived.
/// `body_bytes_buffered` are those already received behind the head.
pub fn expects_continue(head: &RequestHead, body_bytes_buffered: usize) -> bool {
    head.expect_continue && body_bytes_buffered == 0
}
