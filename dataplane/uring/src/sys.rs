//! The few system calls beside the ring: sockets, descriptor passing, pinning, signals.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Descriptors in one message at most: `SCM_MAX_FD` of the kernel.
pub const FDS_MAX: usize = 253;

/// A socket address as the kernel wants it.
pub(crate) struct SockAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl SockAddr {
    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(addr: SocketAddr) -> Self {
        // SAFETY: all-zero is a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
        let len = match addr {
            SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(sin) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in6.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(sin6) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, len: len as libc::socklen_t }
    }
}

fn from_storage(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says the kernel wrote a sockaddr_in.
            let sin = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(sin.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says the kernel wrote a sockaddr_in6.
            let sin6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(ip), u16::from_be(sin6.sin6_port)))
        }
        _ => None,
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is an i32 on this stack for the whole call.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) }).map(drop)
}

/// A TCP socket for connecting to an address, with Nagle's delay off.
pub(crate) fn stream_socket(to: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a fresh descriptor nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    option(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    Ok(fd)
}

/// A listening TCP socket that shares its port (`SO_REUSEPORT`); accepted sockets inherit `TCP_NODELAY`.
pub fn listen(addr: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let fd = stream_socket(&addr)?;
    option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    if addr.is_ipv6() {
        option(fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    let raw = SockAddr::from(addr);
    // SAFETY: the address lives on this stack for the whole call and `len` is its length.
    check(unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.len()) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(fd)
}

/// Address a socket is bound to.
pub fn local(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    name(fd.as_raw_fd(), libc::getsockname)
}

pub(crate) fn peer(fd: RawFd) -> Option<SocketAddr> {
    name(fd, libc::getpeername)
}

type NameCall = unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut libc::socklen_t) -> i32;

fn name(fd: RawFd, call: NameCall) -> Option<SocketAddr> {
    // SAFETY: all-zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: both pointers are to this stack and `len` says how much may be written.
    let result = unsafe { call(fd, (&raw mut storage).cast(), &raw mut len) };
    if result < 0 { None } else { from_storage(&storage) }
}

pub(crate) fn linger_zero(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: `linger` is on this stack for the whole call. A failure only makes the close orderly.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), len) };
}

/// Sends FIN.
pub(crate) fn shutdown_write(fd: RawFd) {
    // SAFETY: no pointers. It fails only when the connection is gone already.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

pub(crate) fn set_nonblocking(fd: RawFd, on: bool) {
    let flags = if on { libc::O_RDWR | libc::O_NONBLOCK } else { libc::O_RDWR };
    // SAFETY: no pointers; a socket has no other status flags that matter here.
    unsafe { libc::fcntl(fd, libc::F_SETFL, flags) };
}

/// Sends without blocking, telling TCP that more follows.
pub(crate) fn send_more(fd: RawFd, bytes: &[u8]) -> Result<usize, i32> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_MORE;
    // SAFETY: `bytes` is borrowed for the whole call.
    let n = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    if n < 0 { Err(errno()) } else { Ok(n as usize) }
}

/// Sends file pages on a socket that is in non-blocking mode.
pub(crate) fn sendfile(fd: RawFd, file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<usize, i32> {
    let mut offset = offset as libc::off_t;
    // SAFETY: `offset` is on this stack for the whole call.
    let n = unsafe { libc::sendfile(fd, file.as_raw_fd(), &raw mut offset, len) };
    if n < 0 { Err(errno()) } else { Ok(n as usize) }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: a fresh descriptor nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn eventfd_write(fd: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes on this stack. It can only fail when the counter is full: then it wakes anyway.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Binds the calling thread to one CPU.
pub fn pin_thread(cpu: usize) -> io::Result<()> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `cpu` is inside the set by the check above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is on this stack for the whole call.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) }).map(drop)
}

/// CPUs the calling thread may run on, in ascending order.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the set is on this stack for the whole call.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } < 0 {
        return vec![0];
    }
    // SAFETY: every index is inside the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Sends bytes with descriptors attached (`SCM_RIGHTS`).
