//! Every limit and timeout of a worker, with its reason. Each has a counter of its own in [`crate::stats`].

use sluice_core::http1::Limits;

/// Sizes and times; tests and simulations make them small.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Client connections of one worker. A refused one is closed at once; 60,000 leaves room below the default
    /// 65,536 slots of a ring for upstream connections.
    pub clients_max: u32,
    /// Upstream connections of one worker to one address, busy and idle.
    pub upstreams_per_target_max: u32,
    /// Idle upstream connections kept for one address; more are closed after use.
    pub idle_per_target_max: usize,
    /// Requests answered on one connection; bounds what one connection can pin to one worker. 0: no limit.
    pub requests_per_connection_max: u32,
    /// From the first byte of a head to its last (a slow sender holds a connection at most this long).
    pub head_ms: u64,
    /// A client connection without a request while draining: clients that are about to send are told to close
    /// by the answer, which no client can mistake; only the others see a FIN.
    pub drain_idle_ms: u64,
    /// A client connection without a request.
    pub idle_ms: u64,
    /// Between two parts of a request body.
    pub body_ms: u64,
    /// TCP handshake with an upstream.
    pub connect_ms: u64,
    /// From the end of the request to the response head, and between two parts of the response body.
    pub response_ms: u64,
    /// Client takes no byte of what is to be sent.
    pub send_stall_ms: u64,
    /// After our FIN, how long bytes of the client are discarded so that it is not reset before it has read
    /// the answer (RFC 9112 section 9.6).
    pub linger_ms: u64,
    /// An idle upstream connection is closed by us before servers usually do it (60 s, nginx and Apache 5 s and
    /// more): a request that meets their FIN costs a retry.
    pub upstream_idle_ms: u64,
    /// How long a peer, parent or origin address that refused connections is passed over.
    pub down_ms: u64,
    /// A waiter for another's fill is elected anew when no byte came for so long.
    pub fill_stall_ms: u64,
    /// Request body discarded after an early answer to keep a connection, bytes.
    pub discard_max: u64,
    /// Bytes of a client's that are buffered while its request is being served (pipelining).
    pub pipelined_max: usize,
    /// Bytes queued towards one side beyond which the other is no longer read.
    pub queue_high: usize,
    /// Bytes queued below which it is read again.
    pub queue_low: usize,
    /// Retries granted in a burst.
    pub retry_burst: u32,
    /// Further retries granted, per 100 requests.
    pub retry_percent: u32,
    /// Candidates tried for one request.
    pub attempts_max: u8,
    /// Message limits.
    pub http: Limits,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            clients_max: 60_000,
            upstreams_per_target_max: 4096,
            idle_per_target_max: 512,
            requests_per_connection_max: 0,
            head_ms: 10_000,
            drain_idle_ms: 1_000,
            idle_ms: 65_000,
            body_ms: 30_000,
            connect_ms: 3_000,
            response_ms: 60_000,
            send_stall_ms: 30_000,
            linger_ms: 2_000,
            upstream_idle_ms: 30_000,
            down_ms: 1_000,
            fill_stall_ms: 10_000,
            discard_max: 256 << 10,
            pipelined_max: 64 << 10,
            queue_high: 256 << 10,
            queue_low: 64 << 10,
            retry_burst: 100,
            retry_percent: 20,
            attempts_max: 6,
            http: Limits::DEFAULT,
        }
    }
}
