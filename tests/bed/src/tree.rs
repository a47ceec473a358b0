//! The server's initial RAM disk.

use crate::kernel::Kernel;
use crate::{Error, Result, command, step};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// First process of the server: mounts, modules, the script, its status, the end.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /usr/bin /usr/sbin /sbin
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t debugfs debug /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mkdir -p /dev/shm /dev/pts /dev/hugepages
mount -t tmpfs tmpfs /dev/shm
mount -t devpts pts /dev/pts
mount -t hugetlbfs huge /dev/hugepages
while read -r module; do [ -z "$module" ] || modprobe "$module"; done < /bed/modules
ip link set lo up
ulimit -l unlimited
ulimit -n 65536
stty -F /dev/ttyS1 raw -echo
cd /root
sh /bed/script < /dev/null > /dev/ttyS1 2>&1
echo $? > /dev/ttyS2
sync
poweroff -f
"#;

/// First process of a guest of the server.
const GUEST_INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /usr/bin /usr/sbin /sbin
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
while read -r module; do [ -z "$module" ] || modprobe "$module"; done < /bed/modules
sh /bed/script
echo "guest status $?"
poweroff -f
"#;

/// Where names are looked up.
const ETC: [(&str, &str); 4] = [
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("hosts", "127.0.0.1 localhost\n"),
    ("passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("group", "root:x:0:\n"),
];

/// Builds the server's tree under `work` and packs it into `initrd`.
pub fn build(
    work: &Path,
    initrd: &Path,
    kernel: &Kernel,
    modules: &[String],
    files: &[(PathBuf, String)],
    script: &str,
) -> Result<()> {
    let tree = work.join("tree");
    lay(&tree, kernel, modules, script, INIT)?;
    for (from, to) in files {
        put_with_libraries(&tree, from, to)?;
    }
    pack(&tree, initrd)
}

/// Builds a guest's tree under `work` and packs it into `initrd`.
pub fn build_guest(
    work: &Path,
    initrd: &Path,
    kernel: &Kernel,
    modules: &[String],
    script: &str,
) -> Result<()> {
    let tree = work.join("tree");
    lay(&tree, kernel, modules, script, GUEST_INIT)?;
    pack(&tree, initrd)
}

fn lay(tree: &Path, kernel: &Kernel, modules: &[String], script: &str, init: &str) -> Result<()> {
    for dir in ["bin", "dev", "proc", "sys", "tmp", "run", "root", "etc", "mnt", "bed"] {
        fs::create_dir_all(tree.join(dir)).map_err(step("make a directory"))?;
    }
    put(tree, Path::new(&which("busybox")?), "/bin/busybox")?;
    put_modules(tree, kernel, modules)?;
    // Without these the C library of a static busybox looks for libraries of its own, and crashes.
    for (name, text) in ETC {
        fs::write(tree.join("etc").join(name), text).map_err(step("write a file"))?;
    }
    fs::write(tree.join("bed/script"), script).map_err(step("write the script"))?;
    fs::write(tree.join("bed/modules"), modules.join("\n") + "\n")
        .map_err(step("write the modules' names"))?;
    write_executable(&tree.join("init"), init)
}

fn pack(tree: &Path, initrd: &Path) -> Result<()> {
    let mut pack = Command::new("sh");
    pack.args(["-ec", "find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet > \"$0\""]);
    command("pack the RAM disk", pack.arg(initrd).current_dir(tree)).map(drop)
}

fn which(program: &str) -> Result<String> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| format!("{dir}/{program}"))
        .find(|path| Path::new(path).exists())
        .ok_or_else(|| Error::Unavailable(format!("{program} is not installed")))
}

fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).map_err(step("write a file"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(step("make a file executable"))
}

fn put(tree: &Path, from: &Path, to: &str) -> Result<()> {
    let target = tree.join(to.trim_start_matches('/'));
    if let Some(dir) = target.parent() {
        fs::create_dir_all(dir).map_err(step("make a directory"))?;
    }
    fs::copy(from, &target)
        .map(drop)
        .map_err(|e| Error::Step { step: "copy a file", why: format!("{}: {e}", from.display()) })
}

/// A file and, of a dynamic program, its libraries where the loader looks for them.
fn put_with_libraries(tree: &Path, from: &Path, to: &str) -> Result<()> {
    put(tree, from, to)?;
    // `ldd` fails for what is not a dynamic program, and then there is nothing more to put.
    let listed = Command::new("ldd").arg(from).output().map_err(step("ldd"))?;
    for word in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|w| w.starts_with('/')) {
        if !tree.join(word.trim_start_matches('/')).exists() {
            put(tree, Path::new(word), word)?;
        }
    }
    Ok(())
}

/// Modules with what they depend on, and the kernel's own indexes, made anew for the subset.
fn put_modules(tree: &Path, kernel: &Kernel, modules: &[String]) -> Result<()> {
    let (root, release) = (kernel.root(), kernel.release());
    let home = format!("lib/modules/{release}");
    for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        put(tree, &root.join(&home).join(name), &format!("/{home}/{name}"))?;
    }
    let mut wanted = BTreeSet::new();
    for module in modules {
        let mut show = Command::new("modprobe");
        show.arg("-d").arg(root).args(["-S", release, "--show-depends", module]);
        for line in command("modprobe --show-depends", &mut show)?.lines() {
            wanted.extend(line.strip_prefix("insmod ").map(|path| path.trim().to_owned()));
        }
    }
    for path in wanted {
        let inside = Path::new(&path).strip_prefix(root).map_err(step("find a module"))?.to_owned();
        put(tree, Path::new(&path), &format!("/{}", inside.display()))?;
    }
    command("depmod", Command::new("depmod").arg("-b").arg(tree).arg(release)).map(drop)
}
