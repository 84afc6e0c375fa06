#!/usr/bin/env bash
# Unpacks nginx, the peer in the gate's benchmark, into cache/tools/nginx. Installed, it would start a web server on this machine.
#   usage: nginx.sh
set -euo pipefail
peer=$(cd "$(dirname "$0")/.." && pwd)/cache/tools/nginx
[ ! -x "$peer/usr/sbin/nginx" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/nginx" "${peer%/*}"
cd "$work"
{ apt-get -qq update; apt-get -qq download nginx libnginx-mod-stream; } >log 2>&1 || { tail -5 log >&2; exit 1; }
for package in *.deb; do dpkg -x "$package" nginx; done
mv nginx "$peer"
