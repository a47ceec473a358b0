#!/usr/bin/env bash
# The whole test run, in the order in which a fault is cheapest to find. Prints a line per step with its
# time; a step that cannot run here says `skipped: reason`. STEPS="fmt clippy" runs only those.
set -euo pipefail
cd "$(dirname "$0")/.."

SEEDS=${SEEDS:-1000}
FUZZ_SECONDS=${FUZZ_SECONDS:-10}
STEPS=${STEPS:-setup fmt clippy deny object units sim system bed fuzz docs}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
DENY_VERSION=0.20.2
LINKER_VERSION=0.10.4

step_setup() { scripts/setup.sh test; }

step_fmt() {
  cargo fmt --all --check
  cargo fmt --manifest-path ebpf/xdp/Cargo.toml --all --check
  cargo fmt --manifest-path fuzz/Cargo.toml --all --check
  cargo fmt --manifest-path vmm/guest/Cargo.toml --all --check
}

step_clippy() { cargo clippy --workspace --all-targets --locked --quiet -- -D warnings; }

# Licences, sources and bans. The advisory database is a git repository that not every machine reaches.
step_deny() {
  if ! cargo deny --version 2>/dev/null | grep -qF "$DENY_VERSION"; then
    cargo install cargo-deny --version "$DENY_VERSION" --locked --quiet || {
      echo "skipped: cargo-deny $DENY_VERSION could not be installed"
      return 0
    }
  fi
  cargo deny --log-level error check licenses bans sources
  cargo deny --log-level error check advisories 2>/tmp/sluice-deny.$$ || {
    if grep -q 'failed to fetch advisory database' /tmp/sluice-deny.$$; then
      echo "skipped: the advisory database cannot be reached from here"
    else
      cat /tmp/sluice-deny.$$
      rm -f /tmp/sluice-deny.$$
      return 1
    fi
  }
  rm -f /tmp/sluice-deny.$$
}

# The kernel programs, built again and compared with what is shipped. What the build needs is fetched where it
# can be; build.sh says skipped where it cannot.
step_object() {
  bpf-linker --version 2>/dev/null | grep -qF "$LINKER_VERSION" ||
    cargo install bpf-linker --version "$LINKER_VERSION" --locked --quiet || true
  [ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] || rustup component add rust-src || true
  ebpf/build.sh --check 2>&1 | grep -v -e allows-misaligned-mem-access -e '^ *|$' -e '^ *= ' -e '^$'
  vmm/guest/build.sh --check
}

# The simulator's own units, and a few seeds of it; `sim` runs them all.
step_units() {
  cargo build --workspace --bins --locked --quiet
  SLUICE_SIM_SEEDS=10 cargo test --workspace --locked --quiet --exclude sluice-system-tests --exclude sluice-bed
}

# Runs what is in a package's tests folder. The whole workspace is named, so that libraries are built with the
# features they have in the other steps, and only once.
tests_of() { # FOLDER [arguments of the test programs]
  local file names=()
  for file in "$1"/tests/*.rs; do names+=(--test "$(basename "$file" .rs)"); done
  shift
  cargo test --workspace --locked --quiet "${names[@]}" -- "$@"
}

step_sim() { SLUICE_SIM_SEEDS=$SEEDS tests_of tests/sim; }

# One at a time: they share the machine's two cores and would only disturb each other.
step_system() { tests_of tests/system --test-threads=1; }

# Other kernels and other NICs, in an emulated server; skipped aloud where QEMU or the kernels cannot be had.
step_bed() { tests_of tests/bed --test-threads=1; }

step_fuzz() { scripts/fuzz.sh "$FUZZ_SECONDS"; }

step_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet; }

started=$SECONDS
for step in $STEPS; do
  at=$SECONDS
  echo "== $step"
  "step_$step" || { echo "== $step failed after $((SECONDS - at)) s" >&2; exit 1; }
  echo "== $step passed in $((SECONDS - at)) s"
done
echo "== all passed in $((SECONDS - started)) s"
