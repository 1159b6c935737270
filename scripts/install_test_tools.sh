#!/usr/bin/env bash
# Installs with apt-get the programs that some tests start, if they are missing. Without root or apt-get it says so and
# ends well: the tests that need them are skipped.
set -euo pipefail

missing=()
# need COMMAND PACKAGE...
need() { command -v "$1" >/dev/null || missing+=("${@:2}"); }
need redis-server redis-server             # the Redis store
need chromium chromium fonts-dejavu-core   # pages in a browser
need promtool prometheus                   # dashboards and alerts
need kubectl kubernetes-client             # manifests
need ip iproute2                           # network faults
need faketime faketime                     # clocks that jump
need npm npm                               # the client in JavaScript, schemas of operators
need c++ g++                               # torch.compile

if [ ${#missing[@]} = 0 ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed, because that needs root on Debian or Ubuntu: ${missing[*]}" >&2
  exit 0
fi
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
