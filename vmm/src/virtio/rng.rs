//! The entropy device (VIRTIO 1.2, 5.4): the host's random bytes, as many as asked.

use super::device::{Device, F_COMMON, Kind, Line, Start};
use super::fault::{Counters, Fault};
use super::queue::{Chain, scatter};
use super::worker::Worker;
use crate::wiring::wait_readable;
use std::io;
use std::sync::Arc;

/// Most bytes for one request: drivers ask for tens; more than this is cut short, as the standard allows.
const MAX_REQUEST: usize = 4096;

/// The device.
#[derive(Debug, Default)]
pub struct Rng {
    counters: Arc<Counters>,
    worker: Option<Worker>,
}

impl Device for Rng {
    fn kind(&self) -> Kind {
        Kind { id: 4, class: [0xff, 0] }
    }
    fn name(&self) -> &str {
        "rng"
    }
    fn features(&self) -> u64 {
        F_COMMON
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }
    fn config(&self) -> &[u8] {
        &[]
    }
    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn start(&mut self, mut start: Start) -> io::Result<()> {
        let Some(mut line) = start.take_line(0) else { return Ok(()) };
        let (counters, health) = (self.counters.clone(), start.health.clone());
        let worker = Worker::start(&start.threads, "rng", move |stop| {
            loop {
                if let Err(fault) = serve(&mut line, &counters) {
                    return health.fail(fault);
                }
                let fds = [crate::sys::borrow(stop), crate::sys::borrow(&line.kick)];
                match wait_readable(&fds, None) {
                    Ok(ready) if !ready[0] => line.take_kick(&counters),
                    Ok(_) => return,
                    Err(_) => return health.fail(Fault::Backend),
                }
            }
        })?;
        self.worker = Some(worker);
        Ok(())
    }

    fn stop(&mut self) {
        self.worker = None;
    }
}

fn serve(line: &mut Line, counters: &Counters) -> Result<(), Fault> {
    let mut chain = Chain::default();
    loop {
        while line.queue.pop(&mut chain)? {
            let n = chain.writable_bytes().min(MAX_REQUEST as u64) as usize;
            let mut bytes = [0; MAX_REQUEST];
            let mut filled = 0;
            while filled < n {
                filled +=
                    rustix::rand::getrandom(&mut bytes[filled..n], rustix::rand::GetRandomFlags::empty())
                        .map_err(|_| Fault::Backend)?;
            }
            let written = scatter(line.queue.ram(), &chain.writable, &bytes[..n]);
            Counters::add(&counters.requests, 1);
            Counters::add(&counters.bytes, written as u64);
            line.queue.push(chain.head, written as u32)?;
        }
        line.interrupt_if_wanted(counters)?;
        if !line.queue.enable_kicks()? {
            return Ok(());
        }
    }
}
