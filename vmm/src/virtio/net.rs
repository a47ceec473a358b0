//! The network device (VIRTIO 1.2, 5.1) on a tap: one pair of queues, checksum and segmentation left to whoever needs
//! them, buffers merged. One thread moves both directions; frames go between the tap and guest memory without a copy
//! of ours.

use super::device::{Device, F_COMMON, Kind, Line, Start};
use super::fault::{Counters, Fault};
use super::queue::{Chain, MAX_SIZE, Segment, scatter};
use super::worker::Worker;
use crate::config::Mac;
use crate::ram::GuestRam;
use crate::sys::tap::{HEADER, Offloads, Tap};
use crate::wiring::wait_readable;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

const F_CSUM: u64 = 1;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
const LINK_UP: u16 = 1;
/// Longest frame: a segment of 64 KiB with its headers.
const MAX_FRAME: u64 = 65562;
/// Frames moved in one direction before the other gets its turn.
const BURST: usize = 64;

/// The device.
#[derive(Debug)]
pub struct Net {
    id: String,
    tap: Arc<Tap>,
    config: [u8; 10],
    counters: Arc<Counters>,
    worker: Option<Worker>,
}

impl Net {
    /// A NIC with that address on `tap`.
    pub fn new(id: &str, mac: Mac, tap: Tap) -> Self {
        let mut config = [0; 10];
        config[..6].copy_from_slice(&mac.0);
        config[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        config[8..10].copy_from_slice(&1_u16.to_le_bytes());
        Self { id: id.to_owned(), tap: Arc::new(tap), config, counters: Arc::default(), worker: None }
    }
}

impl Device for Net {
    fn kind(&self) -> Kind {
        Kind { id: 1, class: [2, 0] }
    }
    fn name(&self) -> &str {
        &self.id
    }
    fn features(&self) -> u64 {
        let offloads = F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_HOST_TSO4 | F_HOST_TSO6;
        F_COMMON | F_MAC | F_STATUS | F_MRG_RXBUF | offloads
    }
    fn queue_sizes(&self) -> &[u16] {
        &[MAX_SIZE, MAX_SIZE]
    }
    fn config(&self) -> &[u8] {
        &self.config
    }
    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn start(&mut self, mut start: Start) -> io::Result<()> {
        let (Some(receive), Some(send)) = (start.take_line(0), start.take_line(1)) else { return Ok(()) };
        let has = |feature| start.features & feature != 0;
        self.tap.set_offloads(Offloads {
            checksum: has(F_GUEST_CSUM),
            tso4: has(F_GUEST_TSO4),
            tso6: has(F_GUEST_TSO6),
        })?;
        let mut run = Run {
            tap: self.tap.clone(),
            ram: start.ram.clone(),
            receive,
            send,
            merge: has(F_MRG_RXBUF),
            counters: self.counters.clone(),
            chain: Chain::default(),
            heads: Vec::new(),
            pieces: Vec::new(),
        };
        let health = start.health.clone();
        self.worker = Some(Worker::start(&start.threads, &format!("net {}", self.id), move |stop| {
            if let Err(fault) = run.until(stop) {
                health.fail(fault);
            }
        })?);
        Ok(())
    }

    fn stop(&mut self) {
        self.worker = None;
    }
}

/// Why a direction has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// More may be there: the other direction's turn came.
    Busy,
    /// The guest has to offer buffers or frames.
    Guest,
    /// The tap has no frame.
    Tap,
}

struct Run {
    tap: Arc<Tap>,
    ram: Arc<GuestRam>,
    receive: Line,
    send: Line,
    merge: bool,
    counters: Arc<Counters>,
    chain: Chain,
    /// Buffers collected for one frame: index and length of each.
    heads: Vec<(u16, u32)>,
    pieces: Vec<Segment>,
}

