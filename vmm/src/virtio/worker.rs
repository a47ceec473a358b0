//! The thread behind a device: started at DRIVER_OK, told to stop by an eventfd, joined at reset.

use crate::threads::Threads;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts `run`, which returns soon after its argument becomes readable.
    pub fn start(
        threads: &Threads,
        name: &str,
        run: impl FnOnce(&EventFd) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let theirs = stop.clone();
        let thread = threads.spawn(name, move || run(&theirs))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has already said so on standard error.
            let _ = thread.join();
        }
    }
}
