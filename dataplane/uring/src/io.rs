//! The seam between sessions and the kernel.
//!
//! One thread owns an [`Io`]. Sessions hold [`Sock`] handles and are told [`Event`]s; they never see a file
//! descriptor, a clock or a submission. What must stay true for every implementation:
//!
//! * After [`Io::close`] no event handed out by a later [`Io::wait`] names that handle; a handle whose slot
//!   was given to another socket differs in its generation.
//! * At most one send per socket is under way; it owns its bytes until [`Event::Sent`] says `done`.
//! * A [`RecvBuf`] is owned by whoever holds it and goes back by [`Io::release`] exactly once.

use crate::payload::Payload;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A socket or listener of one [`Io`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sock {
    /// Slot, dense from 0: usable as an index of the session table.
    pub index: u32,
    /// Which user of the slot.
    pub generation: u32,
}

impl Sock {
    /// No socket; never handed out.
    pub const NONE: Self = Self { index: u32::MAX, generation: u32::MAX };
}

/// Which pool of receive buffers a socket draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufGroup {
    /// Request heads: many, small.
    Small = 0,
    /// Upstream bodies: few, large.
    Large = 1,
}

/// Received bytes, lent by the kernel's buffer pool.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a buffer not released is lost to the pool"]
pub struct RecvBuf {
    pub(crate) group: u8,
    pub(crate) id: u16,
    pub(crate) len: u32,
}

impl RecvBuf {
    /// Bytes in it, at least 1.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Never true for a buffer that was handed out.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted; nothing is armed on it yet.
    Accepted {
        /// The listener.
        listener: Sock,
        /// The new connection.
        sock: Sock,
    },
    /// Accepting ended: after [`Io::stop_accept`], or with the error that ended it.
    AcceptEnded {
        /// The listener.
        listener: Sock,
        /// `ECANCELED` after a stop; `EMFILE` and the like otherwise.
        errno: i32,
    },
    /// A connect ended.
    Connected {
        /// As returned by [`Io::connect`].
        sock: Sock,
        /// 0, or why not.
        errno: i32,
    },
    /// Bytes came in.
    Data {
        /// The connection.
        sock: Sock,
        /// The bytes.
        buf: RecvBuf,
    },
    /// The other side will send no more, or the connection broke.
    Eof {
        /// The connection.
        sock: Sock,
        /// 0 for an orderly end.
        errno: i32,
    },
    /// Receiving ended before the end of the stream: paused, or out of buffers. Arm it again when wanted.
    RecvIdle {
        /// The connection.
        sock: Sock,
        /// The pool was empty.
        starved: bool,
    },
    /// Bytes of a payload went to the kernel.
    Sent {
        /// The connection.
        sock: Sock,
        /// Bytes since the last event of this payload.
        bytes: u32,
        /// The whole payload went, or the send failed: another one may follow.
        done: bool,
        /// Not 0: the send failed.
        errno: i32,
    },
    /// [`Wake::wake`] was called since the last wait.
    Woken,
}

/// Wakes the thread that waits in an [`Io`]; cheap when it is already awake.
pub trait Wake: Send + Sync {
    /// Makes the current or next [`Io::wait`] return with [`Event::Woken`].
    fn wake(&self);
}

/// Sockets of one thread.
pub trait Io {
    /// Takes over a listening socket and starts accepting on it.
    fn accept(&mut self, listener: Sock);
    /// Ends accepting; [`Event::AcceptEnded`] follows after every connection already accepted was told.
    fn stop_accept(&mut self, listener: Sock);
    /// Opens a connection; [`Event::Connected`] follows.
    fn connect(&mut self, to: SocketAddr) -> io::Result<Sock>;
    /// Keeps receiving until [`Event::Eof`] or [`Event::RecvIdle`]. Does nothing while armed.
    fn recv(&mut self, sock: Sock, group: BufGroup);
    /// Stops receiving; some [`Event::Data`] may still come before [`Event::RecvIdle`].
    fn pause_recv(&mut self, sock: Sock);
    /// Sends a payload in full, in parts as the peer takes it. None may be under way.
    fn send(&mut self, sock: Sock, payload: Payload);
    /// Sends FIN after what was sent.
    fn shutdown_write(&mut self, sock: Sock);
    /// Forgets the socket: cancels what is under way and closes it.
    fn close(&mut self, sock: Sock);
    /// As `close`, with a reset instead of an orderly end.
    fn abort(&mut self, sock: Sock);
    /// The bytes of a buffer.
    fn data(&self, buf: &RecvBuf) -> &[u8];
    /// Gives a buffer back to its pool.
    fn release(&mut self, buf: RecvBuf);
    /// An empty byte vector, from those whose payload was sent.
    fn scratch(&mut self) -> Vec<u8>;
    /// Gives a vector back for [`Io::scratch`].
    fn recycle(&mut self, bytes: Vec<u8>);
    /// Address of the other side.
    fn peer(&self, sock: Sock) -> Option<SocketAddr>;
    /// The waker of this thread.
    fn waker(&self) -> Arc<dyn Wake>;
    /// Hands out everything submitted since the last call and waits for at least one event, at most
    /// `timeout`; appends what happened to `events`.
    fn wait(&mut self, timeout: Duration, events: &mut Vec<Event>) -> io::Result<()>;
}
