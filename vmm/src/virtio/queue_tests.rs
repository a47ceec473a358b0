//! The queue against well-behaved, wrong and random drivers.

use super::*;
use proptest::prelude::*;

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const DATA: u64 = 0x10_000;
const RAM: u64 = 2 << 20;

fn ram() -> Arc<GuestRam> {
    Arc::new(GuestRam::anonymous(RAM as usize).expect("memory"))
}

fn setup(size: u16) -> Setup {
    Setup { size, desc: DESC, avail: AVAIL, used: USED, event_idx: false, indirect: true }
}

/// A driver that writes what it is told.
struct Driver {
    ram: Arc<GuestRam>,
    avail: u16,
    size: u16,
}

impl Driver {
    fn new(size: u16) -> (Self, Queue) {
        let ram = ram();
        let queue = Queue::new(ram.clone(), setup(size)).expect("queue");
        (Self { ram, avail: 0, size }, queue)
    }

    fn describe_at(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut raw = addr.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(next.to_le_bytes());
        self.ram.write(table + 16 * u64::from(index), &raw).expect("descriptor");
    }

    fn describe(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.describe_at(DESC, index, addr, len, flags, next);
    }

    fn offer(&mut self, head: u16) {
        let at = AVAIL + 4 + 2 * u64::from(self.avail % self.size);
        self.ram.write(at, &head.to_le_bytes()).expect("ring");
        self.avail = self.avail.wrapping_add(1);
        self.publish(self.avail);
    }

    fn publish(&self, index: u16) {
        self.ram.write(AVAIL + 2, &index.to_le_bytes()).expect("index");
    }

    fn used(&self, n: u16) -> (u32, u32) {
        let mut raw = [0; 8];
        self.ram.read(USED + 4 + 8 * u64::from(n % self.size), &mut raw).expect("ring");
        let number = |b: &[u8]| u32::from_le_bytes(b.try_into().expect("four bytes"));
        (number(&raw[..4]), number(&raw[4..]))
    }
}

fn pop(queue: &mut Queue) -> Result<Option<Chain>, Fault> {
    let mut chain = Chain::default();
    Ok(queue.pop(&mut chain)?.then_some(chain))
}

#[test]
fn chains_come_in_order_and_go_back() {
    let (mut driver, mut queue) = Driver::new(4);
    assert_eq!(pop(&mut queue), Ok(None));
    // Around the ring more than once, so that indices wrap there.
    for round in 0..10_u16 {
        driver.describe(3, DATA, 16, NEXT, 1);
        driver.describe(1, DATA + 64, 32, NEXT | WRITE, 2);
        driver.describe(2, DATA + 128, 1, WRITE, 0);
        driver.offer(3);
        let chain = pop(&mut queue).expect("no fault").expect("a chain");
        assert_eq!((chain.head, chain.readable_bytes(), chain.writable_bytes()), (3, 16, 33));
        assert_eq!(pop(&mut queue), Ok(None));
        queue.push(chain.head, 33).expect("push");
        assert_eq!(driver.used(round), (3, 33));
    }
}

#[test]
fn indices_wrap_at_two_to_the_sixteen() {
    let (mut driver, mut queue) = Driver::new(2);
    driver.describe(0, DATA, 1, 0, 0);
    for _ in 0..70_000_u32 {
        driver.offer(0);
        let chain = pop(&mut queue).expect("no fault").expect("a chain");
        queue.push(chain.head, 0).expect("push");
    }
}

#[test]
fn indirect_tables_are_followed() {
    let (mut driver, mut queue) = Driver::new(4);
    driver.describe(0, TABLE, 48, INDIRECT, 0);
    driver.describe_at(TABLE, 0, DATA, 16, NEXT, 2);
    driver.describe_at(TABLE, 2, DATA + 512, 512, NEXT | WRITE, 1);
    driver.describe_at(TABLE, 1, DATA + 1024, 1, WRITE, 0);
    driver.offer(0);
    let chain = pop(&mut queue).expect("no fault").expect("a chain");
    assert_eq!(chain.readable, [Segment { addr: DATA, len: 16 }]);
    assert_eq!(chain.writable_bytes(), 513);
}

