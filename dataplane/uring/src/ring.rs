//! The real [`Io`]: one io_uring per thread.
//!
//! Submissions pile up in the queue and are handed over by the one `io_uring_enter` of [`Io::wait`].
//! A slot is used again only when every operation it started has posted its last completion, so memory an
//! operation may touch (payload, address) lives in the slot as long as the kernel may use it.
//!
//! ```text
//! free -> open -> closing (operations cancelled, fd closed) -> free, generation + 1
//! ```

use crate::bufring::BufRing;
use crate::io::{BufGroup, Event, Io, RecvBuf, Sock, Wake};
use crate::payload::Payload;
use crate::send::{SendOp, Step};
use crate::sys;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How the ring learns of completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// Sleep in `io_uring_enter` until an interrupt posts one.
    #[default]
    Interrupt,
    /// A kernel thread polls the submission queue; burns a core while busy.
    Sqpoll,
    /// Busy-poll the network device queue before sleeping.
    Napi,
}

/// Sizes of a ring.
#[derive(Clone, Debug)]
pub struct Options {
    /// Submission entries; when full they are handed over early, so this bounds batching only.
    pub entries: u32,
    /// Sockets at most, listeners too.
    pub sockets: u32,
    /// Buffers for request heads: count (power of two) and bytes of each.
    pub small: (u16, u32),
    /// Buffers for upstream bodies.
    pub large: (u16, u32),
    /// See [`Poll`].
    pub poll: Poll,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            entries: 1024,
            sockets: 65_536,
            small: (1024, 4096),
            large: (128, 65_536),
            poll: Poll::Interrupt,
        }
    }
}

/// Kernel thread of [`Poll::Sqpoll`] sleeps after this long without work, ms.
const SQPOLL_IDLE_MS: u32 = 50;
/// Longest busy poll of [`Poll::Napi`] before sleeping, us.
const NAPI_BUSY_US: u32 = 50;
/// Vectors kept for [`Io::scratch`]; more are freed.
const SCRATCH_KEPT: usize = 256;
/// Vectors that grew beyond this are freed rather than kept, bytes.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Op {
    Ignore = 0,
    Accept = 1,
    Connect = 2,
    Recv = 3,
    Send = 4,
    Wake = 5,
}

fn user_data(op: Op, sock: Sock) -> u64 {
    (op as u64) << 56 | u64::from(sock.generation & 0xff_ffff) << 32 | u64::from(sock.index)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Open,
    Closing,
}

struct Slot {
    fd: RawFd,
    generation: u32,
    state: State,
    /// Operations whose last completion is outstanding.
    pending: u8,
    recv: Option<BufGroup>,
    recv_wanted: bool,
    accepting: bool,
    connect: Option<Box<sys::SockAddr>>,
    send: Option<Box<SendOp>>,
}

/// Counts kept by a ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// `io_uring_enter` calls made.
    pub enters: u64,
    /// Completions seen.
    pub completions: u64,
    /// Times a receive ended because its pool was empty.
    pub buffers_exhausted: u64,
    /// Connections refused because every slot was taken.
    pub sockets_exhausted: u64,
    /// `sendfile` calls made.
    pub sendfiles: u64,
}

struct EventFd {
    fd: OwnedFd,
    pending: AtomicBool,
}

impl Wake for EventFd {
    fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            sys::eventfd_write(&self.fd);
        }
    }
}

/// One ring and its sockets.
pub struct Uring {
    // Dropped first: the kernel stops using the memory below.
    ring: IoUring,
    small: BufRing,
    large: BufRing,
    slots: Vec<Slot>,
    free: Vec<u32>,
    sockets_max: u32,
    wake: Arc<EventFd>,
    wake_value: Box<u64>,
    scratch: Vec<Vec<u8>>,
    #[expect(clippy::vec_box, reason = "the kernel holds pointers into a box while it is in a slot")]
    spare_sends: Vec<Box<SendOp>>,
    seen: Vec<(u64, i32, u32)>,
    ready: Vec<Event>,
    counts: Counts,
}

