//! CPUID of a guest: what KVM offers on this host, with topology, APIC ids and the things that cost exits taken out.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

/// Leaf with KVM's paravirtual features.
pub const KVM_FEATURES: u32 = 0x4000_0001;
/// EDX of [`KVM_FEATURES`]: vCPUs are never preempted for long, spin instead of yielding.
pub const KVM_HINTS_REALTIME: u32 = 1;

/// What KVM offers, before it is made a vCPU's own.
pub fn supported(kvm: &Kvm) -> Result<Vec<kvm_cpuid_entry2>, kvm_ioctls::Error> {
    Ok(kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?.as_slice().to_vec())
}

/// What is the same for all vCPUs of a VM.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// vCPUs: one socket, one thread a core.
    pub cpus: u32,
    /// Their host CPUs are theirs alone.
    pub dedicated: bool,
    /// KVM emulates the TSC deadline timer.
    pub tsc_deadline: bool,
}

/// The leaves of vCPU `id`.
pub fn of_vcpu(base: &[kvm_cpuid_entry2], id: u32, topology: &Topology) -> Result<CpuId, String> {
    let bits = topology.cpus.next_power_of_two().trailing_zeros();
    let mut entries: Vec<_> = base.iter().filter(|e| !matches!(e.function, 0xb | 0x1f)).copied().collect();
    for entry in &mut entries {
        adjust(entry, id, bits, topology);
    }
    for function in [0xb, 0x1f] {
        // Leaf 0x1f only where the host has it: its presence outranks 0xb.
        if base.iter().any(|e| e.function == function) {
            entries.extend(extended_topology(function, id, bits, topology.cpus));
        }
    }
    CpuId::from_entries(&entries).map_err(|e| format!("{e:?}"))
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u32, bits: u32, topology: &Topology) {
    const X2APIC: u32 = 1 << 21;
    const TSC_DEADLINE: u32 = 1 << 24;
    const HYPERVISOR: u32 = 1 << 31;
    const HTT: u32 = 1 << 28;
    let cpus = topology.cpus;
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0xffff | cpus.min(255) << 16 | id << 24;
            entry.ecx |= X2APIC | HYPERVISOR;
            entry.ecx &= !TSC_DEADLINE;
            if topology.tsc_deadline {
                entry.ecx |= TSC_DEADLINE;
            }
            entry.edx = if cpus > 1 { entry.edx | HTT } else { entry.edx & !HTT };
        }
        // Caches: the first two levels are a core's own, the third is shared by all.
        4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { cpus - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing.min(0xfff) << 14 | (cpus - 1).min(0x3f) << 26;
        }
        // Performance counters are not given: their registers would exit.
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        KVM_FEATURES if topology.dedicated => entry.edx |= KVM_HINTS_REALTIME,
        0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | bits << 12 | (cpus - 1).min(0xff),
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { cpus - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing.min(0xfff) << 14;
        }
        0x8000_001e => {
            entry.eax = id;
            entry.ebx = id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Leaf 0xb or 0x1f: threads, then cores, then nothing more.
fn extended_topology(function: u32, id: u32, bits: u32, cpus: u32) -> [kvm_cpuid_entry2; 3] {
    const SIGNIFICANT_INDEX: u32 = 1;
    let level = |index: u32, eax: u32, ebx: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: SIGNIFICANT_INDEX,
        eax,
        ebx,
        ecx: kind << 8 | index,
        edx: id,
        ..Default::default()
    };
    [level(0, 0, 1, 1), level(1, bits, cpus, 2), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(leaves: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *leaves.as_slice().iter().find(|e| e.function == function && e.index == index).expect("leaf")
    }

    #[test]
    fn every_vcpu_has_its_own_id_in_every_place_that_tells_it() {
        let base: Vec<_> = [1, 0xb, 0x8000_0008, 0x8000_001e, KVM_FEATURES]
            .map(|function| kvm_cpuid_entry2 { function, ebx: 0xffff_ffff, ..Default::default() })
            .to_vec();
        let topology = Topology { cpus: 6, dedicated: true, tsc_deadline: true };
        for id in 0..6 {
            let leaves = of_vcpu(&base, id, &topology).expect("leaves");
            assert_eq!(leaf(&leaves, 1, 0).ebx >> 24, id);
            assert_eq!(leaf(&leaves, 1, 0).ebx >> 16 & 0xff, 6);
            assert_eq!(leaf(&leaves, 1, 0).ecx & (1 << 24 | 1 << 21), 1 << 24 | 1 << 21);
            let cores = leaf(&leaves, 0xb, 1);
            assert_eq!((cores.eax, cores.ebx, cores.edx), (3, 6, id));
            assert_eq!(leaf(&leaves, 0x8000_001e, 0).eax, id);
            assert_eq!(leaf(&leaves, KVM_FEATURES, 0).edx, KVM_HINTS_REALTIME);
            assert!(!leaves.as_slice().iter().any(|e| e.function == 0x1f), "not where the host has none");
        }
    }
}