#[test]
fn every_lie_has_its_name() {
    type Lie = fn(&mut Driver);
    let lies: [(Fault, Lie); 17] = [
        (Fault::IndexJump, |d| d.publish(5)),
        (Fault::IndexJump, |d| d.publish(0xffff)),
        (Fault::DescriptorIndex, |d| d.offer(4)),
        (Fault::DescriptorIndex, |d| {
            d.describe(0, DATA, 1, NEXT, 0xffff);
            d.offer(0);
        }),
        (Fault::DescriptorLoop, |d| {
            d.describe(0, DATA, 1, NEXT, 0);
            d.offer(0);
        }),
        (Fault::DescriptorLoop, |d| {
            d.describe(0, DATA, 1, NEXT, 1);
            d.describe(1, DATA, 1, NEXT, 0);
            d.offer(1);
        }),
        (Fault::BufferOutsideMemory, |d| {
            d.describe(0, RAM, 1, 0, 0);
            d.offer(0);
        }),
        (Fault::BufferOutsideMemory, |d| {
            d.describe(0, RAM - 1, 2, WRITE, 0);
            d.offer(0);
        }),
        (Fault::BufferOutsideMemory, |d| {
            d.describe(0, u64::MAX, 2, WRITE, 0);
            d.offer(0);
        }),
        (Fault::BufferOutsideMemory, |d| {
            d.describe(0, DATA, u32::MAX, 0, 0);
            d.offer(0);
        }),
        (Fault::ReadAfterWrite, |d| {
            d.describe(0, DATA, 1, NEXT | WRITE, 1);
            d.describe(1, DATA, 1, 0, 0);
            d.offer(0);
        }),
        (Fault::IndirectMisplaced, |d| {
            d.describe(0, TABLE, 16, INDIRECT | NEXT, 1);
            d.offer(0);
        }),
        (Fault::IndirectMisplaced, |d| {
            d.describe(0, TABLE, 16, INDIRECT, 0);
            d.describe_at(TABLE, 0, TABLE, 16, INDIRECT, 0);
            d.offer(0);
        }),
        (Fault::IndirectLength, |d| {
            d.describe(0, TABLE, 17, INDIRECT, 0);
            d.offer(0);
        }),
        (Fault::IndirectLength, |d| {
            d.describe(0, TABLE, 0, INDIRECT, 0);
            d.offer(0);
        }),
        (Fault::IndirectLength, |d| {
            d.describe(0, TABLE, 0xffff_fff0, INDIRECT, 0);
            d.offer(0);
        }),
        (Fault::DescriptorLoop, |d| {
            d.describe(0, TABLE, 32, INDIRECT, 0);
            d.describe_at(TABLE, 0, DATA, 1, NEXT, 1);
            d.describe_at(TABLE, 1, DATA, 1, NEXT, 0);
            d.offer(0);
        }),
    ];
    for (n, (fault, lie)) in lies.into_iter().enumerate() {
        let (mut driver, mut queue) = Driver::new(4);
        lie(&mut driver);
        assert_eq!(pop(&mut queue), Err(fault), "lie {n}");
    }
    // Not negotiated.
    let ram = ram();
    let mut queue = Queue::new(ram.clone(), Setup { indirect: false, ..setup(4) }).expect("queue");
    let mut driver = Driver { ram, avail: 0, size: 4 };
    driver.describe(0, TABLE, 16, INDIRECT, 0);
    driver.offer(0);
    assert_eq!(pop(&mut queue), Err(Fault::IndirectMisplaced));
}

#[test]
fn a_chain_of_a_gigabyte_is_refused_where_memory_would_hold_it() {
    let (mut driver, mut queue) = Driver::new(256);
    // The same 2 MiB, 256 times 2 MiB and once more through an indirect table of 256: no single one is too long.
    let half = (RAM / 2) as u32;
    for i in 0..256 {
        driver.describe_at(TABLE, i, 0, half * 2, if i < 255 { NEXT } else { 0 }, i + 1);
    }
    driver.describe(0, TABLE, 256 * 16, INDIRECT, 0);
    driver.offer(0);
    let chain = pop(&mut queue).expect("half a gigabyte passes").expect("a chain");
    assert_eq!(chain.readable_bytes(), 512 << 20);
    let mut bytes = MAX_CHAIN_BYTES;
    let one = Descriptor { addr: 0, len: 1, flags: 0, next: 0 };
    assert_eq!(queue.take(&one, &mut bytes, &mut Chain::default()), Err(Fault::ChainTooLong));
}

#[test]
fn wrong_rings_are_refused_when_the_queue_is_made() {
    for (fault, bad) in [
        (Fault::QueueSetup, Setup { size: 3, ..setup(4) }),
        (Fault::QueueSetup, Setup { size: 0, ..setup(4) }),
        (Fault::QueueSetup, Setup { size: 512, ..setup(4) }),
        (Fault::QueueSetup, Setup { desc: DESC + 8, ..setup(4) }),
        (Fault::QueueSetup, Setup { avail: AVAIL + 1, ..setup(4) }),
        (Fault::QueueSetup, Setup { used: USED + 2, ..setup(4) }),
        (Fault::RingOutsideMemory, Setup { desc: RAM - 16, ..setup(4) }),
        (Fault::RingOutsideMemory, Setup { avail: RAM - 8, ..setup(4) }),
        (Fault::RingOutsideMemory, Setup { used: u64::MAX - 3, ..setup(4) }),
    ] {
        assert_eq!(Queue::new(ram(), bad).err(), Some(fault), "{bad:?}");
    }
}

