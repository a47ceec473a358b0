//! The processor: page tables, interrupts, timer, a second vCPU.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const LAPIC: u64 = 0xfee0_0000;
const TIMER_VECTOR: u8 = 0x40;
const IPI_VECTOR: u8 = 0x41;
/// Vector of the block device's queue.
pub const BLOCK_VECTOR: u8 = 0x42;
/// Turns of a wait before it counts as failed: seconds, even where kernel code is interpreted.
const PATIENCE: u32 = 20_000_000;

static TIMER: AtomicU32 = AtomicU32::new(0);
static IPI: AtomicU32 = AtomicU32::new(0);
/// Interrupts of the block device.
pub static BLOCK: AtomicU32 = AtomicU32::new(0);
static SECOND: AtomicU32 = AtomicU32::new(0);

pub fn outb(port: u16, value: u8) {
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

pub fn halt() {
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe { asm!("hlt", options(nostack)) }
}

pub fn read32(addr: u64) -> u32 {
    let value: u32;
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe {
        asm!("mov {0:e}, dword ptr [{1}]", out(reg) value, in(reg) addr, options(nostack, preserves_flags))
    }
    value
}

pub fn write32(addr: u64, value: u32) {
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe {
        asm!("mov dword ptr [{0}], {1:e}", in(reg) addr, in(reg) value, options(nostack, preserves_flags))
    }
}

pub fn read16(addr: u64) -> u16 {
    let value: u16;
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe {
        asm!("mov {0:x}, word ptr [{1}]", out(reg) value, in(reg) addr, options(nostack, preserves_flags))
    }
    value
}

pub fn write16(addr: u64, value: u16) {
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe {
        asm!("mov word ptr [{0}], {1:x}", in(reg) addr, in(reg) value, options(nostack, preserves_flags))
    }
}

pub fn read8(addr: u64) -> u8 {
    let value: u8;
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe {
        asm!("mov {0}, byte ptr [{1}]", out(reg_byte) value, in(reg) addr, options(nostack, preserves_flags))
    }
    value
}

pub fn write8(addr: u64, value: u8) {
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe {
        asm!("mov byte ptr [{0}], {1}", in(reg) addr, in(reg_byte) value, options(nostack, preserves_flags))
    }
}

pub fn read64(addr: u64) -> u64 {
    let value: u64;
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe {
        asm!("mov {0}, qword ptr [{1}]", out(reg) value, in(reg) addr, options(nostack, preserves_flags))
    }
    value
}

pub fn write64(addr: u64, value: u64) {
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe {
        asm!("mov qword ptr [{0}], {1}", in(reg) addr, in(reg) value, options(nostack, preserves_flags))
    }
}

/// Waits until `done`; false if it does not come.
pub fn wait(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..PATIENCE {
        if done() {
            return true;
        }
        core::hint::spin_loop();
    }
    false
}

pub fn check(ok: bool, why: &'static str) -> Result<(), &'static str> {
    if ok { Ok(()) } else { Err(why) }
}

/// Page tables of our own: four GiB in pages of 2 MiB, at 16 MiB.
const TABLES: u64 = 0x100_0000;

pub fn map_low_four_gigabytes() {
    write64(TABLES, (TABLES + 0x1000) | 3);
    for gigabyte in 0..4 {
        let directory = TABLES + 0x2000 + 0x1000 * gigabyte;
        write64(TABLES + 0x1000 + 8 * gigabyte, directory | 3);
        for page in 0..512 {
            // The upper half of the last GiB is registers: not cached.
            let uncached = if gigabyte == 3 { 0x18 } else { 0 };
            write64(directory + 8 * page, gigabyte << 30 | page << 21 | 0x83 | uncached);
        }
    }
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe { asm!("mov cr3, {}", in(reg) TABLES, options(nostack)) }
}

global_asm!(
    ".macro handler name, counter",
    ".global \\name",
    "\\name:",
    "push rax",
    "lock inc dword ptr [rip + \\counter]",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "pop rax",
    "iretq",
    ".endm",
    ".text",
    "handler on_timer, {timer}",
    "handler on_ipi, {ipi}",
    "handler on_block, {block}",
    ".global on_fault",
    "on_fault:",
    "mov dx, 0x403",
    "mov al, 254",
    "out dx, al",
    "3: hlt",
    "jmp 3b",
    timer = sym TIMER,
    ipi = sym IPI,
    block = sym BLOCK,
);

unsafe extern "C" {
    fn on_timer();
    fn on_ipi();
    fn on_block();
    fn on_fault();
    static ap_start: u8;
    static ap_end: u8;
}

const IDT: u64 = TABLES + 0x1_0000;
const IDT_POINTER: u64 = IDT + 0x1000;

fn gate(vector: u8, handler: u64) {
    let at = IDT + 16 * u64::from(vector);
    let mut code: u16;
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe { asm!("mov {0:x}, cs", out(reg) code, options(nostack, preserves_flags)) }
    write64(at, handler & 0xffff | u64::from(code) << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48);
    write64(at + 8, handler >> 32);
}

pub fn enable_interrupts() {
    for vector in 0..32 {
        gate(vector, on_fault as *const () as u64);
    }
    gate(TIMER_VECTOR, on_timer as *const () as u64);
    gate(IPI_VECTOR, on_ipi as *const () as u64);
    gate(BLOCK_VECTOR, on_block as *const () as u64);
    write16(IDT_POINTER, 0xfff);
    write64(IDT_POINTER + 2, IDT);
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe { asm!("lidt [{}]", in(reg) IDT_POINTER, options(nostack)) }
    write32(LAPIC + 0xf0, 0x1ff);
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe { asm!("sti", options(nostack)) }
}

pub fn memory() -> Result<(), &'static str> {
    // The zero page tells how much memory there is; its last word has to hold what is put there.
    let mut top = 0;
    for i in 0..u64::from(read8(0x7000 + 0x1e8)) {
        let entry = 0x7000 + 0x2d0 + 20 * i;
        if read32(entry + 16) == 1 && read64(entry) < 1 << 32 {
            top = read64(entry) + read64(entry + 8);
        }
    }
    check(top > 32 << 20, "no memory map")?;
    write64(top - 8, 0x1234_5678_9abc_def0);
    check(read64(top - 8) == 0x1234_5678_9abc_def0, "the last word")
}

pub fn timer() -> Result<(), &'static str> {
    write32(LAPIC + 0x3e0, 0b1011);
    write32(LAPIC + 0x320, u32::from(TIMER_VECTOR) | 1 << 17);
    write32(LAPIC + 0x380, 1_000_000);
    let came = wait(|| TIMER.load(Ordering::SeqCst) >= 5);
    write32(LAPIC + 0x380, 0);
    check(came, "fewer than five ticks")
}

