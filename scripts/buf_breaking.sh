#!/usr/bin/env bash
# Compares the protos with those of the last release, the newest tag v*. Before the first release there is nothing to
# compare with; then it says so and succeeds.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true)
if [ -z "$tag" ]; then
  echo "buf breaking: no release yet, nothing to compare with"
  exit 0
fi
exec "${BUF:-buf}" breaking --against ".git#tag=$tag"
