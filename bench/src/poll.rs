//! Readiness by edge-triggered epoll, and the few socket calls the standard library lacks.

use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU64;

/// Events taken per wait; more are taken by the next wait.
const EVENTS_PER_WAIT: usize = 512;

/// Sleep slack of a polling thread, ns. The default of 50 us would show as latency at high rates.
const TIMER_SLACK_NS: u64 = 1_000;

/// Pending connections of a listener; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What happened to one registered descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The number given at registration.
    pub token: u64,
    /// Readable, closed by the other side, or failed.
    pub read: bool,
    /// Writable or failed.
    pub write: bool,
    /// The other side sends no more.
    pub ended: bool,
}

/// One epoll instance and its event buffer.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    /// A new instance. Lowers the timer slack of the calling thread, which must be the one that waits.
    pub fn new() -> io::Result<Self> {
        rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_PER_WAIT) })
    }

    /// Watches a connection in both directions, edge-triggered; ends when the descriptor is closed.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)?)
    }

    /// Watches for input, level-triggered: for listeners and datagram sockets.
    pub fn add_input(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    /// Waits for events, at most `timeout_ns` (`None`: as long as it takes).
    pub fn wait(&mut self, timeout_ns: Option<u64>) -> io::Result<()> {
        let timeout = timeout_ns
            .map(|ns| Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Number of events of the last wait.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether the last wait brought nothing.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// One event of the last wait.
    pub fn ready(&self, index: usize) -> Ready {
        let event = self.events[index];
        let flags = event.flags;
        let failed = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        Ready {
            token: event.data.u64(),
            read: flags.intersects(failed | epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
            write: flags.intersects(failed | epoll::EventFlags::OUT),
            ended: flags.intersects(failed | epoll::EventFlags::RDHUP),
        }
    }
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn nonblocking() -> SocketFlags {
    SocketFlags::NONBLOCK | SocketFlags::CLOEXEC
}

/// Starts a connect; `true` when it is complete already.
pub fn start_connect(address: SocketAddr, source: Option<SocketAddr>) -> io::Result<(TcpStream, bool)> {
    let fd = socket_with(family(address), SocketType::STREAM, nonblocking(), None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    if let Some(source) = source {
        bind(&fd, &source)?;
    }
    let done = match connect(&fd, &address) {
        Ok(()) => true,
        Err(rustix::io::Errno::INPROGRESS) => false,
        Err(e) => return Err(e.into()),
    };
    Ok((TcpStream::from(fd), done))
}

/// How a started connect ended.
pub fn connect_result(stream: &TcpStream) -> io::Result<()> {
    Ok(sockopt::socket_error(stream)??)
}

/// An address that is added later (a VIP on a node that just joined) can be listened on already.
fn freebind(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(fd, true)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_freebind(fd, true)?,
    }
    Ok(())
}

/// A non-blocking listener; several may share one address (`SO_REUSEPORT`).
pub fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let fd = socket_with(family(address), SocketType::STREAM, nonblocking(), None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    sockopt::set_socket_reuseport(&fd, true)?;
    freebind(&fd, address)?;
    bind(&fd, &address)?;
    listen(&fd, BACKLOG)?;
    Ok(TcpListener::from(fd))
}

/// A non-blocking datagram socket bound to `address`.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let fd = socket_with(family(address), SocketType::DGRAM, nonblocking(), None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    freebind(&fd, address)?;
    bind(&fd, &address)?;
    Ok(UdpSocket::from(fd))
}

/// Pins the calling thread to one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no CPU {cpu}")));
    }
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// A flag that SIGINT and SIGTERM set.
pub fn stop_flag() -> io::Result<std::sync::Arc<std::sync::atomic::AtomicBool>> {
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second signal ends the process at once, should the first not be enough.
        signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone())?;
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}

/// Descriptors wanted: 100,000 connections with both ends in one process, and some.
const DESCRIPTORS: u64 = 1 << 18;

/// Raises the limit of descriptors as far as it may: the hard limit too with the privilege to do so.
pub fn raise_descriptor_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(DESCRIPTORS);
    let wanted = Rlimit { current: Some(DESCRIPTORS), maximum: Some(hard.max(DESCRIPTORS)) };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        setrlimit(Resource::Nofile, Rlimit { current: Some(hard.min(DESCRIPTORS)), ..limit })?;
    }
    Ok(())
}

/// Descriptors this process and its children may open.
pub fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}
