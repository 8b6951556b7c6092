#!/usr/bin/env bash
# Backup and restore beside etcd's own tools, as ratios, in one run. The tables are Markdown, on standard output.
#
#   scripts/bench.sh [--quick] [--size BYTES] [--rounds N] [--only backup|restore|deltas|hour|list|idle]
#
# SIZE=BYTES is the same as --size: how large the databases are (1 GB; 100 MB and 3 rounds with --quick). They are made
# once, in minutes, and kept in ${XDG_CACHE_HOME:-$HOME/.cache}/etcdbr-bench, where some five times SIZE must be free.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$(dirname "$here")"
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/etcdbr-bench

args=()
[ -z "${SIZE:-}" ] || args+=(--size "$SIZE")
for arg in "$@"; do
    case $arg in
        --quick) args+=(--size 100000000 --rounds 3) ;;
        *) args+=("$arg") ;;
    esac
done

"$here/tools.sh" cc protoc etcd-3.5.1 etcd-3.5 etcd-3.6 etcd-3.7 minio >&2
cargo build --release --locked --quiet --workspace --bins
target=${CARGO_TARGET_DIR:-$PWD/target}/release
export ETCDBR_BIN=$target/etcdbr
exec "$target/etcdbr-bench" --cache "$cache" "${args[@]}"
