//! The simulated twin: many endpoints in one thread, a virtual clock, seeded faults.
//!
//! [`SimNet`] owns all connections; each node has a [`SimIo`] with an address of its own. Time moves only by
//! [`SimNet::advance`]. Bytes keep their order inside a connection, as TCP promises; between connections any
//! order may happen. A send is taken in parts, a receive comes in parts, a slow reader stops its writer at the
//! window, and connects and connections may fail, each by the chances in [`Faults`]. The same seed and the
//! same calls give the same events.

mod net;

pub use net::{Faults, SimNet};

use crate::io::{BufGroup, Event, Io, RecvBuf, Sock, Wake};
use crate::payload::Payload;
use net::Inner;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Buffers of one endpoint, both groups together.
const BUFFERS: usize = 256;

#[derive(Default)]
pub(crate) struct SimWake(AtomicBool);

impl Wake for SimWake {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl SimWake {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

/// One endpoint's view of the simulated network.
pub struct SimIo {
    net: Rc<RefCell<Inner>>,
    node: usize,
    buffers: Vec<Option<Vec<u8>>>,
    free: Vec<u16>,
    starved: Vec<Sock>,
    wake: Arc<SimWake>,
}

impl SimIo {
    pub(crate) fn new(net: Rc<RefCell<Inner>>, node: usize, wake: Arc<SimWake>) -> Self {
        Self {
            net,
            node,
            buffers: (0..BUFFERS).map(|_| None).collect(),
            free: (0..BUFFERS as u16).rev().collect(),
            starved: Vec::new(),
            wake,
        }
    }

    /// A listener on a port of this node's address; hand it to [`Io::accept`].
    pub fn listen(&mut self, port: u16) -> Sock {
        self.net.borrow_mut().listen(self.node, port)
    }

    /// Address of this node.
    pub fn address(&self) -> IpAddr {
        self.net.borrow().address(self.node)
    }

    /// Receive buffers handed out and not released.
    pub fn buffers_out(&self) -> usize {
        BUFFERS - self.free.len()
    }
}

impl Io for SimIo {
    fn accept(&mut self, listener: Sock) {
        self.net.borrow_mut().set_accepting(self.node, listener, true);
    }

    fn stop_accept(&mut self, listener: Sock) {
        self.net.borrow_mut().set_accepting(self.node, listener, false);
    }

    fn connect(&mut self, to: SocketAddr) -> io::Result<Sock> {
        Ok(self.net.borrow_mut().connect(self.node, to))
    }

    fn recv(&mut self, sock: Sock, _group: BufGroup) {
        self.net.borrow_mut().set_receiving(self.node, sock, true);
    }

    fn pause_recv(&mut self, sock: Sock) {
        self.net.borrow_mut().set_receiving(self.node, sock, false);
    }

    fn send(&mut self, sock: Sock, payload: Payload) {
        let bytes: Vec<u8> = payload.pieces(0).flatten().copied().collect();
        self.net.borrow_mut().send(self.node, sock, bytes);
    }

    fn shutdown_write(&mut self, sock: Sock) {
        self.net.borrow_mut().shutdown_write(self.node, sock);
    }

    fn close(&mut self, sock: Sock) {
        self.net.borrow_mut().close(self.node, sock, false);
    }

    fn abort(&mut self, sock: Sock) {
        self.net.borrow_mut().close(self.node, sock, true);
    }

    fn data(&self, buf: &RecvBuf) -> &[u8] {
        self.buffers[usize::from(buf.id)].as_deref().expect("the holder of a buffer keeps it out of the pool")
    }

    fn release(&mut self, buf: RecvBuf) {
        assert!(self.buffers[usize::from(buf.id)].take().is_some(), "buffer released twice");
        self.free.push(buf.id);
    }

    fn scratch(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn recycle(&mut self, bytes: Vec<u8>) {
        drop(bytes);
    }

    fn peer(&self, sock: Sock) -> Option<SocketAddr> {
        self.net.borrow().peer(self.node, sock)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.wake.clone()
    }

    /// Never waits: time moves by [`SimNet::advance`].
    fn wait(&mut self, _timeout: Duration, events: &mut Vec<Event>) -> io::Result<()> {
        if self.wake.take() {
            events.push(Event::Woken);
        }
        let mut net = self.net.borrow_mut();
        for sock in self.starved.drain(..) {
            net.set_receiving(self.node, sock, true);
        }
        while let Some(happened) = net.next_event(self.node) {
            match happened {
                net::Happened::Plain(event) => events.push(event),
                net::Happened::Bytes(sock, bytes) => match self.free.pop() {
                    Some(id) => {
                        let buf = RecvBuf { group: 0, id, len: bytes.len() as u32 };
                        self.buffers[usize::from(id)] = Some(bytes);
                        events.push(Event::Data { sock, buf });
                    }
                    None => {
                        net.put_back(self.node, sock, bytes);
                        events.push(Event::RecvIdle { sock, starved: true });
                    }
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
