#!/usr/bin/env bash
# Makes a real Flower SuperNode container archive (`docker save` layout) from Debian and PyPI packages.
# No Docker daemon, no registry: a minimal Debian, a Python environment on it, and a layer that deletes pip again.
#   usage: archive.sh OUT.tar [PACKAGE...]      (root, mmdebstrap; a finished OUT.tar is kept as it is)
set -euo pipefail
out=$(realpath -m "${1:?usage: archive.sh OUT.tar [PACKAGE...]}")
[ ! -s "$out" ] || exit 0
packages=("${@:2}")
[ $# -gt 1 ] || packages=(flwr==1.29.0 numpy scipy pandas scikit-learn pyarrow matplotlib 'jax[cpu]')

mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root image=$work/image epoch=1751328000
mkdir -p "$image"
say() { echo "archive: $*" >&2; }
pack() { # LAYER TAR-ARGUMENTS...
  tar --sort=name --mtime="@$epoch" --numeric-owner --xattrs --format=posix \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf "$image/$1.tar" -C "$root" "${@:2}"
}
digest() { sha256sum "$1" | cut -d' ' -f1; }

# The machine's own mirror and suite, whatever format its sources are in.
debian() { apt-get indextargets --format "\$(REPO_URI) \$(CODENAME)" 'Created-By: Packages' 'Label: Debian' | grep -m1 -v -- -updates; }
{ debian || { apt-get -qq update && debian; }; } >"$work/mirror"
read -r mirror suite <"$work/mirror"
say "Debian $suite with Python"
SOURCE_DATE_EPOCH=$epoch mmdebstrap --quiet --mode=root --variant=minbase --include=python3-venv,ca-certificates \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$root" "$mirror" >&2
rm -rf "$root"/etc/apt/sources.list* "$root"/etc/resolv.conf "$root"/var/log/*
chroot "$root" useradd --system --create-home --home-dir /home/supernode supernode
# Bytecode bound to no time stamp: layers give all files one time, so bytecode bound to its source's time is stale, and each start
# on the read-only root would compile every module again (on an emulated CPU, for minutes).
compile() { chroot "$root" sh -c "python3 -m compileall -q -f --invalidation-mode unchecked-hash $1" >&2; }
compile '/usr/lib/python3.*'
pack base --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' .

say "PyPI: ${packages[*]}"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
ca=/etc/ssl/certs/ca-certificates.crt # the host's, for pip only: the base layer is packed already
cp -L "${PIP_CERT:-$ca}" "$root$ca"
if [ -f /etc/pip.conf ]; then cp /etc/pip.conf "$root/run/pip.conf"; fi
chroot "$root" python3 -m venv /opt/flower
chroot "$root" env -u PIP_FIND_LINKS PIP_CONFIG_FILE=/run/pip.conf PIP_CERT="$ca" REQUESTS_CA_BUNDLE="$ca" \
  /opt/flower/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action=ignore "${packages[@]}" >&2
compile /opt/flower
pack flower opt/flower

pip=$(cd "$root" && echo opt/flower/lib/python3*/site-packages/pip)
install -D /dev/null "$work/root/without-pip/${pip%/pip}/.wh.pip"
root=$root/without-pip pack without-pip opt

say "writing $out"
layers=(base flower without-pip)
diffs=$(for layer in "${layers[@]}"; do printf '"sha256:%s",' "$(digest "$image/$layer.tar")"; done)
cat >"$image/config.json" <<JSON
{"architecture":"amd64","os":"linux","created":"2025-07-01T00:00:00Z",
 "config":{"User":"supernode","WorkingDir":"/home/supernode","Entrypoint":["/opt/flower/bin/flower-supernode"],"Cmd":["--help"],
  "Env":["PATH=/opt/flower/bin:/usr/local/bin:/usr/bin:/bin","HOME=/home/supernode","PYTHONDONTWRITEBYTECODE=1","FLWR_TELEMETRY_ENABLED=0"]},
 "rootfs":{"type":"layers","diff_ids":[${diffs%,}]}}
JSON
config=$(digest "$image/config.json").json
mv "$image/config.json" "$image/$config"
printf '[{"Config":"%s","RepoTags":["coffer-quickstart/supernode:1"],"Layers":["base.tar","flower.tar","without-pip.tar"]}]\n' "$config" >"$image/manifest.json"
tar --sort=name --mtime="@$epoch" --numeric-owner --owner=0 --group=0 -cf "$work/done" -C "$image" .
say "$(du -sh --apparent-size --exclude=without-pip "$work/root" | cut -f1) unpacked"
mv "$work/done" "$out"