impl Run {
    fn until(&mut self, stop: &EventFd) -> Result<(), Fault> {
        loop {
            let receiving = self.receive_frames()?;
            let sending = self.send_frames()?;
            let mut fds = vec![
                crate::sys::borrow(stop),
                crate::sys::borrow(&self.receive.kick),
                crate::sys::borrow(&self.send.kick),
            ];
            // Without buffers a frame has to wait in the tap; polling for it would spin.
            if receiving == Rest::Tap {
                fds.push(self.tap.as_fd());
            }
            let idle = receiving != Rest::Busy && sending != Rest::Busy;
            let ready = wait_readable(&fds, if idle { None } else { Some(0) })?;
            if ready[0] {
                return Ok(());
            }
            if ready[1] {
                self.receive.take_kick(&self.counters);
            }
            if ready[2] {
                self.send.take_kick(&self.counters);
            }
        }
    }

    /// From the guest to the tap.
    fn send_frames(&mut self) -> Result<Rest, Fault> {
        self.send.queue.disable_kicks()?;
        let mut rest = Rest::Busy;
        for _ in 0..BURST {
            if !self.send.queue.pop(&mut self.chain)? {
                if self.send.queue.enable_kicks()? {
                    continue;
                }
                rest = Rest::Guest;
                break;
            }
            let bytes = self.chain.readable_bytes();
            if bytes <= HEADER as u64 || !self.chain.writable.is_empty() {
                return Err(Fault::RequestShape);
            }
            match self.tap.send(&self.ram, &self.chain.readable) {
                Ok(()) => {
                    Counters::add(&self.counters.requests, 1);
                    Counters::add(&self.counters.bytes, bytes - HEADER as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Counters::add(&self.counters.dropped, 1),
                // A frame that the host refuses, such as one with a wrong header, is the guest's loss.
                Err(_) => Counters::add(&self.counters.errors, 1),
            }
            self.send.queue.push(self.chain.head, 0)?;
        }
        self.send.interrupt_if_wanted(&self.counters)?;
        Ok(rest)
    }

    /// From the tap to the guest.
    fn receive_frames(&mut self) -> Result<Rest, Fault> {
        self.receive.queue.disable_kicks()?;
        let mut rest = Rest::Busy;
        for _ in 0..BURST {
            if !self.collect()? {
                if self.receive.queue.enable_kicks()? {
                    continue;
                }
                rest = Rest::Guest;
                break;
            }
            match self.tap.receive(&self.ram, &self.pieces) {
                Ok(n) => self.deliver(n)?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.receive.queue.unpop(self.heads.len() as u16);
                    rest = Rest::Tap;
                    break;
                }
                Err(_) => return Err(Fault::Backend),
            }
        }
        self.receive.interrupt_if_wanted(&self.counters)?;
        Ok(rest)
    }

    /// Takes buffers for the longest frame, or as many as there are. False: none.
    fn collect(&mut self) -> Result<bool, Fault> {
        self.heads.clear();
        self.pieces.clear();
        let mut room = 0;
        while room < MAX_FRAME + HEADER as u64 && self.receive.queue.pop(&mut self.chain)? {
            let len = self.chain.writable_bytes();
            if len < HEADER as u64 || !self.chain.readable.is_empty() {
                return Err(Fault::RequestShape);
            }
            self.heads.push((self.chain.head, len as u32));
            self.pieces.extend(&self.chain.writable);
            room += len;
            if !self.merge {
                break;
            }
        }
        Ok(!self.heads.is_empty())
    }

    /// Gives back the buffers that a frame of `n` bytes filled, all at one blow, and returns the others.
    fn deliver(&mut self, n: usize) -> Result<(), Fault> {
        let mut left = n as u32;
        let mut used = 0;
        for (_, len) in &mut self.heads {
            if used > 0 && left == 0 {
                break;
            }
            *len = left.min(*len);
            left -= *len;
            used += 1;
        }
        let count = (used as u16).to_le_bytes();
        let mut field = self.pieces.clone();
        if !super::queue::skip(&mut field, HEADER as u32 - 2) || scatter(&self.ram, &field, &count) != 2 {
            return Err(Fault::RequestShape);
        }
        self.receive.queue.unpop((self.heads.len() - used) as u16);
        self.receive.queue.push_all(&self.heads[..used])?;
        Counters::add(&self.counters.requests, 1);
        Counters::add(&self.counters.bytes, (n - HEADER.min(n)) as u64);
        Ok(())
    }
}
