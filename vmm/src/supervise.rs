//! One VM after another until one ends for good, with the API in front of them.
//!
//! A reset builds a new VM from the same document (`on_reset: restart`); the API's socket stays. A power button with a
//! deadline is kept here: when the time is over and the same VM still runs, it is ended by force.

use crate::api::Api;
use crate::api::routes::{Info, Target};
use crate::config::{OnReset, Spec};
use crate::threads::Threads;
use crate::vcpu::Outcome;
use crate::vm::{State, Vm, VmError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait without a deadline; whoever sets one wakes the waiter.
const LONG: Duration = Duration::from_secs(3600);
/// How often it is tried to take a VM away from an API request that still looks at it.
const RETRY: Duration = Duration::from_millis(1);

struct Shared {
    /// `None` between two VMs: the old one has to give back what it holds before the new one asks for it.
    vm: Option<Arc<Vm>>,
    /// When the VM is ended by force.
    deadline: Option<Instant>,
}

struct Current {
    name: String,
    shared: Mutex<Shared>,
}

impl Current {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vm(&self) -> Option<Arc<Vm>> {
        self.lock().vm.clone()
    }

    /// Takes the VM down.
    fn take_down(&self) {
        let mut vm = self.lock().vm.take();
        while let Some(Err(shared)) = vm.map(Arc::try_unwrap) {
            vm = Some(shared);
            std::thread::sleep(RETRY);
        }
    }
}

impl Target for Current {
    fn info(&self) -> Info {
        let vm = self.vm();
        let vm = vm.as_deref();
        Info {
            name: self.name.clone(),
            state: vm.map_or(State::Created, Vm::state),
            cpus: vm.map(Vm::bound).unwrap_or_default(),
            memory: vm.map_or(0, Vm::memory_size),
            devices: vm.map(Vm::devices).unwrap_or_default(),
        }
    }
    fn counters(&self) -> Vec<(String, u64)> {
        self.vm().map(|vm| vm.counters()).unwrap_or_default()
    }
    fn pause(&self) -> bool {
        self.vm().is_some_and(|vm| vm.pause())
    }
    fn resume(&self) -> bool {
        self.vm().is_some_and(|vm| vm.resume())
    }
    fn power_button(&self, deadline: Option<Duration>) -> bool {
        let mut shared = self.lock();
        let Some(vm) = shared.vm.clone() else { return false };
        let ok = vm.press_power_button();
        if ok && let Some(deadline) = deadline {
            shared.deadline = Some(Instant::now() + deadline);
            vm.wake();
        }
        ok
    }
    fn stop(&self) -> bool {
        self.vm().is_some_and(|vm| vm.stop())
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Of the last VM.
    pub outcome: Outcome,
    /// Its counters.
    pub counters: Vec<(String, u64)>,
    /// What a test guest said.
    pub debug_text: String,
}

/// Runs the VM to its end.
pub fn run(spec: &Spec) -> Result<Ended, VmError> {
    let first = Vm::create(spec)?;
    let shared = Mutex::new(Shared { vm: Some(Arc::new(first)), deadline: None });
    let current = Arc::new(Current { name: spec.name().to_owned(), shared });
    let threads = Threads { housekeeping: spec.housekeeping().to_vec() };
    let api = spec.api().map(|path| Api::serve(path, &threads, current.clone())).transpose();
    let _api = api.map_err(|error| VmError::Field { field: "api.socket".to_owned(), error })?;
    loop {
        let Some(vm) = current.vm() else { unreachable!("only this thread takes it away") };
        vm.run();
        let outcome = until_end(&current, &vm);
        if outcome != Outcome::Reset || spec.on_reset() == OnReset::Exit {
            let (counters, debug_text) = (vm.counters(), vm.debug_text());
            drop(vm);
            current.take_down();
            return Ok(Ended { outcome, counters, debug_text });
        }
        drop(vm);
        current.take_down();
        let next = Arc::new(Vm::create(spec)?);
        *current.lock() = Shared { vm: Some(next), deadline: None };
    }
}

fn until_end(current: &Current, vm: &Vm) -> Outcome {
    loop {
        let deadline = current.lock().deadline;
        let left = deadline.map_or(LONG, |at| at.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            vm.stop();
        }
        if let Some(outcome) = vm.wait(left) {
            return outcome;
        }
    }
}
