#!/usr/bin/env bash
# The one check, and what CI runs: format, lints, builds, licences, every test.
#   usage: run.sh [--long]     (root on Debian 12 or 13; --long adds the examples, fuzzing, memory limits and the benchmark)
set -euo pipefail
cd "$(dirname "$0")/.."
setup=--tests nextest=(-E 'not test(/(^|::)long_/)') test=(--skip long_) long=
if [ "${1:-}" = --long ]; then setup=--long nextest=() test=() long=yes; fi
step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }
tools=$PWD/cache/tools log=$PWD/target/tests.log
export COFFER_CACHE=$PWD/cache PATH="$tools/bin:$PATH"

step "setup"
tests/setup.sh "$setup"
cargo deny --version >/dev/null 2>&1 || # unoptimised: a minute to build, seconds to run
  cargo install cargo-deny --quiet --locked --debug --config profile.dev.debug=false --root "$tools"

step "format, shell scripts"
cargo fmt --all --check
mapfile -t scripts < <(git ls-files '*.sh' .ci/run ':!builder/src/launch_vm.sh') # a template: a test checks what it becomes
shellcheck "${scripts[@]}"

step "licences, bans, sources"
cargo deny --log-level error check bans licenses sources

step "build"
mkdir -p target
# What the federation is made of comes from the network meanwhile. The test that needs it waits for it, and says why it is not there.
tests/flower.sh 1.29.0 --archive >target/flower.log 2>&1 &
guest-init/build.sh >target/guest.log 2>&1 & guest=$!
cargo build --quiet --release --locked --workspace --bins
wait "$guest" || { cat target/guest.log; exit 1; }
tail -n 2 target/guest.log

step "lints"
cargo clippy --quiet --release --locked --workspace --all-targets -- -D warnings

step "tests"
status=0
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --release --locked --workspace --no-fail-fast "${nextest[@]}" 2>&1 | tee "$log" || status=$?
else
  RUST_TEST_THREADS=1 cargo test --release --locked --workspace --no-fail-fast -- "${test[@]}" 2>&1 | tee "$log" || status=$?
fi
if [ -n "$long" ]; then
  for example in quickstart flower; do
    step "examples/$example"
    work=$PWD/target/example-$example
    # Where it fails its folder stays: the logs are there.
    if env "COFFER_${example^^}_DIR=$work" "examples/$example/run.sh"; then rm -rf "$work"; else status=$?; fi
  done
  step "fuzzing"
  tests/fuzz/run.sh 60 || status=$?
  step "benchmark"
  tests/bench.sh || status=$?
fi

count() { grep -E '^ +Summary|^test result' "$log" | grep -oE "[0-9]+ $1" | awk '{ n += $1 } END { print n + 0 }'; }
step "done"
echo "$(count passed) passed, $(count failed) failed"
exit "$status"
