//! Registers of vCPUs before their first instruction. The first vCPU starts at the kernel's entry; the others wait for
//! the guest's INIT and SIPI in the state KVM gave them.

use super::kernel::Entry;
use crate::layout::{
    BOOT_GDT, BOOT_IDT, BOOT_PD, BOOT_PDPT, BOOT_PML4, BOOT_STACK, PVH_START_INFO, ZERO_PAGE,
};
use crate::ram::{GuestRam, OutsideMemory};
use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// Writes descriptor table and page tables that the first vCPU starts with: the first GiB, identity mapped.
pub fn write_tables(ram: &GuestRam, entry: Entry) -> Result<(), OutsideMemory> {
    let wide = matches!(entry, Entry::Linux64(_));
    let descriptors = [0, 0, descriptor(&code(wide)), descriptor(&data()), descriptor(&task())];
    for (i, raw) in descriptors.iter().enumerate() {
        ram.write(BOOT_GDT + 8 * i as u64, &raw.to_le_bytes())?;
    }
    ram.write(BOOT_IDT, &[0; 8])?;
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    ram.write(BOOT_PML4, &(BOOT_PDPT | PRESENT_WRITABLE).to_le_bytes())?;
    ram.write(BOOT_PDPT, &(BOOT_PD | PRESENT_WRITABLE).to_le_bytes())?;
    let directory: Vec<u8> =
        (0..512_u64).flat_map(|i| (i << 21 | PRESENT_WRITABLE | LARGE).to_le_bytes()).collect();
    ram.write(BOOT_PD, &directory)
}

fn segment(selector: u16, kind: u8, long: u8, size: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        l: long,
        db: size,
        g: 1,
        ..Default::default()
    }
}

fn code(wide: bool) -> kvm_segment {
    segment(CODE, 0b1011, u8::from(wide), u8::from(!wide))
}

fn data() -> kvm_segment {
    segment(DATA, 0b0011, 0, 1)
}

fn task() -> kvm_segment {
    kvm_segment { limit: 0x67, selector: TASK, type_: 0b1011, present: 1, ..Default::default() }
}

/// A segment as it stands in a descriptor table.
fn descriptor(s: &kvm_segment) -> u64 {
    // With page granularity the field counts pages.
    let limit = u64::from(if s.g == 1 { s.limit >> 12 } else { s.limit });
    let flags = u64::from(s.g) << 3 | u64::from(s.db) << 2 | u64::from(s.l) << 1;
    let access = u64::from(s.present) << 7 | u64::from(s.dpl) << 5 | u64::from(s.s) << 4 | u64::from(s.type_);
    limit & 0xffff
        | (s.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (s.base >> 24 & 0xff) << 56
}

/// Sets what every vCPU needs, and the entry state of the first one.
pub fn prepare(vcpu: &VcpuFd, first: Option<Entry>) -> Result<(), kvm_ioctls::Error> {
    let msrs = [
        kvm_msr_entry { index: MSR_MISC_ENABLE, data: MISC_ENABLE_FAST_STRING, ..Default::default() },
        kvm_msr_entry { index: MSR_MTRR_DEF_TYPE, data: MTRR_ON_WRITE_BACK, ..Default::default() },
    ];
    // Both are set on a PC after power-on by firmware; a host without one of them keeps KVM's default.
    for msr in msrs {
        if let Ok(one) = Msrs::from_entries(&[msr]) {
            let _ = vcpu.set_msrs(&one);
        }
    }
    vcpu.set_fpu(&kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() })?;
    let Some(entry) = first else { return Ok(()) };
    let mut sregs = vcpu.get_sregs()?;
    let wide = matches!(entry, Entry::Linux64(_));
    sregs.cs = code(wide);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data(), data(), data(), data(), data());
    sregs.tr = task();
    (sregs.gdt.base, sregs.gdt.limit) = (BOOT_GDT, 5 * 8 - 1);
    (sregs.idt.base, sregs.idt.limit) = (BOOT_IDT, 7);
    sregs.cr0 = CR0_PE | CR0_ET;
    if wide {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = BOOT_PML4;
        sregs.cr4 |= CR4_PAE;
        sregs.efer |= EFER_LME | EFER_LMA;
    }
    vcpu.set_sregs(&sregs)?;
    let regs = match entry {
        Entry::Pvh(at) => kvm_regs { rflags: 2, rip: at, rbx: PVH_START_INFO, ..Default::default() },
        Entry::Linux64(at) => kvm_regs {
            rflags: 2,
            rip: at,
            rsi: ZERO_PAGE,
            rsp: BOOT_STACK,
            rbp: BOOT_STACK,
            ..Default::default()
        },
    };
    vcpu.set_regs(&regs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_manual() {
        assert_eq!(descriptor(&code(true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&code(false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&data()), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task()), 0x0000_8b00_0000_0067);
    }
}
