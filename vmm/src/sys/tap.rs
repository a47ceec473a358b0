//! Tap devices: made or taken over, set up, and read and written straight from guest memory.

use crate::ram::GuestRam;
use crate::virtio::queue::Segment;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Length of the header before every frame: with the count of merged buffers (VIRTIO 1.2, 5.1.6).
pub const HEADER: usize = 12;
/// Most pieces of a frame; what one call takes (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

/// What the guest can take without the host's help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Packets without a checksum.
    pub checksum: bool,
    /// Large IPv4 segments.
    pub tso4: bool,
    /// Large IPv6 segments.
    pub tso6: bool,
}

/// A tap device with a header before every frame.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Opens the tap of that name; makes it if there is none. `EBUSY`: it belongs to another process.
    pub fn open(name: &str) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let mut request = ifreq(name)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        ioctl(&file, TUNSETIFF, &mut request)?;
        let mut len = HEADER as libc::c_int;
        ioctl(&file, TUNSETVNETHDRSZ, &mut len)?;
        Ok(Self { file, name: name.to_owned() })
    }

    /// Tells the kernel what the guest takes.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let bits = [(offloads.checksum, 1), (offloads.tso4, 2), (offloads.tso6, 4)];
        let flags: libc::c_ulong = bits.iter().map(|(on, bit)| if *on { *bit } else { 0 }).sum();
        // SAFETY: this request takes its argument by value.
        let r = unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD as _, flags) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives the host's end an address, if there is one to give, and brings it up.
    pub fn bring_up(&self, address: Option<(Ipv4Addr, u8)>) -> io::Result<()> {
        // Any socket serves for these requests.
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        if let Some((address, bits)) = address {
            let mask = Ipv4Addr::from(u32::MAX << (32 - u32::from(bits)));
            for (request, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
                let mut argument = ifreq(&self.name)?;
                argument.ifr_ifru.ifru_addr = sockaddr(value);
                ioctl(&socket, request, &mut argument)?;
            }
        }
        let mut argument = ifreq(&self.name)?;
        ioctl(&socket, libc::SIOCGIFFLAGS, &mut argument)?;
        // SAFETY: the kernel just filled in the flags.
        let flags = unsafe { argument.ifr_ifru.ifru_flags };
        argument.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        ioctl(&socket, libc::SIOCSIFFLAGS, &mut argument)
    }

    /// Takes one frame into guest memory; says how long it is with its header. `WouldBlock`: there is none.
    pub fn receive(&self, ram: &GuestRam, into: &[Segment]) -> io::Result<usize> {
        let vectors = vectors(ram, into)?;
        // SAFETY: the vectors name guest memory, which `ram` keeps mapped during the call.
        let n = unsafe { libc::readv(self.file.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }

    /// Sends one frame, with its header, from guest memory.
    pub fn send(&self, ram: &GuestRam, from: &[Segment]) -> io::Result<()> {
        let vectors = vectors(ram, from)?;
        // SAFETY: the vectors name guest memory, which `ram` keeps mapped during the call.
        let n =
            unsafe { libc::writev(self.file.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn vectors(ram: &GuestRam, segments: &[Segment]) -> io::Result<Vec<libc::iovec>> {
    if segments.len() > MAX_PIECES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    segments
        .iter()
        .map(|s| {
            let slice = ram.slice(s.addr, s.len as usize).map_err(io::Error::other)?;
            Ok(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() })
        })
        .collect()
}

fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: a structure of numbers, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: a structure of numbers, for which zeros are a value.
    let mut raw: libc::sockaddr = unsafe { std::mem::zeroed() };
    raw.sa_family = libc::AF_INET as libc::sa_family_t;
    // sockaddr_in: two bytes of port, then the address.
    for (to, from) in raw.sa_data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    raw
}

fn ioctl<T>(fd: &impl AsRawFd, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: callers pass the structure that the request takes; it is alive during the call.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
