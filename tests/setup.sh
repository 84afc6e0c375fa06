#!/usr/bin/env bash
# Installs what a Debian 12 or 13 machine lacks to build, boot and test Coffer. Says nothing and costs nothing when done.
#   usage: setup.sh [--tests|--long]     (root; the options add what only the test suite, and its long part, need)
set -euo pipefail
say() { echo "setup: $*" >&2; }
command -v cargo >/dev/null || { say "no cargo in PATH"; say "hint: install Rust 1.88 or newer with rustup, then run this again"; exit 1; }
have() { dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }
install() { DEBIAN_FRONTEND=noninteractive apt-get "${apt[@]}" -qq -y --no-install-recommends --no-remove install "$@" >"$log" 2>&1 || { tail -5 "$log" >&2; say "hint: the whole output is in $log"; exit 1; }; }

# Of our own making: in a folder that anybody could have prepared, anybody could name the sources root installs from.
work=$(mktemp -d) && log=$work/log apt=(-o "Dpkg::Use-Pty=0") updated=
trap '[ $? != 0 ] && [ -s "$log" ] || rm -rf "$work"' EXIT
update() { [ -n "$updated" ] || { apt-get -qq update >"$log" 2>&1 || tail -3 "$log" >&2; updated=yes; }; }
tools=(gcc libc6-dev mmdebstrap ca-certificates openssl openssh-client python3-venv squashfs-tools-ng e2fsprogs cpio xz-utils zstd dpkg-dev)
if [ -n "${1:-}" ]; then tools+=(cryptsetup-bin squashfs-tools shellcheck busybox-static skopeo libfaketime); fi
if [ "${1:-}" = --long ]; then tools+=(g++); fi
missing=()
for tool in "${tools[@]}"; do have "$tool" || missing+=("$tool"); done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { say "missing: ${missing[*]}"; say "hint: run as root, or install them yourself"; exit 1; }
  say "installing ${missing[*]}"
  update
  install "${missing[@]}"
fi

# QEMU: 8.2 is the first that boots this firmware here; Debian 12 has it in backports, newer suites in main.
version() { qemu-system-x86_64 --version 2>/dev/null | sed -n '1s/.*version \([0-9.]*\).*/\1/p'; }
if ! command -v qemu-img >/dev/null || ! dpkg --compare-versions "$(version || true)" ge 8.2; then
  [ "$(id -u)" = 0 ] || { say "QEMU 8.2 or newer and qemu-img are missing"; say "hint: run as root, or install them yourself"; exit 1; }
  update
  suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  if [ "$suite" = bookworm ]; then
    # A private source list: the machine's own stays as it is. The mirror is the machine's own, too.
    private=$work/backports
    mkdir -p "$private/lists/partial"
    own() { apt-get indextargets --format "$1" 'Created-By: Packages' "Origin: Debian"; }
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    own "deb [signed-by=$key] \$(REPO_URI) \$(RELEASE) main" | sort -u >"$private/sources.list"
    echo "deb [signed-by=$key] $(own "\$(REPO_URI)" | grep -m1 'debian/*$') $suite-backports main" >>"$private/sources.list"
    apt+=(-o "Dir::Etc::SourceList=$private/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$private/lists")
    apt-get "${apt[@]}" -qq update >"$log" 2>&1 || tail -3 "$log" >&2
    apt+=(-t "$suite-backports")
  fi
  say "installing QEMU"
  install qemu-system-x86 qemu-utils
fi
if [ "${1:-}" = --long ]; then "$(dirname "$0")/nginx.sh"; fi
