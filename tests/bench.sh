#!/usr/bin/env bash
# Times `coffer build` against the shell pipeline it replaces, one after the other on the same archive, and prints the ratio; then
# puts load on `coffer-attest serve` and prints handshakes per second per core; then times `coffer-gate` against nginx.
#   usage: bench.sh [ARCHIVE.tar]     (built programs; 12 GB free; never fails on time)
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
archive=$(realpath -m "${1:-$repo/cache/supernode.tar}")
"$repo/examples/quickstart/archive.sh" "$archive"
export PATH="${CARGO_TARGET_DIR:-$repo/target}/release:$PATH"
work=$(mktemp -d "$repo/target/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
total=0
timed() { # NAME COMMAND...
  local began ended
  began=$(date +%s%N)
  "${@:2}" >log 2>&1 || { cat log >&2; exit 1; }
  ended=$(date +%s%N)
  ms=$(((ended - began) / 1000000)) total=$((total + (ended - began) / 1000000))
  printf '  %-44s %7d.%01d s\n' "$1" $((ms / 1000)) $((ms % 1000 / 100))
}

echo "shell pipeline"
untar() { mkdir -p image tree && tar -xf "$archive" -C image && for layer in base flower without-pip; do tar -xpf "image/$layer.tar" -C tree; done; }
encrypt() { head -c 32 /dev/urandom >key && truncate -s +32M disk && cryptsetup reencrypt --encrypt --type luks2 --reduce-device-size 32M --batch-mode --key-file key disk; }
timed "untar the layers" untar
timed "mkfs.ext4 -d" mkfs.ext4 -q -d tree disk 3G
timed "cryptsetup reencrypt --encrypt, offline" encrypt
timed "qemu-img convert to qcow2" qemu-img convert -O qcow2 disk disk.qcow2
timed "tar and gzip the bundle" tar -czf bundle.tgz disk.qcow2
shell=$total
rm -rf image tree disk disk.qcow2 bundle.tgz

cp "$repo"/examples/quickstart/*.yml .
ln -s "$archive" supernode.tar
mkdir kit && echo bench >kit/welcome.txt
coffer-simulator init simulator >log
coffer-attest init --dir service --root-of-trust simulated:simulator/ark.pem --tls-name attest.demo.test >log
coffer base build --simulated --unlocked --init "$repo/target/guest-bin/coffer-init-simulated" --cache "$repo/cache/base" -o base >log
total=0
echo "Coffer"
timed "coffer build (bundle and tgz)" coffer build --base base -o out cc_site-1.yml
awk -v ours="$total" -v shell="$shell" 'BEGIN { printf "ratio %.3f (wanted: at most 0.1)\n", ours / shell }'

echo
cd "$repo"
cargo bench --quiet --locked -p coffer-attest --bench load
echo
cargo bench --quiet --locked -p coffer-gate --bench gate
