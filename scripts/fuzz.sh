#!/usr/bin/env bash
# Runs the fuzz targets: scripts/fuzz.sh SECONDS_PER_TARGET [TARGET...]
#        or the XDP program against its model, over random placements, packets and changes (root):
#                        scripts/fuzz.sh differential [FRAMES] [SEED], a million frames when not said
#
# Builds once with stable Rust (LLVM's SanitizerCoverage by flags; libFuzzer itself is compiled from
# libfuzzer-sys, which needs a C++ compiler), then runs each target for SECONDS_PER_TARGET over its kept corpus.
# Inputs found on the way go to fuzz/target/corpus/TARGET, not into the tree. Exit status 1 at the first input
# that breaks a property; its path is printed and stays under fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

if [[ ${1:-} == differential ]]; then
    cd ..
    export SLUICE_DIFFERENTIAL_FRAMES=${2:-1000000} SLUICE_SEED=${3:-$RANDOM}
    exec cargo test -p sluice-loader --locked --test differential -- --nocapture
fi

seconds=${1:?usage: scripts/fuzz.sh SECONDS_PER_TARGET [TARGET...] | differential [FRAMES] [SEED]}
shift
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "not a number of seconds: $seconds" >&2; exit 2; }
mapfile -t all < <(cd targets && printf '%s\n' *.rs | sed 's/\.rs$//')
targets=("${@:-${all[@]}}")

command -v c++ >/dev/null || { echo "fuzz: a C++ compiler is needed (apt-get install g++)" >&2; exit 2; }
# An explicit target triple keeps the flags away from build scripts and proc macros.
triple=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
bins=()
for target in "${targets[@]}"; do
    [[ -f targets/$target.rs ]] || { echo "no such target: $target (there are: ${all[*]})" >&2; exit 2; }
    bins+=(--bin "$target")
done
cargo build --quiet --locked --release --target "$triple" --target-dir "$target_dir" "${bins[@]}"

failed=0
for target in "${targets[@]}"; do
    found=$target_dir/corpus/$target
    artifacts=artifacts/$target
    mkdir -p "$found" "$artifacts"
    log=$target_dir/$target.log
    echo "fuzz: $target for $seconds s"
    if "$target_dir/$triple/release/$target" "$found" "corpus/$target" -max_total_time="$seconds" -max_len=4096 \
        -timeout=10 -rss_limit_mb=1024 -artifact_prefix="$artifacts/" -print_final_stats=1 >"$log" 2>&1; then
        sed -n 's/^stat::number_of_executed_units: */fuzz:   executions /p; s/^stat::new_units_added: */fuzz:   inputs added /p' "$log"
        rmdir --ignore-fail-on-non-empty "$artifacts" artifacts 2>/dev/null || true
    else
        failed=1
        grep -A 4 'panicked at\|ERROR: libFuzzer' "$log" | head -n 30 >&2
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "fuzz: $target FAILED; input: fuzz/${input:-unknown}; log: $log" >&2
        break
    fi
done
exit "$failed"
