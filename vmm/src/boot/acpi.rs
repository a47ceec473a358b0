//! ACPI tables: hardware-reduced, so that the guest probes no PIC, PIT, RTC or power-management timer, each of which
//! would be exits. Power-off and reset are byte registers, the power button is a generic event device.

use crate::layout::{
    ACPI, ACPI_SIZE, COM1, COM1_IRQ, ECAM, ECAM_SIZE, EVENT_IRQ, IOAPIC, LAPIC, PCI_WINDOW, PCI_WINDOW_SIZE,
    RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS, SLEEP_TYPE_S5,
};
use crate::ram::GuestRam;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Method, Name, Notify, Package,
    Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

const OEM: [u8; 6] = *b"SLUICE";
const TABLE: [u8; 8] = *b"SLUICEVM";
/// IAPC_BOOT_ARCH: no VGA to probe, no CMOS clock. No 8042 and no legacy devices are zero bits.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// What the tables tell.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// vCPUs.
    pub cpus: u32,
    /// There is a serial port.
    pub serial: bool,
}

/// Writes the tables; says where the root pointer is.
pub fn write(ram: &GuestRam, platform: &Platform) -> Result<u64, String> {
    // The root pointer comes first, where a search would find it; the tables follow it.
    let mut at = ACPI + 64;
    let mut place = |table: &dyn Aml| -> Result<u64, String> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let here = at;
        at = (here + bytes.len() as u64).next_multiple_of(16);
        if at > ACPI + ACPI_SIZE {
            return Err("the ACPI tables do not fit their room".to_owned());
        }
        ram.write(here, &bytes).map_err(|e| e.to_string())?;
        Ok(here)
    };
    let dsdt = place(&dsdt(platform))?;
    let fadt = place(&fadt(dsdt))?;
    let madt = place(&madt(platform.cpus))?;
    let mut mcfg = MCFG::new(OEM, TABLE, 1);
    mcfg.add_ecam(ECAM, 0, 0, 0);
    let mcfg = place(&mcfg)?;
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    for entry in [fadt, madt, mcfg] {
        xsdt.add_entry(entry);
    }
    let xsdt = place(&xsdt)?;
    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    ram.write(ACPI, &root).map_err(|e| e.to_string())?;
    Ok(ACPI)
}

fn port(address: u16) -> GAS {
    GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(address))
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL);
    fadt.sleep_status_reg = port(SLEEP_STATUS);
    fadt.finalize()
}

fn madt(cpus: u32) -> MADT {
    let mut madt = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(LAPIC as u32));
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id as u8, id as u8, EnabledStatus::Enabled));
    }
    // An id of its own, after the vCPUs' as on a PC.
    madt.add_structure(IoApic::new(cpus as u8, IOAPIC as u32, 0));
    madt
}

/// A table that is its bytes.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn dsdt(platform: &Platform) -> Raw {
    let mut body = Vec::new();
    append_sleep(&mut body);
    append_event_device(&mut body);
    append_pci(&mut body);
    if platform.serial {
        append_serial(&mut body);
    }
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    table.append_slice(&body);
    Raw(table.as_slice().to_vec())
}

fn append_sleep(body: &mut Vec<u8>) {
    let value = SLEEP_TYPE_S5;
    Name::new(Path::new("_S5_"), &Package::new(vec![&value, &aml::ZERO, &aml::ZERO, &aml::ZERO]))
        .to_aml_bytes(body);
}

/// Interrupt → `_EVT` → Notify(power button).
fn append_event_device(body: &mut Vec<u8>) {
    let button = Path::new("\\_SB_.PWRB");
    let pressed = 0x80_u8;
    let notify = Notify::new(&button, &pressed);
    let interrupt = Interrupt::new(true, true, false, false, EVENT_IRQ);
    Scope::new(
        Path::new("\\_SB_"),
        vec![
            &Device::new(
                Path::new("PWRB"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C")),
                    &Name::new(Path::new("_UID"), &aml::ZERO),
                ],
            ),
            &Device::new(
                Path::new("GED_"),
                vec![
                    &Name::new(Path::new("_HID"), &"ACPI0013"),
                    &Name::new(Path::new("_UID"), &aml::ZERO),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt])),
                    &Method::new(Path::new("_EVT"), 1, true, vec![&notify]),
                ],
            ),
        ],
    )
    .to_aml_bytes(body);
}

