//! A VM from its [`Spec`]: built in one go, run, and taken down so that nothing is left.
//!
//! ```text
//!             start             pause
//! Created ───────────► Running ───────► Paused
//!    │                  │   ▲──resume────┘  │
//!    └──────────────────┴────────┬──────────┘
//!                                ▼  guest powers off, resets, crashes; stop
//!                              Ended
//! ```
//! Field order is the order of the end: vCPUs first, then consoles and devices (whose workers touch memory), then KVM,
//! then memory.

use crate::boot::{acpi, cpuid, kernel, registers};
use crate::config::{Cpus, Spec};
use crate::devices::console::Console;
use crate::devices::ports::Ports;
use crate::devices::serial::SerialPort;
use crate::exits::KvmStats;
use crate::layout::{COM1_IRQ, EVENT_IRQ, KVM_IDENTITY, KVM_TSS};
use crate::memory::{self, MemoryError};
use crate::pci::bus::Bus;
use crate::sys::kvm_vm::KvmVm;
use crate::sys::tap::Tap;
use crate::threads::Threads;
use crate::vcpu::{Machine, Outcome, VcpuError, Vcpus};
use crate::virtio::block::{Block, DiskError, DiskFile};
use crate::virtio::console::VirtioConsole;
use crate::virtio::device::Device;
use crate::virtio::net::Net;
use crate::virtio::pci::{BAR_LEN, VirtioPci};
use crate::virtio::rng::Rng;
use crate::wiring::{KvmWiring, Wiring};
use kvm_bindings::kvm_enable_cap;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a VM could not be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum VmError {
    #[error("cannot use /dev/kvm: {0} (are the kvm module loaded and the file readable and writable?)")]
    NoKvm(kvm_ioctls::Error),
    #[error("this kernel's KVM lacks {0}")]
    Lacks(&'static str),
    #[error("cpus.count: {asked} vCPUs, KVM allows {max}")]
    TooManyCpus { asked: u32, max: usize },
    #[error("cpus.{field}: {error}")]
    Cpus { field: &'static str, error: String },
    #[error("KVM refused to {what}: {error}")]
    Kvm { what: &'static str, error: kvm_ioctls::Error },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Boot(#[from] kernel::BootError),
    #[error("boot: {0}")]
    Tables(String),
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    #[error("disks[{n}].path: {error}")]
    Disk { n: usize, error: DiskError },
    #[error("{field}: {error}")]
    Field { field: String, error: io::Error },
    #[error("cannot set up {what}: {error}")]
    Setup { what: String, error: io::Error },
}

fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmError {
    move |error| VmError::Kvm { what, error }
}

fn setup(what: &str) -> impl Fn(io::Error) -> VmError {
    move |error| VmError::Setup { what: what.to_owned(), error }
}

/// Where a VM is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Built, no instruction run.
    Created,
    /// Running.
    Running,
    /// Held between two instructions.
    Paused,
    /// Over.
    Ended(Outcome),
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    state: Mutex<State>,
    vcpus: Vcpus,
    serial: Option<Console>,
    _console: Option<Console>,
    ports: Arc<Ports>,
    devices: Vec<Arc<Mutex<VirtioPci>>>,
    power_button: EventFd,
    vm_stats: Option<KvmStats>,
    vcpu_stats: Vec<Option<KvmStats>>,
    _bus: Arc<Bus>,
    _wiring: Arc<KvmWiring>,
    vm: Arc<KvmVm>,
}

impl Vm {
    /// Builds everything up to the first instruction.
    pub fn create(spec: &Spec) -> Result<Self, VmError> {
        let kvm_fd = open_kvm(&spec.cpus)?;
        let ram = Arc::new(memory::allocate(&spec.memory)?);
        let vm_fd = create_vm(&kvm_fd, &spec.cpus)?;
        let vm = Arc::new(KvmVm::new(vm_fd, ram.clone()).map_err(kvm("take the memory"))?);
        let wiring = Arc::new(KvmWiring::new(vm.clone()).map_err(setup("interrupt routes"))?);
        let threads = Arc::new(Threads { housekeeping: spec.cpus.housekeeping.clone() });
        let power_button = event()?;
        wiring.connect_line(EVENT_IRQ, &power_button).map_err(setup("the power button"))?;
        let (serial, port) = open_serial(spec, &wiring, &threads)?;
        let (console, bus, devices) = build_devices(spec, &wiring, &threads, &vm)?;
        let ports = Arc::new(Ports::new(port, spec.debug_port));
        let platform = acpi::Platform { cpus: spec.cpus.count, serial: serial.is_some() };
        let rsdp = acpi::write(&ram, &platform).map_err(VmError::Tables)?;
        let boot = &spec.boot;
        let entry = kernel::load(&ram, &boot.kernel, boot.initrd.as_deref(), &boot.cmdline, rsdp)?;
        registers::write_tables(&ram, entry).map_err(|e| VmError::Tables(e.to_string()))?;
        let fds = create_vcpus(&kvm_fd, vm.fd(), &spec.cpus, entry)?;
        let vm_stats = KvmStats::open(vm.fd()).ok();
        let vcpu_stats = fds.iter().map(|fd| KvmStats::open(fd).ok()).collect();
        let machine = Machine { ports: ports.clone(), bus: bus.clone() };
        let vcpus = Vcpus::new(fds, &spec.cpus.pin, &machine)?;
        Ok(Self {
            state: Mutex::new(State::Created),
            vcpus,
            serial,
            _console: console,
            ports,
            devices,
            power_button,
            vm_stats,
            vcpu_stats,
            _bus: bus,
            _wiring: wiring,
            vm,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Created → Running. False from elsewhere.
    pub fn run(&self) -> bool {
        self.open_from(&State::Created)
    }

    /// Paused → Running. False from elsewhere.
    pub fn resume(&self) -> bool {
        self.open_from(&State::Paused)
    }

    fn open_from(&self, from: &State) -> bool {
        let mut state = self.lock();
        let ok = *state == *from;
        if ok {
            *state = State::Running;
            self.vcpus.open();
        }
        ok
    }

    /// Running → Paused. False from elsewhere.
    pub fn pause(&self) -> bool {
        let mut state = self.lock();
        let ok = *state == State::Running;
        if ok {
            self.vcpus.hold();
            *state = State::Paused;
        }
        ok
    }

    /// Presses the power button of a running guest; whether it obeys is its own affair.
    pub fn press_power_button(&self) -> bool {
        *self.lock() == State::Running && self.power_button.write(1).is_ok()
    }

    /// Ends it from outside. False if it has ended.
    pub fn stop(&self) -> bool {
        let mut state = self.lock();
        let ok = !matches!(*state, State::Ended(_));
        if ok {
            self.vcpus.hold();
            *state = State::Ended(Outcome::Stopped);
            self.vcpus.wake();
        }
        ok
    }

    /// Lets [`Self::wait`] return early.
    pub fn wake(&self) {
        self.vcpus.wake();
    }

    /// Names of the devices.
    pub fn devices(&self) -> Vec<String> {
        let name = |d: &Arc<Mutex<VirtioPci>>| {
            d.lock().unwrap_or_else(PoisonError::into_inner).device().name().to_owned()
        };
        self.devices.iter().map(name).collect()
    }

    /// Waits for the end, at most `timeout` or until [`Self::wake`].
    pub fn wait(&self, timeout: Duration) -> Option<Outcome> {
        let outcome = self.vcpus.outcome(timeout);
        let mut state = self.lock();
        if let State::Ended(outcome) = &*state {
            return Some(outcome.clone());
        }
        if let Some(outcome) = outcome {
            self.vcpus.hold();
            *state = State::Ended(outcome.clone());
            return Some(outcome);
        }
        None
    }

    /// What a test guest said on the debug port.
    pub fn debug_text(&self) -> String {
        self.ports.debug_text()
    }

    /// Host CPUs of each vCPU, read back from the kernel.
    pub fn bound(&self) -> Vec<Vec<u32>> {
        self.vcpus.bound()
    }

    /// Everything that is counted, as `group.name`.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        for (id, exits) in self.vcpus.exits().iter().enumerate() {
            all.extend(exits.list().into_iter().map(|(name, n)| (format!("vcpu{id}.exit.{name}"), n)));
        }
        for device in &self.devices {
            let device = device.lock().unwrap_or_else(PoisonError::into_inner);
            let name = device.device().name().to_owned();
            let counters = device.device().counters().list();
            all.extend(counters.into_iter().map(|(counter, n)| (format!("{name}.{counter}"), n)));
        }
        if let Some(serial) = &self.serial {
            all.push(("serial.dropped".to_owned(), serial.output().dropped()));
        }
        let kvm = [("kvm".to_owned(), &self.vm_stats)];
        let per_vcpu = self.vcpu_stats.iter().enumerate().map(|(id, stats)| (format!("vcpu{id}.kvm"), stats));
        for (group, stats) in kvm.into_iter().chain(per_vcpu) {
            let values = stats.as_ref().and_then(|s| s.read().ok()).unwrap_or_default();
            all.extend(values.into_iter().map(|(name, n)| (format!("{group}.{name}"), n)));
        }
        all
    }

    /// Bytes of guest memory.
    pub fn memory_size(&self) -> u64 {
        self.vm.ram().size()
    }
}

fn event() -> Result<EventFd, VmError> {
    EventFd::new(EFD_NONBLOCK).map_err(setup("an event"))
}

/// Opens KVM and checks that it has what every VM needs.
fn open_kvm(cpus: &Cpus) -> Result<Kvm, VmError> {
    let fd = Kvm::new().map_err(VmError::NoKvm)?;
    const API: i32 = 12;
    if fd.get_api_version() != API {
        return Err(VmError::Lacks("API version 12"));
    }
    for (cap, name) in [
        (Cap::Irqchip, "an in-kernel interrupt controller"),
        (Cap::Irqfd, "irqfd"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::IoeventfdNoLength, "ioeventfd of any length"),
        (Cap::UserMemory, "user memory"),
        (Cap::SignalMsi, "message-signalled interrupts"),
    ] {
        if !fd.check_extension(cap) {
            return Err(VmError::Lacks(name));
        }
    }
    let max = fd.get_max_vcpus();
    if cpus.count as usize > max {
        return Err(VmError::TooManyCpus { asked: cpus.count, max });
    }
    Ok(fd)
}

/// Makes the VM with its interrupt controller. Capabilities come first: they bind at the first vCPU.
fn create_vm(kvm_fd: &Kvm, cpus: &Cpus) -> Result<VmFd, VmError> {
    let vm = loop {
        match kvm_fd.create_vm() {
            // A signal during the grace period that this takes.
            Err(e) if e.errno() == libc::EINTR => {}
            other => break other.map_err(kvm("make a VM"))?,
        }
    };
    if cpus.dedicated {
        const MWAIT_HLT_PAUSE: i32 = 1 | 2 | 4;
        let offered = vm.check_extension_raw(kvm_bindings::KVM_CAP_X86_DISABLE_EXITS.into());
        enable(&vm, kvm_bindings::KVM_CAP_X86_DISABLE_EXITS, (offered & MWAIT_HLT_PAUSE) as u64)
            .map_err(|error| VmError::Cpus { field: "dedicated", error })?;
    }
    if let Some(ns) = cpus.halt_poll_ns {
        enable(&vm, kvm_bindings::KVM_CAP_HALT_POLL, u64::from(ns))
            .map_err(|error| VmError::Cpus { field: "halt_poll_ns", error })?;
    }
    vm.set_identity_map_address(KVM_IDENTITY).map_err(kvm("place the identity map"))?;
    vm.set_tss_address(KVM_TSS as usize).map_err(kvm("place the TSS"))?;
    vm.create_irq_chip().map_err(kvm("make the interrupt controller"))?;
    Ok(vm)
}

fn enable(vm: &VmFd, cap: u32, value: u64) -> Result<(), String> {
    let mut request = kvm_enable_cap { cap, ..Default::default() };
    request.args[0] = value;
    vm.enable_cap(&request).map_err(|e| format!("this KVM refuses it: {e}"))
}

fn create_vcpus(kvm_fd: &Kvm, vm: &VmFd, cpus: &Cpus, entry: kernel::Entry) -> Result<Vec<VcpuFd>, VmError> {
    let base = cpuid::supported(kvm_fd).map_err(kvm("tell its CPUID"))?;
    let topology = cpuid::Topology {
        cpus: cpus.count,
        dedicated: cpus.dedicated,
        tsc_deadline: kvm_fd.check_extension(Cap::TscDeadlineTimer),
    };
    let mut fds = Vec::with_capacity(cpus.count as usize);
    for id in 0..cpus.count {
        let fd = vm.create_vcpu(u64::from(id)).map_err(kvm("make a vCPU"))?;
        let leaves = cpuid::of_vcpu(&base, id, &topology).map_err(VmError::Tables)?;
        fd.set_cpuid2(&leaves).map_err(kvm("take the CPUID"))?;
        registers::prepare(&fd, (id == 0).then_some(entry)).map_err(kvm("take the registers"))?;
        fds.push(fd);
    }
    Ok(fds)
}

fn open_serial(
    spec: &Spec,
    wiring: &KvmWiring,
    threads: &Threads,
) -> Result<(Option<Console>, Option<SerialPort>), VmError> {
    let refused = |error| VmError::Field { field: "serial".to_owned(), error };
    let Some(mut console) = Console::open(&spec.serial).map_err(refused)? else { return Ok((None, None)) };
    let line = event()?;
    wiring.connect_line(COM1_IRQ, &line).map_err(setup("the serial port"))?;
    let port = SerialPort::new(line, console.output());
    let typed = port.clone();
    console.attach(threads, "serial", Box::new(move |bytes| typed.type_in(bytes))).map_err(refused)?;
    Ok((Some(console), Some(port)))
}

type Built = (Option<Console>, Arc<Bus>, Vec<Arc<Mutex<VirtioPci>>>);

fn build_devices(
    spec: &Spec,
    wiring: &Arc<KvmWiring>,
    threads: &Arc<Threads>,
    vm: &Arc<KvmVm>,
) -> Result<Built, VmError> {
    let mut all: Vec<Box<dyn Device>> = Vec::new();
    for (n, disk) in spec.disks.iter().enumerate() {
        let file = DiskFile::open(&disk.path, disk.read_only, disk.direct)
            .map_err(|error| VmError::Disk { n, error })?;
        all.push(Box::new(Block::new(&disk.id, file)));
    }
    for (n, nic) in spec.nics.iter().enumerate() {
        let refused = |error| VmError::Field { field: format!("nics[{n}].tap"), error };
        let tap = Tap::open(&nic.tap).map_err(refused)?;
        tap.bring_up(nic.host_address).map_err(refused)?;
        all.push(Box::new(Net::new(&nic.id, nic.mac, tap)));
    }
    let refused = |error| VmError::Field { field: "console".to_owned(), error };
    let mut console = Console::open(&spec.console).map_err(refused)?;
    if let Some(console) = &mut console {
        let device = VirtioConsole::new(console.output()).map_err(refused)?;
        console.attach(threads, "hvc0", device.input()).map_err(refused)?;
        all.push(Box::new(device));
    }
    if spec.rng {
        all.push(Box::new(Rng::default()));
    }
    let mut bus = Bus::default();
    let mut devices = Vec::with_capacity(all.len());
    for device in all {
        let what = format!("device {}", device.name());
        let full = || io::Error::other("no room on the bus");
        let bar = bus.allocate_bar(BAR_LEN).ok_or_else(full).map_err(setup(&what))?;
        let wiring: Arc<dyn Wiring> = wiring.clone();
        let function = VirtioPci::new(device, bar, wiring, vm.ram().clone(), threads.clone());
        let function = Arc::new(Mutex::new(function.map_err(setup(&what))?));
        bus.add(function.clone()).ok_or_else(full).map_err(setup(&what))?;
        devices.push(function);
    }
    Ok((console, Arc::new(bus), devices))
}
