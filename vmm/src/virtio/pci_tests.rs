//! The transport driven as a driver would, and as none should.

use super::*;
use crate::layout::PCI_WINDOW;
use crate::pci::config_space::COMMAND;
use crate::virtio::device::{F_COMMON, Kind};
use crate::virtio::fault::Counters;
use crate::wiring::testing::Recorder;
use std::sync::Mutex;

#[derive(Default)]
struct Log {
    starts: usize,
    stops: usize,
    health: Option<Arc<Health>>,
}

struct Fake {
    counters: Arc<Counters>,
    log: Arc<Mutex<Log>>,
}

impl Device for Fake {
    fn kind(&self) -> Kind {
        Kind { id: 2, class: [1, 0x80] }
    }
    fn name(&self) -> &str {
        "fake"
    }
    fn features(&self) -> u64 {
        F_COMMON
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64, 16]
    }
    fn config(&self) -> &[u8] {
        &[1, 2, 3]
    }
    fn start(&mut self, start: Start) -> io::Result<()> {
        let mut log = self.log.lock().expect("lock");
        log.starts += 1;
        log.health = Some(start.health);
        Ok(())
    }
    fn stop(&mut self) {
        self.log.lock().expect("lock").stops += 1;
    }
    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}

struct Bench {
    pci: VirtioPci,
    wiring: Arc<Recorder>,
    log: Arc<Mutex<Log>>,
}

fn bench() -> Bench {
    let (wiring, log) = (Arc::new(Recorder::default()), Arc::new(Mutex::new(Log::default())));
    let device = Box::new(Fake { counters: Arc::default(), log: log.clone() });
    let ram = Arc::new(GuestRam::anonymous(2 << 20).expect("memory"));
    let mut pci = VirtioPci::new(device, PCI_WINDOW, wiring.clone(), ram, Arc::default()).expect("function");
    pci.config_write(COMMAND, &[6, 0]);
    Bench { pci, wiring, log }
}

impl Bench {
    fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.pci.bar_read(offset, &mut data);
        u32::from_le_bytes(data)
    }
    fn set(&mut self, offset: u64, value: u32) {
        self.pci.bar_write(offset, &value.to_le_bytes());
    }
    fn take_features(&mut self, features: u64) {
        self.set(0x14, 3);
        for half in 0..2 {
            self.set(0x08, half);
            self.set(0x0c, (features >> (32 * half)) as u32);
        }
        self.set(0x14, 3 | 8);
    }
    fn enable_queue(&mut self, n: u32, at: u32) {
        self.set(0x16, n);
        for (register, address) in [(0x20, at), (0x28, at + 0x1000), (0x30, at + 0x2000)] {
            self.set(register, address);
        }
        self.set(0x1c, 1);
    }
    fn run(&mut self) {
        self.take_features(F_COMMON);
        self.enable_queue(0, 0x1_0000);
        self.enable_queue(1, 0x2_0000);
        self.set(0x14, 15);
    }
}

#[test]
fn a_driver_starts_and_resets_the_device() {
    let mut b = bench();
    assert_eq!(b.get(0x12), 2, "number of queues");
    b.run();
    assert_eq!(b.get(0x14), 15);
    assert_eq!(b.log.lock().expect("lock").starts, 1);
    assert_eq!(b.wiring.kicks(), [PCI_WINDOW + 0x2000, PCI_WINDOW + 0x2004]);
    assert_eq!(b.get(DEVICE) & 0xff_ffff, 0x03_0201);
    b.set(0x14, 0);
    assert_eq!((b.get(0x14), b.wiring.kicks().len(), b.log.lock().expect("lock").stops), (0, 0, 1));
    assert_eq!(b.get(0x1c), 0, "queues are off again");
}

#[test]
fn features_are_agreed_or_refused() {
    let mut b = bench();
    b.take_features(F_COMMON | 1);
    assert_eq!(b.get(0x14), 3, "a feature that was not offered");
    b.set(0x14, 0);
    b.take_features(0);
    assert_eq!(b.get(0x14), 3, "a driver of the old kind");
    b.set(0x14, 15);
    assert_eq!((b.get(0x14), b.log.lock().expect("lock").starts), (3, 0), "no start without an agreement");
    b.set(0x14, 0);
    b.take_features(F_VERSION_1);
    b.set(0x08, 0);
    b.set(0x0c, 0xffff_ffff);
    assert_eq!(b.get(0x0c), 0, "frozen once agreed");
}

