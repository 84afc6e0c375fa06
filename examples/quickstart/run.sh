#!/usr/bin/env bash
# From a bare Debian 12 or 13 to a Flower SuperNode in an attested VM with an encrypted root, on a machine without SEV-SNP.
#   usage: run.sh      work goes to examples/quickstart/work, or $COFFER_QUICKSTART_DIR; downloads to cache/
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) repo=$(cd "$here/../.." && pwd)
work=$(realpath -m "${COFFER_QUICKSTART_DIR:-$here/work}") cache=$repo/cache
bin=${CARGO_TARGET_DIR:-$repo/target}/release guest=$repo/target/guest-bin
service=
trap '[ -z "$service" ] || kill "$service" 2>/dev/null || true' EXIT
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }

if (: >/dev/tcp/127.0.0.1/8999) 2>/dev/null; then
  echo "quickstart: something listens on 127.0.0.1:8999, where the key service goes; hint: stop it (an earlier run's \`coffer-attest serve\`?)" >&2
  exit 1
fi

step "1/7 what is missing on this machine"
"$repo/tests/setup.sh"

step "2/7 the programs, and PID 1"
(cd "$repo" && cargo build --quiet --release --locked -p coffer -p coffer-attest -p coffer-simulator && guest-init/build.sh)
export PATH="$bin:$PATH"

step "3/7 a Flower SuperNode's container archive"
"$here/archive.sh" "$cache/supernode.tar"

step "4/7 a base: firmware, kernel, initrd (simulated: this machine need not have SEV-SNP)"
if [ -n "$(ls -A "$work" 2>/dev/null)" ] && [ ! -e "$work/.quickstart" ]; then
  echo "quickstart: $work exists and holds something else; hint: name another folder in COFFER_QUICKSTART_DIR" >&2
  exit 1
fi
rm -rf "$work" && mkdir -p "$work/kit" && touch "$work/.quickstart"
coffer-simulator init "$work/simulator"
coffer base build --simulated --unlocked --init "$guest/coffer-init-simulated" --cache "$cache/base" -o "$work/base" >"$work/launch-digests"

step "5/7 the key service on loopback"
coffer-attest init --dir "$work/service" --root-of-trust "simulated:$work/simulator/ark.pem" --tls-name attest.demo.test
coffer-attest serve --dir "$work/service" --listen 127.0.0.1:8999 >"$work/service.log" 2>&1 &
service=$!
ca=$work/service/tls/ca.pem
timeout 20 bash -c "until grep -q listening '$work/service.log'; do kill -0 $service 2>/dev/null || exit 1; sleep 0.1; done" || { cat "$work/service.log" >&2; exit 1; }

step "6/7 the site's bundle: encrypted root, kit, launch script; and its enrollment"
cp "$here/cc_site-1.yml" "$here/project.yml" "$work"
ln "$cache/supernode.tar" "$work/supernode.tar" 2>/dev/null || ln -s "$cache/supernode.tar" "$work/supernode.tar"
echo "this file came sealed, and was opened after attestation" >"$work/kit/welcome.txt"
coffer build --base "$work/base" -o "$work/out" "$work/cc_site-1.yml"
coffer-attest site enroll "$work/out/enroll/site-1.json" --accept-aml-risk --dir "$work/service"

step "7/7 the VM"
bundle=$(echo "$work"/out/site-1/cvm_*)
"$bundle/launch_vm.sh" --simulate --simulator-state "$work/simulator" --timeout 600
step "what the container said, from inside its encrypted root"
coffer logs --workload "$bundle"

step "where everything lies, and what to type next"
cat <<END
bundle      $bundle  (what a site gets: $work/out/site-1/site-1.tgz)
enrollment  $work/out/enroll/site-1.json  (holds the keys: keep it)
service     $work/service, log $work/service.log, CA $ca
  export PATH=$bin:\$PATH
  coffer inspect $bundle
  coffer logs $bundle
  coffer-attest serve --dir $work/service --listen 127.0.0.1:8999 &      # stopped now; then start the site again:
  $bundle/launch_vm.sh --simulate --simulator-state $work/simulator
END
