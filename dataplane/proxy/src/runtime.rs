//! Worker threads over real rings, and what they share.

use crate::config::Published;
use crate::control::{Control, Order};
use crate::limits::Tuning;
use crate::mailbox::Mailboxes;
use crate::stats::WorkerStats;
use crate::store::{Store, StoreConfig};
use crate::time::Clock;
use crate::worker::{Mode, Setup, Worker};
use sluice_uring::ring::{self, Poll, Uring};
use sluice_uring::{Io, sys};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections the kernel queues per listener until they are accepted; it cuts this to `somaxconn`.
const BACKLOG: i32 = 4096;

/// How a process is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of workers.
    pub workers: usize,
    /// Pin each worker to a CPU.
    pub pin: bool,
    /// How rings learn of completions.
    pub poll: Poll,
    /// RAM of the cache, bytes; 0: none.
    pub cache_bytes: u64,
    /// This node's name in Via, hop marks and Cache-Status.
    pub name: String,
    /// Limits.
    pub tuning: Tuning,
}

/// A listening socket this process holds besides its worker's, for handing it over.
struct Listener {
    addr: SocketAddr,
    fd: OwnedFd,
}

/// What all threads share.
pub struct Shared {
    /// Configuration in effect.
    pub published: Arc<Published>,
    /// The store; absent without a cache.
    pub store: Option<Arc<Store>>,
    /// Pages of counters, one per worker.
    pub pages: Vec<Arc<WorkerStats>>,
    controls: Vec<Control>,
    listeners: Mutex<Vec<Listener>>,
    mode: Mutex<Mode>,
    /// The process's clock; workers and trace use the same one.
    pub clock: Clock,
    /// How it was made.
    pub options: Options,
}

/// A worker thread ended: its number and why.
pub type Ended = (usize, io::Result<()>);

impl Shared {
    /// Everything but the threads.
    pub fn new(options: Options) -> io::Result<(Arc<Self>, Arc<Mailboxes>)> {
        let mailboxes = Mailboxes::new(options.workers);
        let store = match options.cache_bytes {
            0 => None,
            capacity_bytes => {
                let config = StoreConfig { capacity_bytes, shards: options.workers };
                Some(Store::new(config, mailboxes.clone())?)
            }
        };
        let shared = Self {
            published: Arc::new(Published::new()),
            store,
            pages: (0..options.workers).map(|_| Arc::default()).collect(),
            controls: (0..options.workers).map(|i| Control::new(mailboxes.of(i))).collect(),
            listeners: Mutex::default(),
            mode: Mutex::new(Mode::Serving),
            clock: Clock::default(),
            options,
        };
        Ok((Arc::new(shared), mailboxes))
    }

    /// Gives every worker an order.
    pub fn order_all(&self, order: impl Fn() -> Order) {
        self.controls.iter().for_each(|c| c.order(order()));
    }

    /// What is wanted of new requests.
    pub fn mode(&self) -> Mode {
        *self.mode.lock().expect("no panic under this lock")
    }

    /// Changes it; a proxy that leaves never comes back.
    pub fn set_mode(&self, mode: Mode) -> bool {
        let mut held = self.mode.lock().expect("no panic under this lock");
        if *held == Mode::Leaving && mode != Mode::Leaving {
            return false;
        }
        *held = mode;
        self.order_all(|| Order::Mode(mode));
        true
    }

    /// Addresses listened on.
    pub fn listen_addresses(&self) -> Vec<SocketAddr> {
        let mut addrs: Vec<SocketAddr> =
            self.listeners.lock().expect("no panic under this lock").iter().map(|l| l.addr).collect();
        addrs.sort_unstable();
        addrs.dedup();
        addrs
    }

    /// Copies of all listening sockets, for a successor.
    pub fn listener_fds(&self) -> io::Result<Vec<OwnedFd>> {
        let held = self.listeners.lock().expect("no panic under this lock");
        held.iter().map(|l| l.fd.try_clone()).collect()
    }

    /// Forgets the copies kept for a successor.
    pub fn forget_listeners(&self) {
        self.listeners.lock().expect("no panic under this lock").clear();
    }