#[test]
fn interrupts_and_kicks_follow_the_flags() {
    let (mut driver, mut queue) = Driver::new(4);
    driver.describe(0, DATA, 1, 0, 0);
    assert_eq!(queue.wants_interrupt(), Ok(false), "nothing was pushed");
    queue.push(0, 0).expect("push");
    assert_eq!(queue.wants_interrupt(), Ok(true));
    assert_eq!(queue.wants_interrupt(), Ok(false), "once is enough");
    driver.ram.write(AVAIL, &NO_INTERRUPT.to_le_bytes()).expect("flags");
    queue.push(0, 0).expect("push");
    assert_eq!(queue.wants_interrupt(), Ok(false));
    queue.disable_kicks().expect("flags");
    assert_eq!(driver.ram.load_u16(USED, Ordering::Relaxed), Ok(NO_NOTIFY));
    driver.offer(0);
    assert_eq!(queue.enable_kicks(), Ok(true), "one came meanwhile");
    assert!(pop(&mut queue).expect("no fault").is_some());
    assert_eq!(queue.enable_kicks(), Ok(false));
    assert_eq!(driver.ram.load_u16(USED, Ordering::Relaxed), Ok(0));
}

/// The rule of 2.7.10 as the specification's C code writes it.
fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

proptest! {
    #[test]
    fn event_index_interrupts_exactly_when_the_event_is_passed(event in any::<u16>(), start in any::<u16>(), n in 1_u16..20) {
        let ram = ram();
        let mut queue = Queue::new(ram.clone(), Setup { event_idx: true, ..setup(16) }).expect("queue");
        (queue.next_used, queue.signalled) = (start, start);
        ram.write(AVAIL + 4 + 32, &event.to_le_bytes()).expect("event");
        for _ in 0..n {
            queue.push(0, 0).expect("push");
        }
        let passed = (0..n).any(|k| start.wrapping_add(k) == event);
        prop_assert_eq!(queue.wants_interrupt(), Ok(passed));
        prop_assert_eq!(need_event(event, start.wrapping_add(n), start), passed);
    }

    /// Whatever bytes a guest puts into rings and tables: no panic, no endless chain, and what is handed out lies in
    /// memory, reads before writes.
    #[test]
    fn no_rings_can_hurt(bytes in proptest::collection::vec(any::<u8>(), 64..2048), avail in any::<u16>(),
                         small in any::<bool>(), size in 0_u32..9) {
        let ram = ram();
        let size = 1 << size;
        let mut image = bytes.clone();
        if small {
            // Addresses and indices near what is valid, so that walks get further than the first descriptor.
            for raw in image.chunks_exact_mut(16) {
                raw[3..8].fill(0);
                raw[10..12].fill(0);
                raw[12] &= 7;
                raw[13] = 0;
                raw[15] = 0;
            }
        }
        for at in [DESC, TABLE, 0, DATA] {
            ram.write(at, &image).expect("image");
        }
        ram.write(AVAIL, &bytes[..64]).expect("ring");
        ram.write(AVAIL + 2, &avail.to_le_bytes()).expect("index");
        let mut queue = Queue::new(ram.clone(), setup(size)).expect("queue");
        let mut chain = Chain::default();
        for _ in 0..2 * u32::from(size) {
            match queue.pop(&mut chain) {
                Ok(true) => {
                    prop_assert!(chain.readable.len() + chain.writable.len() <= usize::from(size));
                    for s in chain.readable.iter().chain(&chain.writable) {
                        prop_assert!(ram.slice(s.addr, s.len as usize).is_ok());
                    }
                    queue.push(chain.head, 0).expect("push");
                }
                Ok(false) | Err(_) => break,
            }
        }
    }

    #[test]
    fn skipping_and_the_last_byte_keep_the_rest(lens in proptest::collection::vec(0_u32..40, 1..6), n in 0_u32..100) {
        let mut at = 0;
        let mut segments: Vec<_> = lens.iter().map(|&len| { let s = Segment { addr: at, len }; at += 1000; s }).collect();
        let bytes = |s: &[Segment]| s.iter().flat_map(|s| (0..u64::from(s.len)).map(|i| s.addr + i)).collect::<Vec<_>>();
        let all = bytes(&segments);
        if skip(&mut segments, n) {
            prop_assert_eq!(&bytes(&segments), &all[n as usize..]);
        } else {
            prop_assert!((n as usize) > all.len());
            return Ok(());
        }
        let last = take_last_byte(&mut segments);
        prop_assert_eq!(last, all[n as usize..].last().copied());
    }
}
