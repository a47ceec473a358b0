//! The disk, used well.

use crate::cpu::{BLOCK, BLOCK_VECTOR, check, counter, read8, read64, wait, write8, write32, write64};
use crate::virtio::{Device, NEXT, SIZE, WRITE};
use core::sync::atomic::Ordering;

pub const QUEUE: u64 = 0x200_0000;
const HEADER: u64 = 0x210_0000;
const STATUS: u64 = 0x211_0000;
const DATA: u64 = 0x220_0000;

fn header(n: u64, kind: u32, sector: u64) -> u64 {
    let at = HEADER + 64 * n;
    write32(at, kind);
    write32(at + 4, 0);
    write64(at + 8, sector);
    write8(STATUS + n, 0xee);
    at
}

/// One request; says the status byte.
fn request(device: &mut Device, kind: u32, sector: u64, data: u64, len: u32) -> Result<u8, &'static str> {
    let before = device.done();
    device.describe(0, header(0, kind, sector), 16, NEXT, 1);
    device.describe(1, data, len, if kind == 0 { NEXT | WRITE } else { NEXT }, 2);
    device.describe(2, STATUS, 1, WRITE, 0);
    device.offer(0);
    device.kick();
    check(device.wait_done(before.wrapping_add(1)), "no answer")?;
    Ok(read8(STATUS))
}

pub fn reads_and_writes() -> Result<(), &'static str> {
    let mut device = Device::start(2, QUEUE)?;
    check(device.capacity() == 2048, "the disk is not 1 MiB")?;
    let value = counter();
    for i in 0..512 {
        write64(DATA + 8 * i, value.wrapping_mul(i + 1));
    }
    check(request(&mut device, 1, 8, DATA, 4096)? == 0, "the write failed")?;
    for i in 0..512 {
        write64(DATA + 8 * i, 0);
    }
    check(request(&mut device, 0, 8, DATA, 4096)? == 0, "the read failed")?;
    check((0..512).all(|i| read64(DATA + 8 * i) == value.wrapping_mul(i + 1)), "other bytes came back")?;
    // The first sector holds a mark that the host wrote.
    check(request(&mut device, 0, 0, DATA, 512)? == 0, "the read failed")?;
    check(read64(DATA) == u64::from_le_bytes(*b"hostmark"), "not what the host wrote")
}

pub fn interrupts() -> Result<(), &'static str> {
    let mut device = Device::prepare(2, QUEUE)?;
    device.use_vector(BLOCK_VECTOR)?;
    device.run();
    let before = BLOCK.load(Ordering::SeqCst);
    for n in 1..=10 {
        check(request(&mut device, 0, 0, DATA, 512)? == 0, "the read failed")?;
        check(wait(|| BLOCK.load(Ordering::SeqCst) >= before + n), "an interrupt was lost")?;
    }
    Ok(())
}

pub fn refuses() -> Result<(), &'static str> {
    let mut device = Device::start(2, QUEUE)?;
    check(request(&mut device, 0, 2048, DATA, 512)? == 1, "past the end")?;
    check(request(&mut device, 0, u64::MAX, DATA, 512)? == 1, "far past the end")?;
    check(request(&mut device, 1, 2047, DATA, 1024)? == 1, "over the end")?;
    check(request(&mut device, 0, 0, DATA, 100)? == 1, "a part of a sector")?;
    check(request(&mut device, 77, 0, DATA, 512)? == 2, "an unknown request")?;
    check(request(&mut device, 0, 0, DATA, 512)? == 0, "and a good one after it")?;
    check(!device.needs_reset(), "refusing is no fault")
}

pub fn full_queue() -> Result<(), &'static str> {
    let mut device = Device::start(2, QUEUE)?;
    let chains = SIZE / 3;
    for round in 1..=8 {
        for n in 0..chains {
            let at = header(u64::from(n), 0, u64::from(n) * 8);
            device.describe(3 * n, at, 16, NEXT, 3 * n + 1);
            device.describe(3 * n + 1, DATA + 4096 * u64::from(n), 4096, NEXT | WRITE, 3 * n + 2);
            device.describe(3 * n + 2, STATUS + u64::from(n), 1, WRITE, 0);
            device.offer(3 * n);
        }
        device.kick();
        check(device.wait_done(round * chains), "not all were answered")?;
        check((0..u64::from(chains)).all(|n| read8(STATUS + n) == 0), "one failed")?;
    }
    Ok(())
}
