//! The shipped test guest on this machine's `/dev/kvm`: devices, timers and lies, each by name.
//!
//! Without a usable `/dev/kvm` every test prints `skipped: reason`.

#![forbid(unsafe_code)]

use sluice_vmm::config;
use sluice_vmm::vcpu::Outcome;
use sluice_vmm::vm::{State, Vm, VmError};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/obj/guest.elf");
/// The names that the guest has to print, in its order.
const NAMES: [&str; 17] = [
    "long_mode_and_memory",
    "timer_interrupts",
    "second_cpu_starts_and_answers_ipis",
    "pci_lists_the_devices",
    "a_bar_is_sized_and_moved",
    "block_reads_and_writes",
    "block_interrupts_by_msix",
    "block_refuses_what_is_not_on_the_disk",
    "block_serves_a_full_queue",
    "hostile_index_jump",
    "hostile_descriptor_loop",
    "hostile_buffer_outside_memory",
    "hostile_ring_outside_memory",
    "hostile_indirect_table",
    "hostile_length",
    "other_devices_go_on",
    "block_works_after_its_reset",
];
/// Longest wait for a guest that takes seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// One VM at a time, so that descriptors can be counted.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The VM of a document, or `None` where there is no KVM.
fn create(document: &str) -> Option<Vm> {
    match Vm::create(&config::parse(document).expect("a valid document")) {
        Ok(vm) => Some(vm),
        Err(VmError::NoKvm(error)) => {
            println!("skipped: no usable /dev/kvm: {error}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn image() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().expect("image");
    image.as_file().set_len(1 << 20).expect("image");
    std::os::unix::fs::FileExt::write_all_at(image.as_file(), b"hostmark", 0).expect("image");
    image
}

fn document(image: &Path, more: &str) -> String {
    format!(
        "memory: {{size: 64M}}\nboot: {{kernel: {GUEST}}}\ndisks: [{{path: {}}}]\ndebug_port: true\n{more}",
        image.display()
    )
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

#[test]
fn the_test_guest_passes_everything_and_each_lie_is_counted() {
    let _turn = turn();
    let image = image();
    let before = descriptors();
    let Some(vm) = create(&document(image.path(), "cpus: {count: 2, pin: [0, 1]}\n")) else { return };
    assert_eq!(vm.bound(), [[0], [1]], "vCPUs are where the document put them");
    assert_eq!(vm.state(), State::Created);
    assert!(vm.run());
    let outcome = vm.wait(LIMIT);
    let text = vm.debug_text();
    let expected: Vec<_> = NAMES.iter().map(|name| format!("PASS {name}")).collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    assert_eq!(outcome, Some(Outcome::DebugExit(0)));
    let counters: BTreeMap<_, _> = vm.counters().into_iter().collect();
    for (name, n) in [
        ("index_jump", 2),
        ("descriptor_loop", 1),
        ("buffer_outside_memory", 2),
        ("ring_outside_memory", 1),
        ("indirect_misplaced", 1),
    ] {
        assert_eq!(counters.get(&format!("disk0.{name}")), Some(&n), "{name}");
    }
    assert_eq!(counters.get("rng.requests"), Some(&1));
    // Kicks and interrupts of the full queues pass by eventfds: what exits is configuration.
    let writes = counters["vcpu0.exit.mmio_write"];
    assert!(counters["disk0.requests"] > 50 && writes < 1000, "{writes} writes exited");
    drop(vm);
    assert_eq!(descriptors(), before, "no descriptor is left");
}

#[test]
fn a_vm_is_paused_resumed_and_stopped() {
    let _turn = turn();
    let image = image();
    let Some(vm) = create(&document(image.path(), "cpus: {count: 2}\n")) else { return };
    assert!(!vm.pause(), "it has not started");
    assert!(vm.run() && !vm.run());
    for _ in 0..20 {
        assert!(vm.pause());
        let said = vm.debug_text();
        let exits: u64 = exits(&vm);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!((vm.debug_text(), exits), (said, self::exits(&vm)), "a paused guest does nothing");
        assert!(!vm.run() && vm.resume() && !vm.resume());
    }
    assert!(vm.stop() && !vm.stop() && !vm.run());
    assert_eq!(vm.state(), State::Ended(Outcome::Stopped));
}

fn exits(vm: &Vm) -> u64 {
    vm.counters()
        .iter()
        .filter(|(name, _)| name.contains(".exit.") && !name.ends_with("interrupted"))
        .map(|(_, n)| n)
        .sum()
}

#[test]
fn a_vm_that_cannot_be_made_names_the_field_and_leaves_nothing() {
    let _turn = turn();
    let image = image();
    if create(&document(image.path(), "")).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("file");
        path.display().to_string()
    };
    let text = file("text", b"#!/bin/sh\nexit 0\n");
    let mut lying = std::fs::read(GUEST).expect("guest");
    // The first program header's size in the file.
    lying[0x40 + 0x20..0x40 + 0x28].copy_from_slice(&u64::MAX.to_le_bytes());
    let lying = file("lying", &lying);
    let cut = file("cut", &std::fs::read(GUEST).expect("guest")[..100]);
    let mut bz = vec![0; 0x1000];
    bz[0x202..0x206].copy_from_slice(b"HdrS");
    let bz = file("bz", &bz);
    let before = descriptors();
    let boot = |kernel: &str| format!("boot: {{kernel: {kernel}}}\n");
    for (document, says) in [
        (boot("/nowhere"), "boot.kernel: cannot read /nowhere"),
        (boot("/"), "boot.kernel: cannot read /: not a regular file"),
        (boot(&text), "is no ELF executable and no bzImage"),
        (boot(&cut), "boot.kernel"),
        (boot(&lying), "boot.kernel"),
        (boot(&bz), "no 64-bit entry"),
        (format!("boot: {{kernel: {GUEST}, initrd: /nowhere}}\n"), "boot.initrd: cannot read"),
        (format!("{}disks: [{{path: /nowhere}}]\n", boot(GUEST)), "disks[0].path: cannot open /nowhere"),
        (format!("{}cpus: {{pin: [1000]}}\n", boot(GUEST)), "cpus.pin[0]"),
        (format!("{}memory: {{size: 64M, pages: 2M}}\n", boot(GUEST)), "memory.pages"),
        (format!("{}memory: {{size: 64M, node: 77}}\n", boot(GUEST)), "memory.node"),
        (format!("{}serial: !unix /nowhere/socket\n", boot(GUEST)), "serial"),
    ] {
        let spec = config::parse(&document).expect("a valid document");
        let error = Vm::create(&spec).expect_err(&document).to_string();
        assert!(error.contains(says), "{document}: {error}");
        assert_eq!(descriptors(), before, "{document}");
    }
}
