#!/usr/bin/env bash
# Starts the SuperLink of one Flower version on loopback: TLS, and no node but those whose keys it knows.
#   usage: superlink.sh BIN VERSION DIR [PORT]   BIN: that version's programs; DIR: ca.crt, server.crt, server.key; its state goes there
# Up to Flower 1.39 Fleet is at PORT (9092) and Control at the next one; from 1.40 on both are at PORT (8000).
set -euo pipefail
usage='usage: superlink.sh BIN VERSION DIR [PORT]'
bin=${1:?$usage} version=${2:?$usage} dir=$(realpath "${3:?$usage}") port=${4:-9092}
export FLWR_HOME=$dir/home FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 PATH=$bin:$PATH
mkdir -p "$FLWR_HOME"
from() { [ "$(printf '%s\n' "$1" "$version" | sort -V | head -1)" = "$1" ]; }
options=(--ssl-ca-certfile "$dir/ca.crt" --ssl-certfile "$dir/server.crt" --ssl-keyfile "$dir/server.key" --database "$dir/state.db")
if from 1.40; then
  # Apps must not bring packages of their own: what may run is what is installed here.
  options+=(--enable-supernode-auth --host 127.0.0.1 --port "${4:-8000}" --disable-runtime-dependency-installation)
else
  options+=(--serverappio-api-address "127.0.0.1:$((port - 1))" --fleet-api-address "127.0.0.1:$port")
  if from 1.23; then options+=(--enable-supernode-auth --control-api-address "127.0.0.1:$((port + 1))"); else
    options+=(--auth-list-public-keys "$dir/node-keys.csv" --exec-api-address "127.0.0.1:$((port + 1))"); fi
fi
exec "$bin/flower-superlink" "${options[@]}"
