//! The io_uring driver, the [`Io`] trait and its simulated twin.
//!
//! The only user of io_uring, and the only place of the data plane with unsafe code.
//!
//! * [`arena`]: the memory of the RAM store.
//! * [`io`]: the trait sessions are written against, its handles and events.
//! * [`payload`]: bytes on their way out.
//! * [`ring`]: the real one, a ring per thread.
//! * [`sim`]: many endpoints in one thread, seeded.
//! * [`sys`]: sockets, descriptor passing, pinning, signals.

pub mod arena;
mod bufring;
pub mod io;
pub mod payload;
pub mod ring;
mod send;
pub mod sim;
pub mod sys;

pub use io::{BufGroup, Event, Io, RecvBuf, Sock, Wake};
pub use payload::{Payload, Slice, StableBytes};
pub use ring::{Poll, Uring};
