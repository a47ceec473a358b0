//! vCPU threads: bound to their CPU before the first `KVM_RUN`, then exits until the end.
//!
//! ```text
//! gate:   Held ──start/resume──► Open ──pause──► Held          Closed: every thread leaves its loop
//! thread: waits while Held, runs while Open, ends when Closed
//! ```
//! A thread in the guest is brought out by a signal; whoever changes the gate repeats it until the thread has seen the
//! change, so a signal that arrives between the look at the gate and `KVM_RUN` is not lost.

use crate::devices::ports::{PortEffect, Ports};
use crate::exits::{Exits, Reason};
use crate::pci::bus::Bus;
use crate::sys::affinity;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// How often a thread is signalled that has not answered yet.
const KICK_EVERY: Duration = Duration::from_millis(1);

/// Why a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A test guest ended with this code.
    DebugExit(u8),
    /// The guest, or KVM on its behalf, cannot go on.
    Crashed(String),
    /// We were told to end it.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Held,
    Open,
    Closed,
}

#[derive(Debug)]
struct GateState {
    position: Position,
    /// Threads that are not running the guest and will not without passing the gate.
    resting: usize,
}

/// See the module's head.
#[derive(Debug)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Copy of "not Open" that the loop reads without the lock.
    attention: AtomicBool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the gate is open. False: closed.
    fn pass(&self) -> bool {
        let mut state = self.lock();
        state.resting += 1;
        self.changed.notify_all();
        while state.position == Position::Held {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.resting -= 1;
        state.position == Position::Open
    }
}

/// What the threads work on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// I/O ports.
    pub ports: Arc<Ports>,
    /// PCI.
    pub bus: Arc<Bus>,
}

struct Thread {
    handle: Option<JoinHandle<()>>,
    exits: Arc<Exits>,
    bound: Vec<u32>,
}

/// All vCPUs of a VM.
pub struct Vcpus {
    threads: Vec<Thread>,
    gate: Arc<Gate>,
    outcomes: Mutex<Receiver<Option<Outcome>>>,
    /// Keeps the channel open, and wakes who waits for an outcome by `None`.
    said: Sender<Option<Outcome>>,
    kicks: AtomicU64,
}

impl std::fmt::Debug for Vcpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vcpus").field("count", &self.threads.len()).finish_non_exhaustive()
    }
}

/// Why a vCPU thread could not be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum VcpuError {
    #[error("cpus.pin[{vcpu}]: cannot bind vCPU {vcpu} to host CPU {cpu}: {error}")]
    Bind { vcpu: usize, cpu: u32, error: io::Error },
    #[error("cpus.pin[{vcpu}]: vCPU {vcpu} was bound to host CPU {cpu}, the kernel says {found:?}")]
    Bound { vcpu: usize, cpu: u32, found: Vec<u32> },
    #[error("cannot start the thread of vCPU {vcpu}: {error}")]
    Thread { vcpu: usize, error: io::Error },
}

