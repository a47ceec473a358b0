#!/bin/sh
# Builds the test guest and puts it, with its hash, where the tests include it from.
#   build.sh          rebuild and install
#   build.sh --check  rebuild and compare with what the tree holds; exit 1 when they differ
# Needs the target x86_64-unknown-none of a 1.95 toolchain; says `skipped: reason` and exits 0 from --check without it.
set -eu
cd "$(dirname "$0")"
check=false
[ "${1:-}" = --check ] && check=true
missing() {
    if $check; then echo "skipped: $1"; exit 0; fi
    echo "cannot build: $1" >&2; exit 1
}
sysroot=$(rustc --print sysroot)
[ -d "$sysroot/lib/rustlib/x86_64-unknown-none" ] || missing "no target x86_64-unknown-none (rustup target add x86_64-unknown-none)"
case "$(rustc --version)" in "rustc 1.95."*) ;; *) missing "$(rustc --version) is not 1.95, the guest would differ" ;; esac

# A software host interprets kernel code and knows no SSE, popcnt or cmpxchg16b: the target has none of them.
flags="-Crelocation-model=static -Clink-arg=-T$(pwd)/link.ld -Clink-arg=--build-id=none"
flags="$flags --remap-path-prefix=$(pwd)=/guest --remap-path-prefix=$sysroot=/rust"
target=${CARGO_TARGET_DIR:-$(pwd)/target}/guest
RUSTFLAGS="$flags" cargo build --quiet --release --locked --target x86_64-unknown-none --target-dir "$target"
built=$target/x86_64-unknown-none/release/guest
if $check; then
    cmp -s "$built" obj/guest.elf || { echo "differs: vmm/guest/obj/guest.elf" >&2; exit 1; }
    (cd obj && sha256sum --check --quiet SHA256SUMS)
    echo "same: vmm/guest/obj/guest.elf"
else
    mkdir -p obj
    cp "$built" obj/guest.elf
    chmod 644 obj/guest.elf
    (cd obj && sha256sum guest.elf >SHA256SUMS && cat SHA256SUMS)
fi
