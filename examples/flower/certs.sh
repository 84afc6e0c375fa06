#!/usr/bin/env bash
# Makes what the SuperLink needs for TLS: a CA and a server certificate under it, both P-384, for a year.
#   usage: certs.sh DIR NAME      writes DIR/{ca,server}.{crt,key}; the certificate is for NAME, localhost and 127.0.0.1
set -euo pipefail
dir=${1:?usage: certs.sh DIR NAME} name=${2:?usage: certs.sh DIR NAME}
umask 077
mkdir -p "$dir"
cd "$dir"
request() { openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 365 -keyout "$1.key" -subj "/CN=$2" "${@:3}" 2>/dev/null; }
request ca "$name CA" -x509 -out ca.crt -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign"
request server "$name" -out server.csr
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out server.crt 2>/dev/null \
  -extfile <(printf 'subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$name")
rm -f server.csr ca.srl
chmod 644 ca.crt server.crt