#[test]
fn registers_of_a_running_queue_are_frozen() {
    let mut b = bench();
    b.run();
    b.set(0x16, 0);
    for (register, value) in [(0x18, 32), (0x1c, 0), (0x20, 0x9000), (0x1a, 1)] {
        let before = b.get(register);
        b.set(register, value);
        assert_eq!(b.get(register), before, "register {register:#x}");
    }
    b.set(0x16, 7);
    assert_eq!((b.get(0x18), b.get(0x1c)), (0, 0), "a queue that is not there");
    b.set(0x18, 8);
}

#[test]
fn a_queue_outside_memory_asks_for_a_reset_and_starts_nothing() {
    let mut b = bench();
    b.take_features(F_COMMON);
    b.enable_queue(0, 0x1_0000);
    b.enable_queue(1, 0xf000_0000);
    b.set(0x14, 15);
    assert_eq!(b.get(0x14), 15 | u32::from(NEEDS_RESET));
    assert_eq!(b.log.lock().expect("lock").starts, 0);
    assert_eq!(b.pci.device().counters().faults(Fault::RingOutsideMemory), 1);
    b.set(0x14, 0);
    b.run();
    assert_eq!(b.get(0x14), 15, "works again after the reset");
}

#[test]
fn a_fault_is_told_until_the_reset() {
    let mut b = bench();
    b.run();
    let health = b.log.lock().expect("lock").health.take().expect("started");
    health.fail(Fault::DescriptorLoop);
    assert_eq!(b.get(0x14) & u32::from(NEEDS_RESET), u32::from(NEEDS_RESET));
    b.set(0x14, 0);
    assert_eq!(b.get(0x14), 0);
}

#[test]
fn kicks_follow_a_moved_bar() {
    let mut b = bench();
    b.run();
    let to = PCI_WINDOW + 0x10_0000;
    b.pci.config_write(0x10, &to.to_le_bytes());
    assert_eq!(b.pci.window(), Some((to, BAR_LEN)));
    assert_eq!(b.wiring.kicks(), [to + 0x2000, to + 0x2004]);
}

#[test]
fn the_window_in_configuration_space_reaches_the_bar() {
    let mut b = bench();
    let at = b.pci.window_at;
    for (offset, value) in [(8, 0x12_u32), (12, 2)] {
        b.pci.config_write(at + offset, &value.to_le_bytes());
    }
    let mut data = [0; 2];
    b.pci.config_read(at + 16, &mut data);
    assert_eq!(u16::from_le_bytes(data), 2, "number of queues");
    b.pci.config_write(at + 8, &(BAR_LEN as u32 - 1).to_le_bytes());
    b.pci.config_read(at + 16, &mut data);
}

#[test]
fn vectors_that_do_not_exist_read_back_as_none() {
    let mut b = bench();
    b.set(0x10, 2);
    assert_eq!(b.get(0x10) & 0xffff, 2);
    b.set(0x10, 3);
    assert_eq!(b.get(0x10) & 0xffff, 0xffff);
}

proptest::proptest! {
    /// Whatever a guest writes wherever, in whatever width: no panic, and a reset brings it all back.
    #[test]
    fn no_writes_can_hurt(writes in proptest::collection::vec((0_u64..BAR_LEN, proptest::prelude::any::<u64>(), 0_usize..4, proptest::prelude::any::<bool>()), 1..200)) {
        let mut b = bench();
        for (offset, value, width, config) in writes {
            let data = &value.to_le_bytes()[..1 << width];
            if config {
                b.pci.config_write((offset & 0xfff) as usize, data);
                b.pci.config_read((offset & 0xfff) as usize, &mut [0; 4]);
            } else {
                b.pci.bar_write(offset, data);
                b.pci.bar_read(offset, &mut [0; 8][..1 << width]);
            }
        }
        b.set(0x14, 0);
        b.pci.config_write(COMMAND, &[6, 0]);
        b.run();
        proptest::prop_assert_eq!(b.get(0x14), 15);
    }
}
