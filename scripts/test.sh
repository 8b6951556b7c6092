#!/usr/bin/env bash
# Installs everything that the tests need, then runs every test. Arguments go to `cargo test`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$(dirname "$here")"

"$here/tools.sh" cc protoc curl manifests promtool etcd-3.4 etcd-3.5.1 etcd-3.5 etcd-3.6 etcd-3.7 minio

# The tests run the binary as an operator would. Built first, and named, so that no test waits for a build; with all of
# the workspace's targets selected, so that dependencies are built once, with the features that `cargo test` wants.
cargo build --locked --workspace --all-targets
ETCDBR_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug/etcdbr
export ETCDBR_BIN
# For the test that runs it in an empty chroot; says so and goes on where there is no musl to be had.
"$here/dist.sh"

# --no-fail-fast: one red crate does not hide the others. Each crate ends with the runner's own summary; the last line
# adds them up.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
code=0
cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$log" || code=$?
awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
    END { printf "total: %d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
exit "$code"
