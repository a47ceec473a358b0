//! Polled I/O beside the interrupt-driven default: one datagram echo, served in five ways.
//!
//! The sockets are served by the product's own driver in each of its poll modes; AF_XDP has no sockets, its
//! server turns the frames round by itself. Client and server are in namespaces of their own over veth, where
//! AF_XDP has copy mode only.
//!
//! * [`echo`]: the server on the driver. * [`xsk`]: the server on AF_XDP. * [`load`]: the client.
//! * [`run`]: rounds and rows.

pub mod echo;
pub mod load;
pub mod run;
#[allow(unsafe_code)]
pub mod xsk;

use clap::ValueEnum;

/// First port of the server; flow `n` has the `n`th.
pub const SERVER_PORT: u16 = 9000;
/// First port of the client.
pub const CLIENT_PORT: u16 = 20_000;
/// Flows of the load.
pub const FLOWS: u16 = 64;

/// How the server learns of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// io_uring, woken by the device: the default.
    Interrupt,
    /// io_uring, submissions taken by a polling kernel thread.
    Sqpoll,
    /// io_uring, the device queue polled before sleeping.
    Napi,
    /// AF_XDP, asleep in `poll` while nothing comes.
    AfXdp,
    /// AF_XDP, looking at its ring without a pause.
    AfXdpSpin,
}

impl Mode {
    /// All, the base first.
    pub const ALL: [Mode; 5] = [Mode::Interrupt, Mode::Sqpoll, Mode::Napi, Mode::AfXdp, Mode::AfXdpSpin];

    /// Name in the rows.
    pub const fn subject(self) -> &'static str {
        match self {
            Mode::Interrupt => "sluice interrupt",
            Mode::Sqpoll => "sluice sqpoll",
            Mode::Napi => "sluice napi",
            Mode::AfXdp => "af_xdp",
            Mode::AfXdpSpin => "af_xdp spinning",
        }
    }
}
