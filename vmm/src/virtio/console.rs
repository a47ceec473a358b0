//! The console device (VIRTIO 1.2, 5.3), one port: `hvc0` in Linux. Output in whole buffers instead of an exit a byte.

use super::device::{Device, F_COMMON, Kind, Line, Start};
use super::fault::{Counters, Fault};
use super::queue::{Chain, scatter};
use super::worker::Worker;
use crate::devices::console::{Input, Output};
use crate::ram::GuestRam;
use crate::wiring::wait_readable;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const QUEUE: u16 = 64;
/// Typed bytes that wait for the guest: more than anyone types, little enough to lose.
const MAX_TYPED: usize = 4096;
/// Output is copied in pieces of this size.
const PIECE: usize = 4096;

/// What was typed and not yet read by the guest.
#[derive(Debug)]
struct Typed {
    bytes: Mutex<VecDeque<u8>>,
    event: EventFd,
}

/// The device.
#[derive(Debug)]
pub struct VirtioConsole {
    output: Output,
    typed: Arc<Typed>,
    counters: Arc<Counters>,
    worker: Option<Worker>,
}

impl VirtioConsole {
    /// A console that prints to `output`.
    pub fn new(output: Output) -> io::Result<Self> {
        let typed = Typed { bytes: Mutex::default(), event: EventFd::new(EFD_NONBLOCK)? };
        Ok(Self { output, typed: Arc::new(typed), counters: Arc::default(), worker: None })
    }

    /// Takes what is typed.
    pub fn input(&self) -> Input {
        let typed = self.typed.clone();
        Box::new(move |bytes| {
            let mut waiting = typed.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let n = bytes.len().min(MAX_TYPED - waiting.len());
            waiting.extend(&bytes[..n]);
            let _ = typed.event.write(1);
            n
        })
    }
}

impl Device for VirtioConsole {
    fn kind(&self) -> Kind {
        Kind { id: 3, class: [7, 0x80] }
    }
    fn name(&self) -> &str {
        "console"
    }
    fn features(&self) -> u64 {
        F_COMMON
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE, QUEUE]
    }
    fn config(&self) -> &[u8] {
        &[]
    }
    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn start(&mut self, mut start: Start) -> io::Result<()> {
        let (Some(receive), Some(send)) = (start.take_line(0), start.take_line(1)) else { return Ok(()) };
        let mut run = Run {
            ram: start.ram.clone(),
            receive,
            send,
            output: self.output.clone(),
            typed: self.typed.clone(),
            counters: self.counters.clone(),
        };
        let health = start.health.clone();
        self.worker = Some(Worker::start(&start.threads, "console", move |stop| {
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

struct Run {
    ram: Arc<GuestRam>,
    receive: Line,
    send: Line,
    output: Output,
    typed: Arc<Typed>,
    counters: Arc<Counters>,
}

impl Run {
    fn until(&mut self, stop: &EventFd) -> Result<(), Fault> {
        loop {
            self.print()?;
            self.pass_typed()?;
            let events = [stop, &self.receive.kick, &self.send.kick, &self.typed.event];
            let ready = wait_readable(&events.map(crate::sys::borrow), None)?;
            if ready[0] {
                return Ok(());
            }
            if ready[1] {
                self.receive.take_kick(&self.counters);
            }
            if ready[2] {
                self.send.take_kick(&self.counters);
            }
            if ready[3] {
                let _ = self.typed.event.read();
            }
        }
    }

    fn print(&mut self) -> Result<(), Fault> {
        let mut chain = Chain::default();
        let mut piece = [0; PIECE];
        loop {
            while self.send.queue.pop(&mut chain)? {
                for segment in &chain.readable {
                    let mut done = 0;
                    while done < segment.len as usize {
                        let n = PIECE.min(segment.len as usize - done);
                        let at = segment.addr + done as u64;
                        self.ram.read(at, &mut piece[..n]).map_err(|_| Fault::BufferOutsideMemory)?;
                        if self.output.write_all(&piece[..n]).is_err() {
                            Counters::add(&self.counters.dropped, n as u64);
                        }
                        done += n;
                    }
                }
                Counters::add(&self.counters.requests, 1);
                Counters::add(&self.counters.bytes, chain.readable_bytes());
                self.send.queue.push(chain.head, 0)?;
            }
            self.send.interrupt_if_wanted(&self.counters)?;
            if !self.send.queue.enable_kicks()? {
                return Ok(());
            }
        }
    }

    fn pass_typed(&mut self) -> Result<(), Fault> {
        let mut chain = Chain::default();
        loop {
            let mut waiting = self.typed.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.is_empty() {
                return Ok(());
            }
            if !self.receive.queue.pop(&mut chain)? {
                drop(waiting);
                if self.receive.queue.enable_kicks()? {
                    continue;
                }
                return Ok(());
            }
            let room = chain.writable_bytes().min(waiting.len() as u64) as usize;
            let bytes: Vec<u8> = waiting.drain(..room).collect();
            drop(waiting);
            let written = scatter(&self.ram, &chain.writable, &bytes);
            self.receive.queue.push(chain.head, written as u32)?;
            self.receive.interrupt_if_wanted(&self.counters)?;
        }
    }
}
