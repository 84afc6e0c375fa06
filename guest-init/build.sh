#!/usr/bin/env bash
# Builds the two PID 1 binaries, alone and static, and copies them to target/guest-bin/.
#
# Alone, because a workspace build would unify features into them. The same sources give the same bytes whatever the
# checkout's path, CARGO_HOME, umask and clock: paths are remapped, and no debug information or time is written.
set -euo pipefail
umask 022
root=$(cd "$(dirname "$0")/.." && pwd)
target=x86_64-unknown-linux-gnu
cargo_home=${CARGO_HOME:-$HOME/.cargo}
out=${1:-$root/target/guest-bin}

sysroot=$(rustc --print sysroot)
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=pie \
--remap-path-prefix=$root=/coffer --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$sysroot=/rust"
# ring's C and assembly: no build path in them either.
export CFLAGS_x86_64_unknown_linux_gnu="-ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$root=/coffer"
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_INCREMENTAL
export SOURCE_DATE_EPOCH=0 TZ=UTC LC_ALL=C

cd "$root"
cargo build --locked --profile guest --target "$target" -p coffer-init --bins

mkdir -p "$out"
for name in coffer-init coffer-init-simulated; do
  install -m 0755 "${CARGO_TARGET_DIR:-$root/target}/$target/guest/$name" "$out/.$name.new"
  mv "$out/.$name.new" "$out/$name"
  printf '%s %s bytes\n' "$out/$name" "$(stat -c %s "$out/$name")"
done
