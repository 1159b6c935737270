#!/usr/bin/env bash
# Compares the protos with those of the last release, the newest file in tests/data/api (docs/releasing.md).
set -euo pipefail
cd "$(dirname "$0")/.."

released=$(printf '%s\n' tests/data/api/*.binpb | sort --version-sort | tail -n 1)
exec "${BUF:-buf}" breaking --against "$released"
