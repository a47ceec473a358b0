//! The API of one VM: HTTP/1.1 on a UNIX socket of mode 0600, one request a connection.
//!
//! One thread serves one connection at a time: who may connect is the operator, and a request takes microseconds. A
//! client that stalls is cut off after [`PATIENCE`]. [`routes`] decides, [`http`] reads and writes, this file waits.

pub mod http;
pub mod routes;

use crate::devices::console::listen;
use crate::sys;
use crate::threads::Threads;
use crate::wiring::wait_readable;
use routes::Target;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Longest wait for a client's next bytes.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A serving API. Dropping it ends the thread and removes the socket.
#[derive(Debug)]
pub struct Api {
    path: PathBuf,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Api {
    /// Makes the socket and serves `target`.
    pub fn serve(path: &Path, threads: &Threads, target: Arc<dyn Target>) -> io::Result<Self> {
        let listener = listen(path)?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let theirs = stop.clone();
        let thread = threads.spawn("api", move || {
            if let Err(error) = accept(&listener, &theirs, &*target) {
                eprintln!("sluice-vmm: the API ended: {error}");
            }
        })?;
        Ok(Self { path: path.to_owned(), stop, thread: Some(thread) })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, stop: &EventFd, target: &dyn Target) -> io::Result<()> {
    loop {
        if wait_readable(&[sys::borrow(stop), listener.as_fd()], None)?[0] {
            return Ok(());
        }
        if let Ok((stream, _)) = listener.accept() {
            // A client that goes away is its own loss.
            let _ = serve(stream, target);
        }
    }
}

fn serve(mut stream: UnixStream, target: &dyn Target) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let response = loop {
        match http::parse(&bytes) {
            http::Parsed::Request(request) => break routes::answer(&request, target),
            http::Parsed::Refused(status, why) => break http::Response::problem(status, why),
            http::Parsed::Partial => {}
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => bytes.extend(&buffer[..n]),
        }
    };
    stream.write_all(&response.bytes())
}