extern "C" fn wake(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Vcpus {
    /// Makes the threads; they wait at the gate. `pin` is empty or has a host CPU for each.
    pub fn new(vcpus: Vec<VcpuFd>, pin: &[u32], machine: &Machine) -> Result<Self, VcpuError> {
        register_signal_handler(SIGRTMIN(), wake)
            .map_err(|e| VcpuError::Thread { vcpu: 0, error: io::Error::from_raw_os_error(e.errno()) })?;
        let gate = Arc::new(Gate {
            state: Mutex::new(GateState { position: Position::Held, resting: 0 }),
            changed: Condvar::new(),
            attention: AtomicBool::new(true),
        });
        let (said, outcomes) = channel();
        let mut all = Self {
            threads: Vec::with_capacity(vcpus.len()),
            gate,
            outcomes: Mutex::new(outcomes),
            said: said.clone(),
            kicks: AtomicU64::new(0),
        };
        for (id, fd) in vcpus.into_iter().enumerate() {
            let thread = all.spawn(id, fd, pin.get(id).copied(), machine.clone(), said.clone())?;
            all.threads.push(thread);
        }
        Ok(all)
    }

    fn spawn(
        &self,
        id: usize,
        fd: VcpuFd,
        cpu: Option<u32>,
        machine: Machine,
        said: Sender<Option<Outcome>>,
    ) -> Result<Thread, VcpuError> {
        let exits = Arc::new(Exits::default());
        let (gate, counters) = (self.gate.clone(), exits.clone());
        let (ready, readied) = sync_channel(1);
        let builder = std::thread::Builder::new().name(format!("vcpu {id}"));
        let run = move || {
            let bound = bind(id, cpu);
            let go = bound.is_ok();
            let _ = ready.send(bound);
            if go {
                // The receiver is gone only when nobody wants to know any more.
                let _ = said.send(Some(run(fd, &machine, &gate, &counters)));
            }
        };
        let handle = builder.spawn(run).map_err(|error| VcpuError::Thread { vcpu: id, error })?;
        let lost =
            |_| VcpuError::Thread { vcpu: id, error: io::Error::other("the thread ended before it began") };
        match readied.recv().map_err(lost).flatten() {
            Ok(bound) => Ok(Thread { handle: Some(handle), exits, bound }),
            Err(error) => {
                // It holds descriptors until it has ended.
                let _ = handle.join();
                Err(error)
            }
        }
    }

    /// Lets them run.
    pub fn open(&self) {
        self.set(Position::Open);
    }

    /// Holds them; on return none is in the guest.
    pub fn hold(&self) {
        self.set(Position::Held);
        self.until_rest();
    }

    fn close(&self) {
        self.set(Position::Closed);
        self.until_rest();
    }

    fn set(&self, position: Position) {
        let mut state = self.gate.lock();
        if state.position != Position::Closed {
            state.position = position;
        }
        self.gate.attention.store(state.position != Position::Open, Ordering::SeqCst);
        self.gate.changed.notify_all();
    }

    /// Signals the threads until all rest or have ended.
    fn until_rest(&self) {
        let mut state = self.gate.lock();
        loop {
            let running = self.threads.iter().filter_map(|t| t.handle.as_ref()).filter(|h| !h.is_finished());
            let mut alive = 0;
            for handle in running {
                alive += 1;
                self.kicks.fetch_add(1, Ordering::Relaxed);
                let _ = handle.kill(SIGRTMIN());
            }
            // A closed gate is passed at once, so then this waits until all have ended.
            if state.resting >= alive {
                return;
            }
            state =
                self.gate.changed.wait_timeout(state, KICK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The first outcome, if there is one within `timeout` and before [`Self::wake`].
    pub fn outcome(&self, timeout: Duration) -> Option<Outcome> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(timeout).ok().flatten()
    }

    /// Wakes who waits for an outcome.
    pub fn wake(&self) {
        let _ = self.said.send(None);
    }

    /// Exit counters of each.
    pub fn exits(&self) -> Vec<Arc<Exits>> {
        self.threads.iter().map(|t| t.exits.clone()).collect()
    }

    /// The host CPUs that each may run on, as the kernel said after binding.
    pub fn bound(&self) -> Vec<Vec<u32>> {
        self.threads.iter().map(|t| t.bound.clone()).collect()
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.close();
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

/// Binds the calling thread, if it is to be bound, and reads back where it may run.
fn bind(vcpu: usize, cpu: Option<u32>) -> Result<Vec<u32>, VcpuError> {
    if let Some(cpu) = cpu {
        affinity::bind(&[cpu]).map_err(|error| VcpuError::Bind { vcpu, cpu, error })?;
    }
    let found = affinity::bound().map_err(|error| VcpuError::Thread { vcpu, error })?;
    match cpu {
        Some(cpu) if found != [cpu] => Err(VcpuError::Bound { vcpu, cpu, found }),
        _ => Ok(found),
    }
}

/// The loop of a vCPU.
fn run(mut fd: VcpuFd, machine: &Machine, gate: &Gate, exits: &Exits) -> Outcome {
    loop {
        if gate.attention.load(Ordering::SeqCst) && !gate.pass() {
            return Outcome::Stopped;
        }
        match fd.run() {
            Ok(exit) => {
                if let Some(outcome) = handle(exit, machine, exits) {
                    return outcome;
                }
            }
            Err(e) if e.errno() == libc::EINTR => exits.count(Reason::Interrupted),
            // A vCPU that waits for its SIPI, or a signal that came first.
            Err(e) if e.errno() == libc::EAGAIN => exits.count(Reason::Other),
            Err(e) => return Outcome::Crashed(format!("KVM_RUN: {e}")),
        }
    }
}

/// Answers one exit. `Some`: the VM ends.
fn handle(exit: VcpuExit<'_>, machine: &Machine, exits: &Exits) -> Option<Outcome> {
    let mut effect = PortEffect::None;
    match exit {
        VcpuExit::IoIn(port, data) => {
            effect = machine.ports.read(port, data);
            exits.count(if effect == PortEffect::Unclaimed { Reason::PortUnclaimed } else { Reason::PortIn });
        }
        VcpuExit::IoOut(port, data) => {
            effect = machine.ports.write(port, data);
            exits.count(if effect == PortEffect::Unclaimed {
                Reason::PortUnclaimed
            } else {
                Reason::PortOut
            });
        }
        VcpuExit::MmioRead(addr, data) => {
            if machine.bus.read(addr, data) {
                exits.count(Reason::MmioRead);
            } else {
                data.fill(0xff);
                exits.count(Reason::MmioUnclaimed);
            }
        }
        VcpuExit::MmioWrite(addr, data) => {
            let claimed = machine.bus.write(addr, data);
            exits.count(if claimed { Reason::MmioWrite } else { Reason::MmioUnclaimed });
        }
        VcpuExit::Hlt => exits.count(Reason::Halt),
        VcpuExit::Intr => exits.count(Reason::Interrupted),
        VcpuExit::Shutdown => {
            exits.count(Reason::Shutdown);
            return Some(Outcome::Crashed("triple fault".to_owned()));
        }
        VcpuExit::SystemEvent(kind, _) => {
            exits.count(Reason::SystemEvent);
            return Some(match kind {
                kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => Outcome::PowerOff,
                kvm_bindings::KVM_SYSTEM_EVENT_RESET => Outcome::Reset,
                other => Outcome::Crashed(format!("system event {other}")),
            });
        }
        VcpuExit::X86Rdmsr(msr) => {
            // The guest gets a general protection fault, as on a CPU without the register.
            exits.count(Reason::MsrRead);
            *msr.error = 1;
        }
        VcpuExit::X86Wrmsr(msr) => {
            exits.count(Reason::MsrWrite);
            *msr.error = 1;
        }
        VcpuExit::FailEntry(reason, cpu) => {
            return Some(Outcome::Crashed(format!("the CPU {cpu} refused to enter the guest: {reason:#x}")));
        }
        VcpuExit::InternalError => {
            return Some(Outcome::Crashed("KVM cannot go on (internal error)".to_owned()));
        }
        VcpuExit::MemoryFault { gpa, .. } => {
            return Some(Outcome::Crashed(format!("memory fault at {gpa:#x}")));
        }
        other => return Some(Outcome::Crashed(format!("unexpected exit {other:?}"))),
    }
    match effect {
        PortEffect::None | PortEffect::Unclaimed => None,
        PortEffect::PowerOff => Some(Outcome::PowerOff),
        PortEffect::Reset => Some(Outcome::Reset),
        PortEffect::DebugExit(code) => Some(Outcome::DebugExit(code)),
    }
}
