#!/usr/bin/env bash
# From a bare Debian 12 or 13 to a federated Flower job whose sites take part only while they prove themselves, without SEV-SNP.
#   usage: run.sh [FLOWER-VERSION]      work goes to examples/flower/work, or $COFFER_FLOWER_DIR; downloads to cache/
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) repo=$(cd "$here/../.." && pwd) version=${1:-1.29.0}
work=$(realpath -m "${COFFER_FLOWER_DIR:-$here/work}") cache=$repo/cache
bin=${CARGO_TARGET_DIR:-$repo/target}/release guest=$repo/target/guest-bin
pids=()
finish() {
  trap '' INT TERM
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait
}
trap finish EXIT
trap 'exit 130' INT TERM
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() { echo "flower: $1; hint: $2" >&2; exit 1; }
from() { [ "$(printf '%s\n' "$1" "$version" | sort -V | head -1)" = "$1" ]; }
background() { "${@:2}" >"$1" 2>&1 & pids+=($!); } # LOG COMMAND...
await() { # FILE TEXT SECONDS [LINE]: waits until the file has the text, in this line or after it.
  local deadline=$((SECONDS + $3))
  until tail -n "+${4:-1}" "$1" 2>/dev/null | grep -qF -- "$2"; do
    ((SECONDS < deadline)) || { tail -n 15 "$1" >&2; fail "no \`$2\` in $1 within $3 s" "two idle cores need a fifth of it"; }
    sleep 0.2
  done
}
end_of() { echo "$(($(wc -l <"$1") + 1))"; }
[[ $version =~ ^1\.[0-9]+\.[0-9]+$ ]] || fail "\`$version\` is no version of Flower" "write it like 1.29.0"
if from 1.40; then fleet=8000 control=8000 mode=terminate; else fleet=9092 control=9093 mode=passthrough; fi
for port in 8999 9443 9193 "$fleet" "$control"; do
  ! (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || fail "something listens on 127.0.0.1:$port" "stop it; \`ss -ltnp\` says what it is (an earlier run's?)"
done

step "1/8 what is missing on this machine"
"$repo/tests/setup.sh"

step "2/8 the programs, and PID 1 (the first time some ten minutes on two cores, most of them without a word)"
(cd "$repo" && cargo build --quiet --release --locked -p coffer -p coffer-attest -p coffer-gate -p coffer-simulator && guest-init/build.sh)
export PATH="$bin:$PATH"

step "3/8 Flower $version: the SuperLink's programs, the SuperNode's container archive"
flower=$("$repo/tests/flower.sh" "$version" --archive)

step "4/8 a base: firmware, kernel, initrd (simulated: this machine need not have SEV-SNP); all paths are in $work"
[ -z "$(ls -A "$work" 2>/dev/null)" ] || [ -e "$work/.flower" ] || fail "$work exists and holds something else" "name another folder in COFFER_FLOWER_DIR"
rm -rf "$work" && mkdir -p "$work/superlink" && touch "$work/.flower" && cd "$work"
coffer-simulator init simulator
coffer base build --simulated --unlocked --init "$guest/coffer-init-simulated" --cache "$cache/base" -o base >launch-digests

step "5/8 the key service, the SuperLink, and the gate in front of it"
coffer-attest init --dir service --root-of-trust "simulated:simulator/ark.pem" --tls-name attest.demo.test
background service.log coffer-attest serve --dir service --listen 127.0.0.1:8999
await service.log listening 20

"$here/certs.sh" superlink superlink.demo.test
key() { ssh-keygen -q -t ecdsa -b 384 -N '' -C '' -f "$1"; }
for n in 1 2; do
  mkdir "kit-$n" && cp superlink/ca.crt "$here/kit/run_supernode.sh" "kit-$n"
  # Up to Flower 1.22 keys are made beforehand, and a SuperNode that was cut needs another one.
  from 1.23 || for spare in 1 2 3; do key "kit-$n/node_key_$spare"; done
done
key outside_key
from 1.23 || paste -sd, kit-?/*.pub outside_key.pub >superlink/node-keys.csv
background superlink.log "$here/superlink.sh" "$flower" "$version" superlink "$fleet"
for port in "$fleet" "$control"; do timeout 60 bash -c "until (: >/dev/tcp/127.0.0.1/$port) 2>/dev/null; do sleep 0.2; done" || { cat superlink.log >&2; exit 1; }; done

coffer-attest gate-settings --project demo --dir service >service.toml
coffer-gate init --dir gate --name gate.demo.test --service service.toml --listen 127.0.0.1:9443 --check-frequency 60
ln -s "$flower" flower
awk '/^\[/ { drop = /^\[(flower|runs)\]/ } !drop' gate/coffer-gate.toml >settings
sed "s/\"passthrough\"/\"$mode\"/; s/localhost:9092/localhost:$fleet/; s/localhost:9093/localhost:$control/" "$here/flower.toml" >>settings
cp settings gate/coffer-gate.toml && rm settings
background gate.log coffer-gate serve --dir gate
await gate.log listening 30

cp -r "$here/app" app
mkdir home && export FLWR_HOME=$work/home FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
table=superlink settings=home/config.toml
from 1.26 || { table=tool.flwr.federations settings=app/pyproject.toml; }
printf '\n[%s]\ndefault = "gate"\n' "$table" >>"$settings"
server() { printf '[%s.%s]\naddress = "localhost:%s"\nroot-certificates = "%s"\n' "$table" "$1" "$2" "$work/superlink/ca.crt" >>"$settings"; }
server gate 9193
server superlink "$control"
step "a run before any site has a lease: the gate's Control front refuses it"
"$flower/flwr" run app gate && fail "a run started without sites" "report this"

step "6/8 two sites' bundles, and their enrollments"
cp "$here/project.yml" "$here"/cc_site-?.yml .
sed -i "s/1\.29\.0/$version/" cc_site-?.yml
ln "$cache/flower-$version.tar" supernode.tar 2>/dev/null || ln -s "$cache/flower-$version.tar" supernode.tar
coffer build --base base -o out cc_site-?.yml
for n in 1 2; do
  coffer-attest site enroll "out/enroll/site-$n.json" --accept-aml-risk --dir service
done

step "7/8 two VMs, and a federated run through the gate"
for n in 1 2; do
  background "site-$n.log" "$(echo "$work/out/site-$n"/cvm_*)/launch_vm.sh" --simulate --simulator-state simulator --memory 1024
done
for n in 1 2; do await "site-$n.log" "lease until=" 180; done
background run.log "$flower/flwr" run app gate --stream -c "rounds=40 seconds=4 patience=60"
tail -n +1 -F run.log 2>/dev/null & pids+=($!)
await run.log "sites [1, 2] of 2 asked" 400 # a busy machine may need a round or two before
coffer-gate status --dir gate

step "8/8 a node nobody attested, though the SuperLink knows its key, finds no way in"
from 1.23 && "$flower/flwr" supernode register outside_key.pub superlink
node=(--root-certificates superlink/ca.crt --superlink localhost:9443 --auth-supernode-private-key outside_key)
from 1.23 || node+=(--auth-supernode-public-key outside_key.pub)
PATH=$flower:$PATH timeout 20 "$flower/flower-supernode" "${node[@]}" >outside.log 2>&1 || true
grep -m 2 -iE 'handshake|failed' outside.log || tail -n 3 outside.log
echo "that is what its Flower makes of a gate that speaks to attested keys only"

step "site-1 is suspended, mid-round: cut at once, its container stops, the run goes on"
await run.log "asked 2 nodes" 200 "$(end_of run.log)"
begun=$(end_of run.log)
coffer-attest site suspend demo/site-1 --reason "a drill" --dir service
await site-1.log "workload stopped by=refusal" 60
coffer-gate status --dir gate
await run.log "sites [2] of" 300 "$begun"

step "site-1 is resumed: it asks once a minute, and takes part again"
coffer-attest site resume demo/site-1 --reason "the drill is over" --dir service
await site-1.log "workload started again" 120
await run.log "sites [1, 2] of 2" 400 "$(end_of run.log)"
coffer-gate status --dir gate
! grep -qE "asked ([3-9]|[1-9][0-9]+) nodes" run.log || fail "a node nobody attested was asked, see $work/run.log" "that is a fault of the gate's: keep the logs"

step "where everything lies"
cat <<END
in $work:
  out/site-1/cvm_*      the bundle a site gets, run/boot.log in it its console
  service, gate, superlink      the three servers' folders; *.log beside them
  run.log, site-1.log           what you have just seen
everything is stopped now
END