pub fn send_fds(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.is_empty() || fds.len() > FDS_MAX || bytes.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let data = size_of_val(raw.as_slice());
    // SAFETY: pure arithmetic.
    let space = unsafe { libc::CMSG_SPACE(data as u32) } as usize;
    // u64 elements: a control buffer is aligned as cmsghdr.
    let mut control = vec![0u64; space.div_ceil(8)];
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = space;
    // SAFETY: `msg` describes the control buffer above.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const msg) };
    // SAFETY: not null, aligned and inside the control buffer, which has room for one header.
    let header = unsafe { &mut *header };
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: pure arithmetic.
    header.cmsg_len = unsafe { libc::CMSG_LEN(data as u32) } as usize;
    // SAFETY: the header is the first of a buffer of `space` bytes.
    let target = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: `data` bytes fit behind the header, and the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(raw.as_ptr().cast::<u8>(), target, data) };
    // SAFETY: everything `msg` points at lives on this stack for the whole call.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const msg, libc::MSG_NOSIGNAL) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let sent = sent as usize;
    if sent < bytes.len() { io::Write::write_all(&mut &*stream, &bytes[sent..]) } else { Ok(()) }
}

/// Receives bytes and the descriptors attached to them; 0 bytes is the end of the stream.
pub fn recv_fds(stream: &UnixStream, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    // SAFETY: pure arithmetic.
    let space = unsafe { libc::CMSG_SPACE((FDS_MAX * size_of::<RawFd>()) as u32) } as usize;
    let mut control = vec![0u64; space.div_ceil(8)];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = space;
    // SAFETY: everything `msg` points at lives on this stack for the whole call.
    let n = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut msg, libc::MSG_CMSG_CLOEXEC) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `msg` was filled by the kernel and `control` is alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const msg) };
    while !header.is_null() {
        // SAFETY: not null and inside the control buffer by CMSG_FIRSTHDR and CMSG_NXTHDR.
        let h = unsafe { &*header };
        if h.cmsg_level == libc::SOL_SOCKET && h.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: pure arithmetic.
            let count = (h.cmsg_len - unsafe { libc::CMSG_LEN(0) } as usize) / size_of::<RawFd>();
            // SAFETY: the header is inside the control buffer.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for i in 0..count {
                // SAFETY: `count` descriptors follow the header by its length.
                let place = unsafe { data.add(i) };
                // SAFETY: inside the control buffer; it may be unaligned.
                let fd = unsafe { place.read_unaligned() };
                // SAFETY: the kernel installed this descriptor for us alone.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: `header` is a header of `msg`.
        header = unsafe { libc::CMSG_NXTHDR(&raw const msg, header) };
    }
    if msg.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("descriptors were cut off"));
    }
    Ok(n as usize)
}

/// SIGTERM and SIGINT, taken out of asynchronous delivery.
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks both in the calling thread; threads started afterwards inherit it. SIGPIPE is ignored.
    pub fn block() -> io::Result<Self> {
        // SAFETY: all-zero is storage for a set; emptied below.
        let mut set: libc::sigset_t = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: the set is on this stack.
        unsafe { libc::sigemptyset(&raw mut set) };
        for signal in [libc::SIGTERM, libc::SIGINT] {
            // SAFETY: the set is on this stack and the signal number is valid.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: the set is on this stack for the whole call.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        Ok(Self { set })
    }

    /// Waits for one of them.
    pub fn wait(&self) -> io::Result<i32> {
        let mut signal = 0;
        // SAFETY: both live for the whole call.
        match unsafe { libc::sigwait(&raw const self.set, &raw mut signal) } {
            0 => Ok(signal),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn listeners_share_a_port_and_travel_between_processes() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let addr = local(first.as_fd()).unwrap();
        let second = listen(addr, 16).unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        send_fds(&a, b"two\n", &[first.as_fd(), second.as_fd()]).unwrap();
        let (mut bytes, mut fds) = ([0; 16], Vec::new());
        assert_eq!(recv_fds(&b, &mut bytes, &mut fds).unwrap(), 4);
        assert_eq!(&bytes[..4], b"two\n");
        assert_eq!(fds.len(), 2);
        assert!(fds.iter().all(|fd| local(fd.as_fd()) == Some(addr)));
    }

    #[test]
    fn addresses_survive_the_kernel() {
        let fd = listen("[::1]:0".parse().unwrap(), 1).unwrap();
        let addr = local(fd.as_fd()).unwrap();
        assert!(addr.is_ipv6() && addr.port() != 0);
    }

    #[test]
    fn pinning_moves_this_thread_alone() {
        let all = allowed_cpus();
        std::thread::spawn(move || {
            pin_thread(all[0]).unwrap();
            assert_eq!(allowed_cpus(), vec![all[0]]);
        })
        .join()
        .unwrap();
    }
}
