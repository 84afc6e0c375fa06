#!/usr/bin/env bash
# Fuzzes every parser of bytes we did not make, one target after the other; fails if one of them fell.
#   usage: run.sh [SECONDS [TARGET...]]     (default 60 s each; stable Rust and a C++ compiler)
# Inputs that were worth keeping lie in cache/fuzz and are where the next run starts; what a target fell over, in target/fuzz.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60} root=$(cd ../.. && pwd)
shift $(($# > 0))
targets=("$@")
[ $# -gt 0 ] || for target in src/bin/*.rs; do targets+=("$(basename "$target" .rs)"); done
work=$root/target/fuzz kept=${COFFER_CACHE:-$root/cache}/fuzz
stop() { printf 'fuzz: %s\n' "$@" >&2; exit 1; }
command -v c++ >/dev/null || stop "no C++ compiler, and libFuzzer is C++" "hint: apt install g++"

# Seeds: the targets' own, and the test vectors where there are any.
export COFFER_VECTORS=${COFFER_VECTORS:-$root/../shared/vectors}
if [ ! -d "$COFFER_VECTORS" ]; then
  [ "${COFFER_REQUIRE_VECTORS:-}" != 1 ] || stop "no test vectors at $COFFER_VECTORS and COFFER_REQUIRE_VECTORS=1"
  echo "skipped: seeds from test vectors: none at $COFFER_VECTORS; hint: set COFFER_VECTORS to their folder"
  unset COFFER_VECTORS
fi

# What cargo-fuzz would pass: libFuzzer learns from the edges an input takes and from the values it is compared with. The address
# sanitizer is left out: our code is safe Rust, whose faults are panics, and with it a target ran 3.5 to 9 times fewer inputs.
coverage=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
  -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Cdebug-assertions --cfg=fuzzing)
# RUSTFLAGS with a target are not for build scripts and macros.
host=$(rustc -vV | sed -n 's/^host: //p')
CARGO_TARGET_DIR=$work RUSTFLAGS=${coverage[*]} cargo build --quiet --release --locked --target "$host" --bins

# libFuzzer's lines say how far it is: `#123 NEW cov: 45 ft: 67 corp: 8/9b ...`; the first comes after all seeds.
figures() { sed -n 's/^#[0-9]*[[:space:]]*[A-Za-z]* *cov: \([0-9]*\).*corp: \([0-9]*\).*/\1 \2/p' "$log"; }
fell=()
for target in "${targets[@]}"; do
  seeds=$work/seeds/$target log=$work/$target.log found=$work/found/$target-
  rm -rf "$seeds"
  mkdir -p "$seeds" "$kept/$target" "$work/found"
  status=0
  COFFER_FUZZ_SEEDS=$seeds "$work/$host/release/$target" "$kept/$target" "$seeds" -artifact_prefix="$found" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1 || status=$?
  rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
  read -r before _ < <(figures | grep -m1 . || echo 0 0)
  read -r after inputs < <(figures | tail -1 | grep . || echo 0 0)
  printf '%-15s cov %5s -> %5s   %7s/s   %5s inputs kept\n' "$target" "$before" "$after" "${rate:-?}" "$inputs"
  if [ "$status" != 0 ]; then
    fell+=("$target")
    sed -n '/panicked at/,+2p; /^==.*ERROR/p; /^SUMMARY/p' "$log" | head -5
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    echo "$target fell (exit $status, $log)"
    [ -z "$input" ] || echo "again: $work/$host/release/$target $input"
  elif [ "$after" -lt 20 ]; then
    stop "$target runs without coverage, so nothing guides it; see $log"
  fi
done
[ ${#fell[@]} = 0 ] || stop "fell: ${fell[*]}"