impl Uring {
    /// Sets up a ring for the calling thread; it must not move to another one.
    pub fn new(options: &Options) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(options.entries * 4).setup_single_issuer().setup_submit_all().setup_clamp();
        match options.poll {
            Poll::Sqpoll => builder.setup_sqpoll(SQPOLL_IDLE_MS),
            Poll::Interrupt | Poll::Napi => builder.setup_defer_taskrun().setup_coop_taskrun(),
        };
        let ring = builder.build(options.entries)?;
        if options.poll == Poll::Napi {
            let mut napi =
                io_uring::types::Napi::new().set_busy_poll_timeout(NAPI_BUSY_US).set_prefer_busy_poll(true);
            ring.submitter().register_napi(&mut napi)?;
        }
        let small = BufRing::new(&ring, 0, options.small.0, options.small.1)?;
        let large = BufRing::new(&ring, 1, options.large.0, options.large.1)?;
        let wake = Arc::new(EventFd { fd: sys::eventfd()?, pending: AtomicBool::new(false) });
        let mut this = Self {
            ring,
            small,
            large,
            slots: Vec::new(),
            free: Vec::new(),
            sockets_max: options.sockets,
            wake,
            wake_value: Box::new(0),
            scratch: Vec::new(),
            spare_sends: Vec::new(),
            seen: Vec::with_capacity(options.entries as usize * 4),
            ready: Vec::new(),
            counts: Counts::default(),
        };
        this.arm_wake();
        Ok(this)
    }

    /// Counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes over a socket: a listener for [`Io::accept`], or a connected one.
    pub fn adopt(&mut self, fd: OwnedFd) -> Option<Sock> {
        self.insert(fd.into_raw_fd())
    }

    fn insert(&mut self, fd: RawFd) -> Option<Sock> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.sockets_max as usize => {
                self.slots.push(Slot {
                    fd: -1,
                    generation: 0,
                    state: State::Free,
                    pending: 0,
                    recv: None,
                    recv_wanted: false,
                    accepting: false,
                    connect: None,
                    send: None,
                });
                (self.slots.len() - 1) as u32
            }
            None => {
                self.counts.sockets_exhausted += 1;
                // SAFETY: the caller handed over the only owner of `fd`.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
                return None;
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.fd = fd;
        slot.state = State::Open;
        Some(Sock { index, generation: slot.generation })
    }

    fn open(&mut self, sock: Sock) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(sock.index as usize)?;
        (slot.generation == sock.generation && slot.state == State::Open).then_some(slot)
    }

    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: every entry built here points only at memory kept in its slot, in a payload the slot
            // owns, or in `wake_value`, until the operation's last completion.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.counts.enters += 1;
            if let Err(error) = self.ring.submit()
                && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
            {
                panic!("io_uring_enter: {error}");
            }
            self.collect();
        }
    }

    fn arm_wake(&mut self) {
        let buf = std::ptr::from_mut(&mut *self.wake_value).cast::<u8>();
        let read = opcode::Read::new(Fd(self.wake.fd.as_raw_fd()), buf, 8);
        self.push(read.build().user_data(user_data(Op::Wake, Sock::NONE)));
    }

    fn arm_recv(&mut self, index: u32, group: BufGroup) {
        let buf_group = match group {
            BufGroup::Small => self.small.group(),
            BufGroup::Large => self.large.group(),
        };
        let slot = &mut self.slots[index as usize];
        slot.recv = Some(group);
        slot.pending += 1;
        let sock = Sock { index, generation: slot.generation };
        let entry = opcode::RecvMulti::new(Fd(slot.fd), buf_group).build();
        self.push(entry.user_data(user_data(Op::Recv, sock)));
    }

    /// Carries a send on until the kernel owns it or it is over.
    fn advance_send(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let sock = Sock { index, generation: slot.generation };
        let Some(send) = slot.send.as_mut() else { return };
        let step = send.next(slot.fd);
        self.counts.sendfiles += u64::from(send.take_sendfiles());
        match step {
            Step::Submit { entry, bytes } => {
                slot.pending += 1;
                if bytes > 0 {
                    self.ready.push(Event::Sent { sock, bytes, done: false, errno: 0 });
                }
                self.push(entry.user_data(user_data(Op::Send, sock)));
            }
            Step::Done { bytes, errno } => {
                self.finish_send(index);
                self.ready.push(Event::Sent { sock, bytes, done: true, errno });
            }
        }
    }

    fn finish_send(&mut self, index: u32) {
        if let Some(mut send) = self.slots[index as usize].send.take() {
            let payload = send.take_payload();
            self.recycle(payload.head);
            if self.spare_sends.len() < SCRATCH_KEPT {
                self.spare_sends.push(send);
            }
        }
    }

    fn free_if_done(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.state == State::Closing && slot.pending == 0 {
            slot.state = State::Free;
            slot.generation = (slot.generation + 1) & 0xff_ffff;
            slot.recv = None;
            slot.accepting = false;
            slot.connect = None;
            self.finish_send(index);
            self.free.push(index);
        }
    }

    /// Copies completions out of the shared queue.
    fn collect(&mut self) {
        let seen = &mut self.seen;
        seen.extend(self.ring.completion().map(|c| (c.user_data(), c.result(), c.flags())));
    }

    fn complete(&mut self, (data, result, flags): (u64, i32, u32), events: &mut Vec<Event>) {
        let op = (data >> 56) as u8;
        if op == Op::Ignore as u8 {
            return;
        }
        if op == Op::Wake as u8 {
            self.wake.pending.store(false, Ordering::Release);
            self.arm_wake();
            events.push(Event::Woken);
            return;
        }
        let index = data as u32;
        let slot = &mut self.slots[index as usize];
        debug_assert_eq!(slot.generation & 0xff_ffff, (data >> 32) as u32 & 0xff_ffff, "slot reused early");
        let sock = Sock { index, generation: slot.generation };
        let more = cqueue::more(flags);
        if !more {
            slot.pending -= 1;
        }
        if op == Op::Recv as u8 {
            self.complete_recv(sock, result, flags, more, events);
        } else if op == Op::Send as u8 {
            self.complete_send(sock, result, events);
        } else if op == Op::Accept as u8 {
            self.complete_accept(sock, result, more, events);
        } else if op == Op::Connect as u8 && slot.state == State::Open {
            slot.connect = None;
            events.push(Event::Connected { sock, errno: -result });
        }
        self.free_if_done(index);
    }

    fn complete_accept(&mut self, listener: Sock, result: i32, more: bool, events: &mut Vec<Event>) {
        let open = self.slots[listener.index as usize].state == State::Open;
        if result >= 0 {
            if open {
                if let Some(sock) = self.insert(result) {
                    events.push(Event::Accepted { listener, sock });
                }
            } else {
                // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
                drop(unsafe { OwnedFd::from_raw_fd(result) });
            }
        }
        if more || !open {
            return;
        }
        let slot = &mut self.slots[listener.index as usize];
        if slot.accepting && result >= 0 {
            self.arm_accept(listener);
        } else {
            slot.accepting = false;
            events.push(Event::AcceptEnded { listener, errno: -result.min(0) });
        }
    }

    fn arm_accept(&mut self, listener: Sock) {
        let slot = &mut self.slots[listener.index as usize];
        slot.accepting = true;
        slot.pending += 1;
        let entry = opcode::AcceptMulti::new(Fd(slot.fd)).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry.user_data(user_data(Op::Accept, listener)));
    }

    fn complete_recv(&mut self, sock: Sock, result: i32, flags: u32, more: bool, events: &mut Vec<Event>) {
        let slot = &mut self.slots[sock.index as usize];
        let Some(group) = slot.recv else { return };
        if !more {
            slot.recv = None;
        }
        let (open, wanted) = (slot.state == State::Open, slot.recv_wanted);
        if result > 0 {
            let id = cqueue::buffer_select(flags).expect("a receive from a buffer ring names its buffer");
            let ring = self.pool(group);
            ring.out += 1;
            let buf = RecvBuf { group: group as u8, id, len: result as u32 };
            if open {
                events.push(Event::Data { sock, buf });
            } else {
                ring.give_back(buf.id);
            }
        }
        if more || !open {
            return;
        }
        match -result {
            // The kernel ended the multishot with data in hand (its own limits): go on if wanted.
            errno if errno < 0 && wanted => self.arm_recv(sock.index, group),
            errno if errno < 0 => events.push(Event::RecvIdle { sock, starved: false }),
            errno => {
                self.slots[sock.index as usize].recv_wanted = false;
                events.push(match errno {
                    libc::ENOBUFS => Event::RecvIdle { sock, starved: true },
                    libc::ECANCELED => Event::RecvIdle { sock, starved: false },
                    errno => Event::Eof { sock, errno },
                });
                self.counts.buffers_exhausted += u64::from(errno == libc::ENOBUFS);
            }
        }
    }

    fn pool(&mut self, group: BufGroup) -> &mut BufRing {
        match group {
            BufGroup::Small => &mut self.small,
            BufGroup::Large => &mut self.large,
        }
    }

    fn complete_send(&mut self, sock: Sock, result: i32, events: &mut Vec<Event>) {
        let slot = &mut self.slots[sock.index as usize];
        let open = slot.state == State::Open;
        let Some(send) = slot.send.as_mut() else { return };
        let bytes = send.completed(result);
        if !open {
            return;
        }
        if result < 0 {
            self.finish_send(sock.index);
            events.push(Event::Sent { sock, bytes: 0, done: true, errno: -result });
        } else if send.left() == 0 {
            self.finish_send(sock.index);
            events.push(Event::Sent { sock, bytes, done: true, errno: 0 });
        } else {
            if bytes > 0 {
                events.push(Event::Sent { sock, bytes, done: false, errno: 0 });
            }
            self.advance_send(sock.index);
        }
    }

    fn shut(&mut self, sock: Sock, reset: bool) {
        let Some(slot) = self.open(sock) else { return };
        let (fd, pending, receiving) = (slot.fd, slot.pending, slot.recv.is_some());
        slot.state = State::Closing;
        slot.recv_wanted = false;
        slot.fd = -1;
        if reset {
            sys::linger_zero(fd);
        }
        if pending > 0 {
            // By its data the kernel finds one operation in one bucket; by descriptor it walks them all.
            let which = match (pending, receiving) {
                (1, true) => CancelBuilder::user_data(user_data(Op::Recv, sock)),
                _ => CancelBuilder::fd(Fd(fd)).all(),
            };
            let cancel = opcode::AsyncCancel2::new(which).build();
            self.push(cancel.flags(squeue::Flags::SKIP_SUCCESS).user_data(user_data(Op::Ignore, sock)));
        }
        let close = opcode::Close::new(Fd(fd)).build();
        self.push(close.flags(squeue::Flags::SKIP_SUCCESS).user_data(user_data(Op::Ignore, sock)));
        self.free_if_done(sock.index);
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        for slot in self.slots.iter().filter(|s| s.state == State::Open && s.fd >= 0) {
            // SAFETY: an open slot is the only owner of its descriptor, and no slot is used after this.
            drop(unsafe { OwnedFd::from_raw_fd(slot.fd) });
        }
    }
}

