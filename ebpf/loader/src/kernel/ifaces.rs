//! MAC and MTU of an interface of this thread's network namespace (netdevice(7)).

use crate::error::{Error, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::AsRawFd;

/// An interface as the kernel knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iface {
    pub(crate) ifindex: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
}

fn request(name: &str) -> Option<libc::ifreq> {
    // SAFETY: ifreq is integers, arrays and a union of them; all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Some(request)
}

/// Asks for index, MAC and MTU.
pub(crate) fn iface(name: &str) -> Result<Iface> {
    let no = || Error::NoInterface(name.to_string());
    let fail = |what| move |source: io::Error| Error::Interface { what, iface: name.to_string(), source };
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| fail("socket")(e.into()))?;
    let ask = |code: libc::c_ulong| -> io::Result<libc::ifreq> {
        let mut request = request(name).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        // SAFETY: the request is an ifreq that outlives the call, as these three codes take.
        match unsafe { libc::ioctl(socket.as_raw_fd(), code as _, &raw mut request) } {
            0 => Ok(request),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let index = ask(libc::SIOCGIFINDEX as _).map_err(|e| match e.raw_os_error() {
        Some(libc::ENODEV) => no(),
        _ => fail("index")(e),
    })?;
    let hardware = ask(libc::SIOCGIFHWADDR as _).map_err(fail("MAC"))?;
    let mtu = ask(libc::SIOCGIFMTU as _).map_err(fail("MTU"))?;
    // SAFETY: SIOCGIFINDEX filled this member.
    let ifindex = unsafe { index.ifr_ifru.ifru_ifindex } as u32;
    // SAFETY: SIOCGIFMTU filled this member.
    let mtu = unsafe { mtu.ifr_ifru.ifru_mtu } as u32;
    // SAFETY: SIOCGIFHWADDR filled this member.
    let bytes = unsafe { hardware.ifr_ifru.ifru_hwaddr }.sa_data;
    Ok(Iface { ifindex, mac: std::array::from_fn(|i| bytes[i] as u8), mtu })
}
