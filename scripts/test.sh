#!/usr/bin/env bash
# Installs everything that the tests need, then runs every test. Arguments go to `cargo test`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$(dirname "$here")"

"$here/tools.sh" cc protoc etcd-3.4 etcd-3.5.1 etcd-3.5 etcd-3.6 etcd-3.7 minio

# The tests run the binary as an operator would. Built first, and named, so that no test waits for a build; with the
# whole workspace selected, so that its dependencies are built with the same features, once.
cargo build --locked --workspace --bins
ETCDBR_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug/etcdbr
export ETCDBR_BIN
# --no-fail-fast: one red crate does not hide the others. The last lines are the runner's own.
exec cargo test --workspace --locked --no-fail-fast "$@"