impl Io for Uring {
    fn accept(&mut self, listener: Sock) {
        if self.open(listener).is_some_and(|slot| !slot.accepting) {
            self.arm_accept(listener);
        }
    }

    fn stop_accept(&mut self, listener: Sock) {
        let Some(slot) = self.open(listener) else { return };
        let was = std::mem::take(&mut slot.accepting);
        if was {
            let cancel = CancelBuilder::user_data(user_data(Op::Accept, listener));
            let entry = opcode::AsyncCancel2::new(cancel).build();
            self.push(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(user_data(Op::Ignore, listener)));
        }
    }

    fn connect(&mut self, to: SocketAddr) -> io::Result<Sock> {
        let fd = sys::stream_socket(&to)?;
        let sock = self.insert(fd.into_raw_fd()).ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
        let slot = &mut self.slots[sock.index as usize];
        let addr = slot.connect.insert(Box::new(sys::SockAddr::from(to)));
        let entry = opcode::Connect::new(Fd(slot.fd), addr.as_ptr(), addr.len()).build();
        slot.pending += 1;
        self.push(entry.user_data(user_data(Op::Connect, sock)));
        Ok(sock)
    }

    fn recv(&mut self, sock: Sock, group: BufGroup) {
        let Some(slot) = self.open(sock) else { return };
        slot.recv_wanted = true;
        if slot.recv.is_none() {
            self.arm_recv(sock.index, group);
        }
    }

