//! The guest's physical address map and its I/O ports: the one place where these numbers live.
//!
//! ```text
//! 0            boot structures, command line
//! 0x000e_0000  ACPI tables                      (reserved in the memory map)
//! 0x0010_0000  low memory, to 3 GiB at most
//! 0xc000_0000  32-bit window of PCI BARs
//! 0xe000_0000  PCI configuration space of bus 0 (ECAM)
//! 0xfec0_0000  IOAPIC, local APICs, KVM's own pages
//! 0x1_0000_0000 the rest of memory
//! ```

/// Boot GDT of the vCPU that starts first.
pub const BOOT_GDT: u64 = 0x500;
/// Boot IDT (empty).
pub const BOOT_IDT: u64 = 0x520;
/// `hvm_start_info` of the PVH protocol; module list and memory map follow it in the page.
pub const PVH_START_INFO: u64 = 0x6000;
/// `boot_params` of the Linux boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// Top of the first stack.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Identity page tables of the first GiB: one page each of PML4, PDPT and PD.
pub const BOOT_PML4: u64 = 0x9000;
/// Page directory pointers.
pub const BOOT_PDPT: u64 = 0xa000;
/// Page directory.
pub const BOOT_PD: u64 = 0xb000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line, with its final zero: what x86 Linux reads (`COMMAND_LINE_SIZE`).
pub const CMDLINE_MAX: usize = 2048;
/// End of conventional memory.
pub const EBDA: u64 = 0x9_fc00;
/// ACPI tables, RSDP first. Firmware puts them in this range, so everything that searches finds them.
pub const ACPI: u64 = 0xe_0000;
/// Room for ACPI tables.
pub const ACPI_SIZE: u64 = 0x2_0000;
/// Where memory above the legacy hole begins; kernels are linked at or above it.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Low memory ends here at the latest.
pub const LOW_END_MAX: u64 = 0xc000_0000;
/// BARs of emulated devices.
pub const PCI_WINDOW: u64 = 0xc000_0000;
/// Size of [`PCI_WINDOW`].
pub const PCI_WINDOW_SIZE: u64 = 0x2000_0000;
/// Configuration space by memory: 4 KiB for each of 8 functions of 32 devices of bus 0.
pub const ECAM: u64 = 0xe000_0000;
/// Size of [`ECAM`]: one bus.
pub const ECAM_SIZE: u64 = 0x10_0000;
/// IOAPIC of the in-kernel interrupt controller.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Local APICs.
pub const LAPIC: u64 = 0xfee0_0000;
/// KVM's identity map page (Intel only), below its three TSS pages.
pub const KVM_IDENTITY: u64 = 0xfffb_c000;
/// KVM's TSS pages (Intel only).
pub const KVM_TSS: u64 = 0xfffb_d000;
/// Memory that does not fit low goes on here.
pub const HIGH_START: u64 = 0x1_0000_0000;

/// First serial port.
pub const COM1: u16 = 0x3f8;
/// Its interrupt.
pub const COM1_IRQ: u32 = 4;
/// Interrupt of the generic event device: the power button.
pub const EVENT_IRQ: u32 = 5;
/// Keyboard controller's command port: only its reset command means something.
pub const I8042: u16 = 0x64;
/// ACPI sleep control register (hardware-reduced).
pub const SLEEP_CONTROL: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS: u16 = 0x601;
/// ACPI reset register.
pub const RESET: u16 = 0x602;
/// Value that the reset register acts on.
pub const RESET_VALUE: u8 = 1;
/// Sleep type of S5 in `\_S5`.
pub const SLEEP_TYPE_S5: u8 = 5;
/// Test guests report here: text bytes to `DEBUG_PORT`, the exit code to `DEBUG_PORT + 1`.
pub const DEBUG_PORT: u16 = 0x402;
/// First interrupt line given to MSI routes: the IOAPIC has 24.
pub const FIRST_MSI_GSI: u32 = 24;
/// Number of interrupt lines of the IOAPIC.
pub const IOAPIC_LINES: u32 = 24;