    /// Listens on `addrs`, one socket per worker and address; sockets in `given` are used first. Port 0 is
    /// replaced by the one the kernel chose.
    pub fn listen(&self, addrs: &[SocketAddr], given: Vec<OwnedFd>) -> io::Result<Vec<SocketAddr>> {
        let mut by_addr: Vec<(SocketAddr, Vec<OwnedFd>)> = Vec::new();
        for fd in given {
            let addr = sys::local(fd.as_fd()).ok_or_else(|| io::Error::other("not a bound socket"))?;
            match by_addr.iter_mut().find(|(a, _)| *a == addr) {
                Some((_, fds)) => fds.push(fd),
                None => by_addr.push((addr, vec![fd])),
            }
        }
        if !addrs.is_empty() {
            // A predecessor's address that is not wanted any more is given up.
            by_addr.retain(|(a, _)| addrs.contains(a));
        }
        for &addr in addrs {
            if !by_addr.iter().any(|(a, _)| *a == addr) {
                let first = sys::listen(addr, BACKLOG)?;
                let bound = sys::local(first.as_fd()).unwrap_or(addr);
                by_addr.push((bound, vec![first]));
            }
        }
        for (addr, fds) in &mut by_addr {
            while fds.len() < self.controls.len() {
                fds.push(sys::listen(*addr, BACKLOG)?);
            }
        }
        let addrs = by_addr.iter().map(|(a, _)| *a).collect();
        let mut held = self.listeners.lock().expect("no panic under this lock");
        for (addr, fds) in by_addr {
            for (i, fd) in fds.into_iter().enumerate() {
                held.push(Listener { addr, fd: fd.try_clone()? });
                self.controls[i % self.controls.len()].order(Order::Listen(fd));
            }
        }
        Ok(addrs)
    }

    /// Starts the worker threads; each tells `ended` when it is over.
    pub fn start(
        self: &Arc<Self>,
        mailboxes: &Mailboxes,
        ended: &Sender<Ended>,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let cpus = sys::allowed_cpus();
        (0..self.options.workers)
            .map(|index| {
                let (shared, mailbox, ended) = (self.clone(), mailboxes.of(index), ended.clone());
                let cpu = self.options.pin.then(|| cpus[index % cpus.len()]);
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                    let result = reported(|| run_worker(&shared, index, cpu, mailbox));
                    // Nobody listens any more when the process is ending anyway.
                    let _ = ended.send((index, result));
                })
            })
            .collect()
    }
}

/// A panic of a worker as the error that ends the process: its connections hang otherwise. (Where panics
/// abort, as in release builds, it never gets here.)
fn reported(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // Nothing of the worker is used after it, and what it shared keeps whole values only.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(io::Error::other("panicked (the message is above)")))
}

fn run_worker(
    shared: &Shared,
    index: usize,
    cpu: Option<usize>,
    mailbox: Arc<crate::mailbox::Mailbox>,
) -> io::Result<()> {
    if let Some(cpu) = cpu {
        sys::pin_thread(cpu)?;
    }
    let io = Uring::new(&ring::Options { poll: shared.options.poll, ..ring::Options::default() })?;
    mailbox.attach(io.waker());
    let setup = Setup {
        tuning: shared.options.tuning.clone(),
        name: shared.options.name.clone(),
        published: shared.published.clone(),
        stats: shared.pages[index].clone(),
        store: shared.store.clone(),
        worker: index as u32,
        mailbox,
    };
    let clock = shared.clock;
    let mut worker = Worker::new(io, setup, clock.now());
    let control = &shared.controls[index];
    let mut events = Vec::new();
    let mut leaving = false;
    loop {
        while let Some(order) = control.take() {
            match order {
                Order::Listen(fd) => {
                    if let Some(sock) = worker.io().adopt(fd) {
                        worker.listen(sock);
                    }
                }
                Order::Mode(mode) => {
                    leaving = mode == Mode::Leaving;
                    worker.set_mode(mode, clock.now());
                }
                Order::Cut => {
                    worker.cut();
                    worker.io().wait(Duration::ZERO, &mut events)?;
                    return Ok(());
                }
                Order::Look => {}
            }
        }
        let timeout =
            if worker.sleep() && control.is_empty() { worker.timeout(clock.now()) } else { Duration::ZERO };
        worker.io().wait(timeout, &mut events)?;
        worker.turn(clock.now(), &mut events, &|| clock.us());
        worker.count_ring(|io| {
            let counts = io.counts();
            [counts.enters, counts.completions, counts.sendfiles]
        });
        if leaving && worker.is_empty() {
            // Hands over the last closes: a listener left open would keep taking connections nobody serves.
            worker.io().wait(Duration::ZERO, &mut events)?;
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_worker_is_an_error_and_an_end_is_none() {
        assert!(reported(|| Ok(())).is_ok());
        let error = reported(|| panic!("a worker's invariant")).unwrap_err();
        assert!(error.to_string().contains("panicked"));
    }
}
