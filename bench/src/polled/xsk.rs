//! A datagram echo on AF_XDP: frames come from the driver's ring, are turned round and go back.
//!
//! One thread owns socket, rings and frame memory. What must stay true: the memory (`umem`) is dropped after
//! the socket and the rings, which is the order of the fields of `Rings`; no packet is kept over a turn.

use anyhow::{Context as _, Result, anyhow};
use aya::EbpfLoader;
use aya::maps::XskMap;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use xdp::nic::NicIndex;
use xdp::slab::{HeapSlab, Slab as _};
use xdp::socket::{PollTimeout, XdpSocket, XdpSocketBuilder};
use xdp::umem::UmemCfgBuilder;
use xdp::{CompletionRing, FillRing, RingConfigBuilder, RxRing, TxRing, Umem};

/// Entries of each ring.
const RING: u32 = 2048;
/// Frames of the memory: a full receive ring and a full send ring.
const FRAMES: u32 = 2 * RING;
/// Frames of one turn.
const BATCH: usize = 64;
/// The stop flag is looked at this often.
const WAKE: Duration = Duration::from_millis(100);
/// The queue stays taken for a moment after another socket on it was closed.
const BIND_TRIES: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(20);
const ETH: usize = 14;
const UDP_PROTO: u8 = 17;

struct Rings {
    fill: FillRing,
    rx: RxRing,
    tx: TxRing,
    done: CompletionRing,
    socket: XdpSocket,
    umem: Umem,
}

/// Serves queue 0 of `device` until `stop`; `ready` is called when datagrams may come.
pub fn serve(device: &str, spin: bool, stop: &AtomicBool, ready: impl FnOnce()) -> Result<()> {
    let mut ebpf = EbpfLoader::new().load(sluice_loader::object::BENCH).context("load the bench object")?;
    let index: u32 = std::fs::read_to_string(format!("/sys/class/net/{device}/ifindex"))
        .with_context(|| format!("index of {device}"))?
        .trim()
        .parse()?;
    let program: &mut Xdp = ebpf.program_mut("to_socket").context("no program to_socket")?.try_into()?;
    program.load().context("load to_socket")?;
    program.attach(device, XdpMode::Driver).context("attach to_socket")?;
    let mut sockets: XskMap<_> = ebpf.take_map("SOCKETS").context("no map SOCKETS")?.try_into()?;
    let mut rings = open(index)?;
    sockets.set(0, rings.socket.raw_fd(), 0).context("put the socket into the map")?;
    ready();
    let (mut come, mut go) = (HeapSlab::with_capacity(BATCH), HeapSlab::with_capacity(BATCH));
    while !stop.load(Ordering::Relaxed) {
        if !spin {
            rings.socket.poll_read(PollTimeout::new(Some(WAKE)))?;
        }
        rings.turn(&mut come, &mut go)?;
    }
    Ok(())
}

fn open(index: u32) -> Result<Rings> {
    let mut tries = 0;
    loop {
        let config = UmemCfgBuilder { frame_count: FRAMES, ..UmemCfgBuilder::default() };
        let config = config.build().map_err(|e| anyhow!("frame memory: {e:?}"))?;
        let mut umem = Umem::map(config).context("map frame memory")?;
        let mut builder = XdpSocketBuilder::new().context("make an AF_XDP socket")?;
        let sizes =
            RingConfigBuilder { rx_count: RING, tx_count: RING, fill_count: RING, completion_count: RING };
        let sizes = sizes.build().map_err(|e| anyhow!("ring sizes: {e:?}"))?;
        let (rings, mut flags) = builder.build_rings(&umem, sizes).context("make the rings")?;
        flags.force_copy();
        let mut fill = rings.fill_ring;
        // SAFETY: `umem` goes into the same `Rings` as the socket, after it in drop order.
        unsafe { fill.enqueue(&mut umem, RING as usize) };
        match builder.bind(NicIndex::new(index), 0, flags) {
            Ok(socket) => {
                return Ok(Rings {
                    fill,
                    rx: rings.rx_ring.context("no receive ring")?,
                    tx: rings.tx_ring.context("no send ring")?,
                    done: rings.completion_ring,
                    socket,
                    umem,
                });
            }
            Err(e) if tries == BIND_TRIES => return Err(e).context("bind the AF_XDP socket"),
            Err(_) => tries += 1,
        }
        std::thread::sleep(BIND_PAUSE);
    }
}

impl Rings {
    /// One batch: what came is turned round and sent.
    fn turn(&mut self, come: &mut HeapSlab, go: &mut HeapSlab) -> Result<()> {
        // SAFETY: the packets end in this turn, `umem` does not.
        let came = unsafe { self.rx.recv(&self.umem, come) };
        if came == 0 {
            return Ok(());
        }
        while let Some(mut packet) = come.pop_back() {
            if turn_round(&mut packet) {
                // Room for as many as came.
                let _none = go.push_front(packet);
            } else {
                self.umem.free_packet(packet);
            }
        }
        // SAFETY: as above; the frames are the kernel's until they come back by the completion ring.
        let queued = unsafe { self.tx.send(go) };
        while let Some(packet) = go.pop_back() {
            // The send ring is full: dropped, as a full device queue would.
            self.umem.free_packet(packet);
        }
        if queued > 0 {
            self.kick()?;
        }
        self.done.dequeue(&mut self.umem, RING as usize);
        // SAFETY: as in `open`.
        unsafe { self.fill.enqueue(&mut self.umem, came) };
        Ok(())
    }

    /// Copy mode sends in the system call, a batch at a time: `EAGAIN` says that more is queued.
    fn kick(&self) -> Result<()> {
        // SAFETY: the socket is open as long as `self`.
        let fd = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        loop {
            match rustix::net::send(fd, &[], SendFlags::DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::BUSY | Errno::INTR) => {}
                // Out of buffers for now: the frames stay queued for the next turn.
                Err(Errno::NOBUFS) => return Ok(()),
                Err(e) => return Err(e).context("kick the send ring"),
            }
        }
    }
}

/// Swaps MACs, addresses and ports of an IPv4 UDP frame without options; `false`: it is none.
fn turn_round(frame: &mut [u8]) -> bool {
    if frame.len() < ETH + 28 || frame[12..15] != [8, 0, 0x45] || frame[ETH + 9] != UDP_PROTO {
        return false;
    }
    let (a, b) = frame.split_at_mut(6);
    a.swap_with_slice(&mut b[..6]);
    let (a, b) = frame[ETH + 12..].split_at_mut(4);
    a.swap_with_slice(&mut b[..4]);
    frame.swap(ETH + 20, ETH + 22);
    frame.swap(ETH + 21, ETH + 23);
    true
}

#[cfg(test)]
mod tests {
    use super::turn_round;

    #[test]
    fn a_frame_turned_twice_is_the_same() {
        let mut frame: Vec<u8> = (0..60).collect();
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[23] = 17;
        let first = frame.clone();
        assert!(turn_round(&mut frame));
        assert_eq!((&frame[..6], &frame[6..12]), (&first[6..12], &first[..6]));
        assert_eq!((&frame[26..30], &frame[30..34]), (&first[30..34], &first[26..30]));
        assert_eq!((&frame[34..36], &frame[36..38]), (&first[36..38], &first[34..36]));
        assert!(turn_round(&mut frame));
        assert_eq!(frame, first);
        assert!(!turn_round(&mut first[..40].to_vec()), "cut short");
    }
}
