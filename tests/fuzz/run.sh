#!/usr/bin/env bash
# Runs each fuzz target for a while; stops at the first that falls.
#   usage: run.sh [SECONDS]     (cargo; what a target found lies in target/fuzz)
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60} tools=$PWD/../../cache/tools work=$PWD/../../target/fuzz
export PATH="$tools/bin:$PATH" CARGO_TARGET_DIR=$work/build
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --quiet --locked --debug --config profile.dev.debug=false --root "$tools"
# The instrumentation's flags are unstable; the sanitizer, which only nightly ships, is not needed for safe code.
export RUSTC_BOOTSTRAP=1
cargo fuzz build --fuzz-dir . --sanitizer none
for target in fuzz_targets/*.rs; do
  name=$(basename "$target" .rs)
  mkdir -p "$work/corpus/$name"
  cargo fuzz run --fuzz-dir . --sanitizer none "$name" "$work/corpus/$name" -- \
    -max_total_time="$seconds" -max_len=16384 -verbosity=0 -print_final_stats=1 -artifact_prefix="$work/$name-" 2>&1 | grep -E 'ERROR|panicked|stat::number_of_executed_units|Test unit' | sed "s/^/$name: /" || true
  [ "${PIPESTATUS[0]}" = 0 ]
done
