#!/usr/bin/env bash
# Builds dist/etcdbr: one static binary for this machine's architecture, which runs in an empty chroot and in a
# container FROM scratch (see Containerfile). Where the musl target of Rust is not to be had, says so and ends well.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$(dirname "$here")"
target=$(uname -m)-unknown-linux-musl

target_is_there() { [ -d "$(rustc --print target-libdir --target "$target" 2>/dev/null)" ]; }

if ! target_is_there; then
    if ! { command -v rustup >/dev/null && rustup target add "$target" >/dev/null 2>&1 && target_is_there; }; then
        echo "dist: skipped: the Rust target $target is not to be had here (rustup target add $target)"
        exit 0
    fi
fi
"$here/tools.sh" cc musl >/dev/null

export "CC_${target//-/_}=musl-gcc"
echo "dist: building for $target"
cargo build --release --locked --quiet --package etcdbr --target "$target"
built=${CARGO_TARGET_DIR:-target}/$target/release/etcdbr
if readelf --program-headers "$built" | grep -q INTERP; then
    echo "dist: $built is not static" >&2
    exit 1
fi
mkdir -p dist
install -m 755 "$built" dist/etcdbr
echo "dist: dist/etcdbr $(du -h dist/etcdbr | cut -f 1), static, $(dist/etcdbr --version)"
