//! Hears from the kernel that neighbours, routes, interfaces or addresses changed (rtnetlink(7) groups).
//!
//! A thread of its own, which only says that something changed and of what sort; what is there now is read by
//! whoever is told. The first change is told at once, those of the next `GAP` together.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Groups of rtnetlink: link 1, neighbour 3, IPv4 address 5, IPv4 route 7, IPv6 address 9, IPv6 route 11.
const GROUPS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
/// A look costs a dump of all neighbours; ten a second are few.
const GAP: Duration = Duration::from_millis(100);
/// Room for a burst of 10,000 neighbours; more is one change like any other.
const RECV_BUFFER_BYTES: usize = 2 << 20;
const BUFFER_BYTES: usize = 64 << 10;

/// Routes, interfaces or addresses changed since this was last cleared, not only neighbours.
pub type Dirty = Arc<AtomicBool>;

/// Starts the thread; `changed` is called on it and says whether anybody still listens.
///
/// # Errors
/// The kernel gives no such socket or no thread.
pub fn start(dirty: Dirty, changed: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    set_socket_recv_buffer_size(&socket, RECV_BUFFER_BYTES)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    let watch = move || {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut flags = RecvFlags::empty();
            // Everything that is there already belongs to the same change.
            loop {
                match hear(&socket, &mut buffer, flags) {
                    Heard::Nothing => break,
                    Heard::Neighbours => {}
                    Heard::More => dirty.store(true, Ordering::Release),
                    Heard::Broken => return,
                }
                flags = RecvFlags::DONTWAIT;
            }
            if !changed() {
                return;
            }
            std::thread::sleep(GAP);
        }
    };
    std::thread::Builder::new().name("links".to_owned()).spawn(watch).map(drop)
}

enum Heard {
    /// No message waits.
    Nothing,
    /// Of neighbours only.
    Neighbours,
    /// Of routes, interfaces or addresses, or messages were lost.
    More,
    /// The socket gives nothing any more.
    Broken,
}

fn hear(socket: &OwnedFd, buffer: &mut [u8], flags: RecvFlags) -> Heard {
    match recv(socket, &mut *buffer, flags) {
        Ok((len, _)) if only_neighbours(&buffer[..len]) => Heard::Neighbours,
        Ok(_) | Err(Errno::NOBUFS) => Heard::More,
        // A signal in the wait for the first message is told as a change, which costs one look.
        Err(Errno::AGAIN | Errno::INTR) => Heard::Nothing,
        Err(error) => {
            tracing::warn!(%error, "changes of neighbours are not heard of any more; they are found by looking");
            Heard::Broken
        }
    }
}

/// Every message of a datagram is about a neighbour.
fn only_neighbours(mut rest: &[u8]) -> bool {
    while rest.len() >= 16 {
        let size = usize::try_from(u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]])).unwrap_or(0);
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        if size < 16 || size > rest.len() || !(RTM_NEWNEIGH..=RTM_GETNEIGH).contains(&kind) {
            return false;
        }
        rest = &rest[size.next_multiple_of(4).min(rest.len())..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_about_anything_else_are_told_apart() {
        let message = |kind: u16| [&16u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        assert!(only_neighbours(&message(RTM_NEWNEIGH)));
        assert!(!only_neighbours(&[message(RTM_NEWNEIGH), message(24)].concat()));
        assert!(!only_neighbours(&[1, 2, 3]));
        assert!(!only_neighbours(&[&[200u8, 0, 0, 0, 28, 0][..], &[0; 10]].concat()));
    }
}