    fn pause_recv(&mut self, sock: Sock) {
        let Some(slot) = self.open(sock) else { return };
        let was = std::mem::take(&mut slot.recv_wanted);
        if was && slot.recv.is_some() {
            let cancel = CancelBuilder::user_data(user_data(Op::Recv, sock));
            let entry = opcode::AsyncCancel2::new(cancel).build();
            self.push(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(user_data(Op::Ignore, sock)));
        }
    }

    fn send(&mut self, sock: Sock, payload: Payload) {
        let mut op = self.spare_sends.pop().unwrap_or_default();
        let Some(slot) = self.open(sock) else { return };
        assert!(slot.send.is_none(), "a send is under way on {sock:?}");
        op.start(payload);
        slot.send = Some(op);
        self.advance_send(sock.index);
    }

    fn shutdown_write(&mut self, sock: Sock) {
        let Some(slot) = self.open(sock) else { return };
        // Not through the ring: the kernel runs that operation on a thread of its own and looks the descriptor
        // up there, by when it may be closed and be another connection's. It never blocks anyway.
        sys::shutdown_write(slot.fd);
    }

    fn close(&mut self, sock: Sock) {
        self.shut(sock, false);
    }

    fn abort(&mut self, sock: Sock) {
        self.shut(sock, true);
    }

