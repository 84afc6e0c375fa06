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

key_of() { # N: the Nth key to try
    # Up to 1.22 the SuperLink reads the keys it knows when it starts, and a key whose node did not say goodbye stays "in use" for
    # ever: the kit has spares. Later ones learn keys while they run: the key is born here, and the gate registers it.
    if from 1.23; then echo /run/coffer/node_key; else
        spares=$(find "$kit" -name 'node_key_*' ! -name '*.pub' | wc -l)
        echo "$kit/node_key_$(($1 % spares + 1))"
    fi
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
    sleep 5 &
    wait $!
done
