#!/bin/sh
# A Flower of one version, in a virtual environment of its own: prints the directory of its programs.
#   tests/flower.sh 1.29.0 [--archive]        (--archive, as root: its SuperNode's container archive too, cache/flower-1.29.0.tar)
# Made once in cache/flower/<version>, under a lock; a file `ready` says that it is whole, so an interrupted call leaves no half of it.
set -eu
version=${1:?usage: tests/flower.sh VERSION [--archive], e.g. 1.29.0}
case $version in
    *[!0-9.]* | .* | *..*) echo "flower.sh: version '$version' is not of the form 1.29.0" >&2; exit 2 ;;
esac
case ${2:-} in
    '' | --archive) ;;
    *) echo "flower.sh: expected --archive, got '$2'" >&2; exit 2 ;;
esac
repo=$(cd "$(dirname "$0")/.." && pwd) packages="flwr==$version numpy==2.2.6"
cache=$repo/cache/flower
home=$cache/$version
mkdir -p "$cache"
if [ ! -x "$home/ready" ]; then
    exec 9>"$cache/.lock"
    flock 9
    if [ ! -x "$home/ready" ]; then
        log=$cache/$version.log
        rm -rf "$home"
        # The programs in bin/ name their interpreter by its full path, so it is made where it stays; `ready` says that it is whole.
        # shellcheck disable=SC2086 # packages are words
        if ! { python3 -m venv "$home" &&
            "$home/bin/pip" install --quiet --disable-pip-version-check $packages &&
            "$home/bin/flwr" --version; } >"$log" 2>&1; then
            echo "flower.sh: Flower $version cannot be installed, see $log" >&2
            tail -n 5 "$log" >&2
            exit 1
        fi
        install -m 0755 /dev/null "$home/ready"
    fi
    exec 9>&-
fi
if [ -n "${2:-}" ]; then
    exec 9>"$cache/.archive.lock"
    flock 9
    # shellcheck disable=SC2086 # packages are words
    "$repo/examples/quickstart/archive.sh" "$repo/cache/flower-$version.tar" $packages 9>&-
fi
echo "$home/bin"
