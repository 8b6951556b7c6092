#!/usr/bin/env bash
# Memory, bytes written and time of a backup and a restore, for a generated database of SIZE bytes (2 GB by default).
# The measuring is that of `tests/tests/memory.rs`, which fails where a limit is passed; here with the release build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$(dirname "$here")"
size=${1:-${SIZE:-2000000000}}

"$here/tools.sh" cc protoc etcd-3.5
cargo build --release --locked --quiet --package etcdbr
export ETCDBR_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/etcdbr
export ETCDBR_MEASURE_BYTES=$size
exec cargo test --locked --quiet --package etcdbr-tests --test all -- \
    --exact memory::a_large_database_goes_through_with_bounded_memory_and_no_temp_file --nocapture
