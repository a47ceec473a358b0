//! How the VMM's threads are made: named and on the housekeeping CPUs.

use crate::sys::affinity;
use std::io;
use std::thread::JoinHandle;

/// What all threads of a VM have in common.
#[derive(Clone, Debug, Default)]
pub struct Threads {
    /// CPUs for everything that is no vCPU; empty: wherever the process may run.
    pub housekeeping: Vec<u32>,
}

impl Threads {
    /// Starts a thread that is no vCPU. Fails if the CPUs cannot be had.
    pub fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let cpus = self.housekeeping.clone();
        let (said, heard) = std::sync::mpsc::sync_channel(1);
        // Linux shows 15 bytes of a thread's name.
        let handle = std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
            let bound = if cpus.is_empty() { Ok(()) } else { affinity::bind(&cpus) };
            let go = bound.is_ok();
            let _ = said.send(bound);
            if go {
                run();
            }
        })?;
        let lost = |_| io::Error::other("the thread ended before it began");
        if let Err(error) = heard.recv().map_err(lost).flatten() {
            // It holds descriptors until it has ended.
            let _ = handle.join();
            return Err(error);
        }
        Ok(handle)
    }
}
