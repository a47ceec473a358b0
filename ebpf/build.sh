#!/bin/sh
# Builds the kernel programs and puts them, with their hashes, where the loader and the bench include them from.
#   build.sh          rebuild and install
#   build.sh --check  rebuild and compare with what the tree holds; exit 1 when they differ
# Needs rust-src of the toolchain and bpf-linker; says `skipped: reason` and exits 0 from --check without them.
set -eu
cd "$(dirname "$0")"
LINKER_VERSION=0.10.4
check=false
[ "${1:-}" = --check ] && check=true

missing() {
    if $check; then echo "skipped: $1"; exit 0; fi
    echo "cannot build: $1" >&2; exit 1
}
command -v bpf-linker >/dev/null 2>&1 || missing "bpf-linker is not installed (cargo install bpf-linker --version $LINKER_VERSION --locked)"
case "$(bpf-linker --version)" in *"$LINKER_VERSION"*) ;; *) missing "bpf-linker is not $LINKER_VERSION, objects would differ" ;; esac
sysroot=$(rustc --print sysroot)
[ -f "$sysroot/lib/rustlib/src/rust/library/core/Cargo.toml" ] || missing "rust-src is not installed (rustup component add rust-src)"
case "$(rustc --version)" in "rustc 1.95."*) ;; *) missing "$(rustc --version) is not 1.95, objects would differ" ;; esac

case "${CARGO_TARGET_DIR:-}" in
    "") target=$(pwd)/xdp/target ;;
    /*) target=$CARGO_TARGET_DIR/bpf ;;
    *) target=$(pwd)/$CARGO_TARGET_DIR/bpf ;;
esac
# Symbol names carry a hash of the path of every crate outside the workspace, which no flag remaps. So the tree is
# built where it always is: bind-mounted on one path in a mount namespace that ends with the build.
top=$(cd .. && pwd)
place=/tmp/sluice-ebpf-tree
own=-m
[ "$(id -u)" = 0 ] || own=-rm
mkdir -p "$place"
unshare $own true 2>/dev/null || missing "no mount namespace can be made here (unshare $own)"

# misaligned: packet headers are read at any offset, as every JIT allows. Paths are remapped so that the objects
# do not depend on where the tree, the registry or the toolchain lies.
flags="-Ctarget-cpu=v3 -Ctarget-feature=+allows-misaligned-mem-access -Cdebuginfo=2 -Clink-arg=--btf"
flags="$flags --remap-path-prefix=$place/ebpf=/sluice --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
flags="$flags --remap-path-prefix=$sysroot=/rust"
flags=$(printf '%s' "$flags" | tr ' ' '\037')
unshare $own sh -euc '
    mount --bind "$1" "$2"
    cd "$2/ebpf/xdp"
    RUSTC_BOOTSTRAP=1 CARGO_ENCODED_RUSTFLAGS="$3" \
        cargo build --quiet --release --locked --target bpfel-unknown-none -Z build-std=core --target-dir "$4"
' build "$top" "$place" "$flags" "$target"
# The directory stays: removing it would take the mount away under a build that runs beside this one.

differ=0
for program in l4 node bench; do
    built=$target/bpfel-unknown-none/release/$program
    object=loader/obj/$program.bpf.o
    if $check; then
        if cmp -s "$built" "$object"; then echo "same: $object"; else echo "differs: $object" >&2; differ=1; fi
    else
        mkdir -p loader/obj
        cp "$built" "$object"
        chmod 644 "$object"
    fi
done
if $check; then
    (cd loader/obj && sha256sum --check --quiet SHA256SUMS) || differ=1
    exit $differ
fi
(cd loader/obj && sha256sum l4.bpf.o node.bpf.o bench.bpf.o >SHA256SUMS && cat SHA256SUMS)
