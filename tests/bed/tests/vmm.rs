//! `sluice-vmm` on an emulated server with KVM: Debian's kernel as the guest, with disk, NIC and console.
//!
//! Without QEMU or without the kernel's package each test prints `skipped: reason`.

#![forbid(unsafe_code)]

use sluice_bed::{Bed, Error, Outcome, Series, guest_initrd};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Drivers of the guest, modules in Debian's kernel.
const GUEST_MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_rng"];

/// The VMM as cargo builds it.
fn vmm() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--message-format=json", "-p", "sluice-vmm", "--bin", "sluice-vmm"]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("start cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .expect("cargo names the program")
}

/// A server with an NVMe disk, and a guest that runs `script`.
fn server(guest: &str) -> Option<(Bed, tempfile::TempDir)> {
    let bed = match Bed::new(Series::Cloud) {
        Ok(bed) => bed,
        Err(Error::Unavailable(why)) => {
            println!("skipped: {why}");
            return None;
        }
        Err(other) => panic!("{other}"),
    };
    let work = tempfile::tempdir().expect("directory");
    let initrd = work.path().join("guest.initrd");
    guest_initrd(bed.kernel(), &GUEST_MODULES, guest, &initrd).expect("the guest's RAM disk");
    let disk = work.path().join("nvme.img");
    std::fs::File::create(&disk).expect("disk").set_len(64 << 20).expect("disk");
    let (elf, image) = (bed.kernel().elf().expect("the ELF kernel"), bed.kernel().image());
    let drive = format!("file={},if=none,id=nvme,format=raw", disk.display());
    let bed = bed
        .memory_mib(2048)
        .limit(Duration::from_secs(280))
        .module("kvm-amd")
        .module("tun")
        .module("nvme")
        .file(vmm(), "/bin/sluice-vmm")
        .file(elf, "/guest/vmlinux")
        .file(image, "/guest/bzImage")
        .file(initrd, "/guest/initrd")
        .device(&["-drive", &drive, "-device", "nvme,drive=nvme,serial=nvme0"]);
    Some((bed, work))
}

fn run(bed: &Bed, script: &str) -> Outcome {
    let outcome = bed.run(script).unwrap_or_else(|e| panic!("{e}"));
    println!("kernel {}, {:.1} s\n{}", bed.kernel().release(), outcome.took.as_secs_f32(), outcome.output);
    assert_eq!(outcome.status, 0, "kernel log:\n{}", outcome.kernel_log);
    outcome
}

/// Does everything that an operator's first guest does, and says each thing by name.
const GUEST: &str = r#"
failed=0
check() { name=$1; shift; if "$@" >/tmp/out 2>&1; then echo "ok $name"; else echo "FAIL $name"; cat /tmp/out; failed=1; fi; }
check cpus [ "$(grep -c ^processor /proc/cpuinfo)" = 2 ]
check x2apic grep -q x2apic /proc/cpuinfo
check kvmclock grep -q kvm-clock /sys/devices/system/clocksource/clocksource0/available_clocksource
check 'disk size' [ "$(cat /sys/block/vda/size)" = 131072 ]
check 'disk serial' [ "$(cat /sys/block/vda/serial)" = disk0 ]
check 'disk interrupts' grep -q 'virtio.*req' /proc/interrupts
dd if=/dev/urandom of=/tmp/pattern bs=64k count=16 2>/dev/null
dd if=/tmp/pattern of=/tmp/sector bs=512 skip=1 count=1 2>/dev/null
check 'write' dd if=/tmp/pattern of=/dev/vda bs=64k seek=16 conv=fsync
check 'direct read' sh -c 'dd if=/dev/vda bs=4k skip=256 count=256 iflag=direct 2>/dev/null | cmp - /tmp/pattern'
check 'odd direct read' sh -c 'dd if=/dev/vda bs=512 skip=2049 count=1 iflag=direct 2>/dev/null | cmp - /tmp/sector'
md5sum < /tmp/pattern | sed 's/^/pattern /'
check 'discard' blkdiscard -o 33554432 -l 1048576 /dev/vda
check 'entropy' sh -c 'dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c | grep -qx 64'
ip addr add 192.168.77.2/24 dev eth0
ip link set eth0 up
check 'ping' ping -c 3 -w 20 192.168.77.1
check 'download' sh -c 'wget -q -O /tmp/file http://192.168.77.1:7000/file && wget -q -O /tmp/sum http://192.168.77.1:7000/sum && md5sum < /tmp/file | cut -c1-32 | cmp - /tmp/sum'
dd if=/dev/urandom of=/tmp/sent bs=64k count=64 2>/dev/null
nc 192.168.77.1 7002 < /tmp/sent
echo 'for i in $(seq 40); do wget -q -O /tmp/back http://192.168.77.1:7000/upload && cmp /tmp/sent /tmp/back && exit 0; sleep 0.5; done; exit 1' > /tmp/uploaded
check 'upload' sh /tmp/uploaded
echo "interrupts $(grep -E 'virtio|LOC|RES|CAL' /proc/interrupts | tr -s ' ' | tr '\n' ';')"
exit $failed
"#;

#[test]
fn a_linux_guest_boots_with_disk_nic_and_console_and_leaves_nothing() {
    let Some((bed, _work)) = server(GUEST) else { return };
    let bed = bed.kernel_args("hugepages=200");
    let script = r#"
set -e
free=$(grep HugePages_Free /proc/meminfo)
dd if=/dev/urandom of=/root/file bs=1M count=8 2>/dev/null
md5sum < /root/file | cut -c1-32 > /root/sum
cat > /root/vm.yaml <<'END'
name: first
cpus: {count: 2, pin: [1, 0]}
memory: {size: 256M, pages: 2M}
boot: {kernel: /guest/vmlinux, initrd: /guest/initrd, cmdline: "console=ttyS0 panic=-1 quiet"}
serial: stdio
disks: [{path: /dev/nvme0n1, id: disk0, direct: true}]
nics: [{tap: tap0, host_address: 192.168.77.1/24}]
END
httpd -p 7000 -h /root
# This nc ends with its standard input.
sleep 240 | nc -l -p 7002 > /root/upload &
before=$(ls /sys/class/net)
rc=0; sluice-vmm --config /root/vm.yaml > /root/out || rc=$?
cat /root/out
echo "vmm status $rc"
grep -q 'guest status 0' /root/out
[ $rc = 0 ]
want=$(grep ^pattern /root/out | cut -d' ' -f2)
got=$(dd if=/dev/nvme0n1 bs=64k skip=16 count=16 2>/dev/null | md5sum | cut -c1-32)
[ "$want" = "$got" ] && echo "the server reads what the guest wrote"
[ "$free" = "$(grep HugePages_Free /proc/meminfo)" ] && echo "huge pages are back"
[ "$before" = "$(ls /sys/class/net)" ] && echo "the tap is gone"
"#;
    let outcome = run(&bed, script);
    assert!(!outcome.output.contains("FAIL"), "a check of the guest failed");
    for line in [
        "the server reads what the guest wrote",
        "ok upload",
        "huge pages are back",
        "the tap is gone",
        "ok ping",
        "ok download",
    ] {
        assert!(outcome.output.contains(line), "missing: {line}");
    }
}
