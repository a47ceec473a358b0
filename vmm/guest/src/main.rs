//! The test guest: a kernel that drives the VMM's devices and lies to them, and says PASS or FAIL by name.
//!
//! Runs in 64-bit mode with the first GiB mapped one to one, as the Linux protocol leaves it; the first thing it does
//! is to map the next three for PCI and the local APIC. One vCPU runs the tests, a second one is started by them. It
//! has no allocator, no floating point and no instruction beyond the first x86-64 (software hosts interpret it).

#![no_std]
#![no_main]

mod block;
mod cpu;
mod hostile;
mod pci;
mod say;
mod virtio;

use core::arch::global_asm;
use core::panic::PanicInfo;

global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    "cld",
    "lea rsp, [rip + guest_stack_top]",
    "call guest_main",
    "2: hlt",
    "jmp 2b",
    ".section .bss",
    ".balign 16",
    "guest_stack: .skip 65536",
    "guest_stack_top:",
);

type Test = fn() -> Result<(), &'static str>;

const TESTS: [(&str, Test); 17] = [
    ("long_mode_and_memory", cpu::memory),
    ("timer_interrupts", cpu::timer),
    ("second_cpu_starts_and_answers_ipis", cpu::second_cpu),
    ("pci_lists_the_devices", pci::lists),
    ("a_bar_is_sized_and_moved", pci::sizes_and_moves),
    ("block_reads_and_writes", block::reads_and_writes),
    ("block_interrupts_by_msix", block::interrupts),
    ("block_refuses_what_is_not_on_the_disk", block::refuses),
    ("block_serves_a_full_queue", block::full_queue),
    ("hostile_index_jump", hostile::index_jump),
    ("hostile_descriptor_loop", hostile::descriptor_loop),
    ("hostile_buffer_outside_memory", hostile::buffer_outside_memory),
    ("hostile_ring_outside_memory", hostile::ring_outside_memory),
    ("hostile_indirect_table", hostile::indirect_table),
    ("hostile_length", hostile::length),
    ("other_devices_go_on", hostile::others_go_on),
    ("block_works_after_its_reset", block::reads_and_writes),
];

#[unsafe(no_mangle)]
extern "C" fn guest_main() -> ! {
    cpu::map_low_four_gigabytes();
    cpu::enable_interrupts();
    let mut failed = 0;
    for (name, test) in TESTS {
        match test() {
            Ok(()) => say::line(&["PASS ", name]),
            Err(why) => {
                failed += 1;
                say::line(&["FAIL ", name, ": ", why]);
            }
        }
    }
    say::exit(failed)
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    say::line(&["FAIL panic"]);
    say::exit(255)
}