fn append_pci(body: &mut Vec<u8>) {
    let buses = AddressSpace::<u16>::new_bus_number(0, 0);
    let window = AddressSpace::<u32>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        PCI_WINDOW as u32,
        (PCI_WINDOW + PCI_WINDOW_SIZE - 1) as u32,
        None,
    );
    let ecam = aml::Memory32Fixed::new(true, ECAM as u32, ECAM_SIZE as u32);
    Scope::new(
        Path::new("\\_SB_"),
        vec![
            &Device::new(
                Path::new("PCI0"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
                    &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
                    &Name::new(Path::new("_SEG"), &aml::ZERO),
                    &Name::new(Path::new("_BBN"), &aml::ZERO),
                    &Name::new(Path::new("_UID"), &aml::ZERO),
                    // Coherent DMA.
                    &Name::new(Path::new("_CCA"), &aml::ONE),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&buses, &window])),
                ],
            ),
            // Firmware says this way that the ECAM range is taken.
            &Device::new(
                Path::new("ECAM"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
                    &Name::new(Path::new("_UID"), &aml::ONE),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ecam])),
                ],
            ),
        ],
    )
    .to_aml_bytes(body);
}

/// Without this the guest has no interrupt for COM1 and user space's console output is lost.
fn append_serial(body: &mut Vec<u8>) {
    let ports = IO::new(COM1, COM1, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, COM1_IRQ);
    Scope::new(
        Path::new("\\_SB_"),
        vec![&Device::new(
            Path::new("COM1"),
            vec![
                &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
                &Name::new(Path::new("_UID"), &aml::ZERO),
                &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ports, &interrupt])),
            ],
        )],
    )
    .to_aml_bytes(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
    }

    fn table(ram: &GuestRam, at: u64) -> Vec<u8> {
        let mut head = [0; 8];
        ram.read(at, &mut head).expect("header");
        let len = u32::from_le_bytes(head[4..].try_into().expect("four bytes"));
        let mut bytes = vec![0; len as usize];
        ram.read(at, &mut bytes).expect("table");
        bytes
    }

    #[test]
    fn every_table_is_found_from_the_root_and_sums_to_zero() {
        let ram = GuestRam::anonymous(2 << 20).expect("memory");
        let root = write(&ram, &Platform { cpus: 254, serial: true }).expect("tables");
        let mut rsdp = [0; 36];
        ram.read(root, &mut rsdp).expect("root");
        assert_eq!((&rsdp[..8], sum(&rsdp), sum(&rsdp[..20])), (b"RSD PTR ".as_slice(), 0, 0));
        let number = |b: &[u8]| u64::from_le_bytes(b.try_into().expect("eight bytes"));
        let xsdt = table(&ram, number(&rsdp[24..32]));
        assert_eq!((&xsdt[..4], sum(&xsdt)), (b"XSDT".as_slice(), 0));
        let mut names = Vec::new();
        for entry in xsdt[36..].chunks(8) {
            let table = table(&ram, number(entry));
            assert_eq!(sum(&table), 0, "{:?}", &table[..4]);
            names.push(String::from_utf8_lossy(&table[..4]).into_owned());
            if names.last().is_some_and(|n| n == "FACP") {
                let dsdt = super::tests::table(&ram, number(&table[140..148]));
                assert_eq!((&dsdt[..4], sum(&dsdt)), (b"DSDT".as_slice(), 0));
            }
        }
        assert_eq!(names, ["FACP", "APIC", "MCFG"]);
    }
}
