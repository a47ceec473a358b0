#!/usr/bin/env bash
# Installs the public programs that are compared with, builds what is measured, and runs the comparison.
#   scripts/bench.sh GROUP OUT [arguments of sluice-bench]
set -euo pipefail
cd "$(dirname "$0")/.."

group=${1:-all}
out=${2:-out/bench}
shift $(( $# > 2 ? 2 : $# ))
target=${CARGO_TARGET_DIR:-target}/release

# nginx and HAProxy, from Debian; RUNLEVEL=1 keeps the packages from starting their services.
case $group in
  all | proxy | control)
    RUNLEVEL=1 scripts/setup.sh bench ||
      printf 'bench: a program is missing (see above): it will have no rows\n' >&2 ;;
esac

cargo build --release --locked -p sluice-bench --bins
case $group in
  all | proxy | control) cargo build --release --locked -p sluice-proxy --bins ;;
esac
case $group in
  all | control) cargo build --release --locked -p sluice-agent --bins ;;
esac

exec "$target/sluice-bench" --group "$group" --out "$out" "$@"