// A second processor: real mode at 0x8000, through protected mode into ours.
global_asm!(
    ".section .rodata",
    ".global ap_start",
    ".global ap_end",
    "ap_start:",
    ".code16",
    "cli",
    "xor ax, ax",
    "mov ds, ax",
    "lgdt [0x8f00]",
    "mov eax, 0x20",
    "mov cr4, eax",
    "mov eax, dword ptr [0x8f10]",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000001",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long 0x8000 + (ap_long - ap_start)",
    ".word 0x10",
    ".code64",
    "ap_long:",
    "mov ax, 0x18",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov esp, 0xf000",
    "mov eax, 0x8f20",
    "mov rax, qword ptr [rax]",
    "call rax",
    "4: hlt",
    "jmp 4b",
    "ap_end:",
    ".text",
);

const AP_CODE: u64 = 0x8000;
const AP_GDT: u64 = 0x8e00;

extern "C" fn second_main() -> ! {
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe { asm!("lidt [{}]", in(reg) IDT_POINTER, options(nostack)) }
    write32(LAPIC + 0xf0, 0x1ff);
    SECOND.store(1, Ordering::SeqCst);
    // SAFETY: the machine is this program's alone; a wrong access faults and fails the run.
    unsafe { asm!("sti", options(nostack)) }
    loop {
        halt();
    }
}

fn command(to: u32, value: u32) {
    write32(LAPIC + 0x310, to << 24);
    write32(LAPIC + 0x300, value);
}

pub fn second_cpu() -> Result<(), &'static str> {
    let (from, to) = (&raw const ap_start as u64, &raw const ap_end as u64);
    for i in 0..to - from {
        write8(AP_CODE + i, read8(from + i));
    }
    for (i, entry) in [0, 0, 0x00af_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff].iter().enumerate() {
        write64(AP_GDT + 8 * i as u64, *entry);
    }
    write16(0x8f00, 31);
    write32(0x8f02, AP_GDT as u32);
    write32(0x8f10, TABLES as u32);
    write64(0x8f20, second_main as *const () as u64);
    command(1, 0x4500);
    command(1, 0x4608);
    check(wait(|| SECOND.load(Ordering::SeqCst) == 1), "it did not start")?;
    for n in 1..=20 {
        command(1, 0x4000 | u32::from(IPI_VECTOR));
        check(wait(|| IPI.load(Ordering::SeqCst) >= n), "an interrupt was lost")?;
    }
    Ok(())
}

/// A value that differs from call to call.
pub fn counter() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
}
