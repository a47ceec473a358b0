#!/usr/bin/env bash
# Installs the Debian packages that are missing for a purpose: run, test (run + test), bench (run + bench).
# Installs nothing when all are there, so that it needs neither root nor a network then.
set -euo pipefail
cd "$(dirname "$0")"

purpose=${1:-run}
case "$purpose" in
  run | test | bench) ;;
  *) echo "setup: purpose must be run, test or bench, not '$purpose'" >&2; exit 2 ;;
esac

command -v cargo >/dev/null || {
  echo "setup: cargo not found: install a Rust toolchain (1.95 or later) first" >&2
  exit 1
}

missing=()
while read -r use package command; do
  case "$use" in '' | '#'*) continue ;; esac
  [ "$use" = run ] || [ "$use" = "$purpose" ] || continue
  PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || missing+=("$package")
done <packages
[ ${#missing[@]} -gt 0 ] || exit 0

echo "setup: installing ${missing[*]}"
[ "$(id -u)" = 0 ] || { echo "setup: not root: run 'apt-get install ${missing[*]}' yourself" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; }
install || { apt-get update >"$log" 2>&1 && install; } || { cat "$log" >&2; exit 1; }