    fn data(&self, buf: &RecvBuf) -> &[u8] {
        if buf.group == BufGroup::Small as u8 { &self.small } else { &self.large }.bytes(buf.id, buf.len)
    }

    fn release(&mut self, buf: RecvBuf) {
        if buf.group == BufGroup::Small as u8 { &mut self.small } else { &mut self.large }.give_back(buf.id);
    }

    fn scratch(&mut self) -> Vec<u8> {
        self.scratch.pop().unwrap_or_default()
    }

    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() > 0 && bytes.capacity() <= SCRATCH_BYTES_MAX && self.scratch.len() < SCRATCH_KEPT
        {
            bytes.clear();
            self.scratch.push(bytes);
        }
    }

    fn peer(&self, sock: Sock) -> Option<SocketAddr> {
        let slot = self.slots.get(sock.index as usize)?;
        (slot.generation == sock.generation && slot.state == State::Open).then_some(())?;
        sys::peer(slot.fd)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.wake.clone()
    }

    fn wait(&mut self, timeout: Duration, events: &mut Vec<Event>) -> io::Result<()> {
        events.append(&mut self.ready);
        let idle = events.is_empty() && self.seen.is_empty();
        let timeout = if idle { timeout } else { Duration::ZERO };
        let time = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&time);
        self.counts.enters += 1;
        if let Err(error) = self.ring.submitter().submit_with_args(1, &args) {
            match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(error),
            }
        }
        self.collect();
        let mut seen = std::mem::take(&mut self.seen);
        self.counts.completions += seen.len() as u64;
        for completion in seen.drain(..) {
            self.complete(completion, events);
        }
        // `complete` may have pushed past a full queue and collected more: those come first next time.
        if self.seen.is_empty() {
            self.seen = seen;
        }
        events.append(&mut self.ready);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
