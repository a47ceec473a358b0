//! Lies of a driver. Each has to stop this device with a reset asked for, and nothing else.

use crate::block::QUEUE;
use crate::cpu::{check, read64, write16, write64};
use crate::virtio::{Device, INDIRECT, NEXT, WRITE};

const DATA: u64 = 0x230_0000;
const TABLE: u64 = 0x231_0000;

fn lie(tell: impl FnOnce(&mut Device)) -> Result<(), &'static str> {
    let mut device = Device::start(2, QUEUE)?;
    tell(&mut device);
    device.kick();
    device.wait_broken()
}

pub fn index_jump() -> Result<(), &'static str> {
    lie(|d| write16(d.avail + 2, 0x7fff))
}

pub fn descriptor_loop() -> Result<(), &'static str> {
    lie(|d| {
        d.describe(0, DATA, 16, NEXT, 1);
        d.describe(1, DATA, 16, NEXT, 0);
        d.offer(0);
    })
}

pub fn buffer_outside_memory() -> Result<(), &'static str> {
    lie(|d| {
        d.describe(0, DATA, 16, NEXT, 1);
        d.describe(1, 0xffff_ffff_ffff_f000, 4096, NEXT | WRITE, 2);
        d.describe(2, DATA + 64, 1, WRITE, 0);
        d.offer(0);
    })
}

pub fn ring_outside_memory() -> Result<(), &'static str> {
    let mut device = Device::prepare(2, QUEUE)?;
    let used = device.used;
    device.used = 0xffff_ffff_ffff_0000;
    device.place();
    device.run();
    device.used = used;
    device.wait_broken()
}

pub fn indirect_table() -> Result<(), &'static str> {
    lie(|d| {
        d.describe(0, TABLE, 16, INDIRECT, 0);
        d.describe_at(TABLE, 0, TABLE, 16, INDIRECT, 0);
        d.offer(0);
    })
}

pub fn length() -> Result<(), &'static str> {
    lie(|d| {
        d.describe(0, DATA, 16, NEXT, 1);
        d.describe(1, DATA, 0xffff_ffff, NEXT | WRITE, 2);
        d.describe(2, DATA + 64, 1, WRITE, 0);
        d.offer(0);
    })
}

/// The entropy device serves while the disk waits for its reset.
pub fn others_go_on() -> Result<(), &'static str> {
    lie(|d| write16(d.avail + 2, 0x7fff))?;
    let mut rng = Device::start(4, QUEUE + 0x10_0000)?;
    write64(DATA, 0);
    rng.describe(0, DATA, 64, WRITE, 0);
    rng.offer(0);
    rng.kick();
    check(rng.wait_done(1), "no entropy came")?;
    check((0..8).any(|i| read64(DATA + 8 * i) != 0), "64 zeros are no entropy")
}
