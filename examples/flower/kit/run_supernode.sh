#!/bin/sh
# Runs the SuperNode in the confidential VM, and again when it ends by itself.
#   usage: run_supernode.sh VERSION PARTITION PARTITIONS [PORT]
# It finds the SuperLink as superlink.demo.test on loopback: there PID 1 listens and carries its bytes to the gate. While the site
# has no lease the port refuses, and Flower tries again.
set -u
version=$1 partition=$2 partitions=$3 port=${4:-9092} kit=/etc/flower/kit
from() { [ "$(printf '%s\n' "$1" "$version" | sort -V | head -n 1)" = "$1" ]; }

set -- --root-certificates "$kit/ca.crt" --superlink "superlink.demo.test:$port" \
    --node-config "partition-id=$partition num-partitions=$partitions"
# Its own interface for ClientApps has neither TLS nor a password: loopback only.
if from 1.35; then set -- "$@" --host 127.0.0.1 --port 9094; else set -- "$@" --clientappio-api-address 127.0.0.1:9094; fi

# Up to 1.22 the SuperLink reads the keys it knows when it starts, and a key whose node did not say goodbye stays "in use" for ever:
# the kit has spares. Later ones learn keys while they run: the key is born here, and the gate registers it.
if from 1.23; then keys=1; else keys=$(find "$kit" -name 'node_key_*' ! -name '*.pub' | wc -l); fi
[ "$keys" -gt 0 ] || { echo "run_supernode: no node_key_* in $kit; hint: Flower $version needs keys made beforehand, node_key_1 and .pub"; exit 1; }
key_of() { # N: the Nth key to try
    if from 1.23; then echo /run/coffer/node_key; else echo "$kit/node_key_$(($1 % keys + 1))"; fi
}

child=
trap 'trap "" TERM; [ -z "$child" ] || kill -TERM "$child"; wait; exit 0' TERM INT
try=0
while :; do
    key=$(key_of "$try")
    public=
    from 1.23 || public="--auth-supernode-public-key $key.pub"
    # shellcheck disable=SC2086 # no words, or two
    flower-supernode "$@" --auth-supernode-private-key "$key" $public &
    child=$!
    wait "$child"
    echo "run_supernode: SuperNode ended with $?, once more with the next key there is in 5 s"
    try=$((try + 1))
    from 1.23 || [ $((try % keys)) != 0 ] || echo "run_supernode: all $keys keys of the kit are tried, and now from the first again;" \
        "hint: if the SuperLink says \`Public key already in use\`, give this site's kit new keys or, with the SuperLink stopped," \
        "delete the site's rows of table node in its state.db (examples/flower/README.md)"
    sleep 5 &
    wait $!
done
