#!/usr/bin/env bash
# The whole way on one page: a real etcd and a sidecar that captures it, encrypted, into a local archive; a mistake, then a
# crash; the last write restored, then the moment before the mistake; and each time the proof that the new etcd holds what
# the old one held. ETCDBR_BIN=/path names a binary that is already built.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
objects=5000
# Settings of this machine for other clusters and archives.
for name in $(compgen -e | grep -E '^(ETCD|ETCDCTL|ETCDBR)_' | grep -vx ETCDBR_BIN); do unset "$name"; done
work=$(mktemp -d "${TMPDIR:-/tmp}/etcdbr-demo-XXXXXX")
etcd_pid=
sidecar_pid=

say() { printf '%s\n' "$*"; }
fail() {
    echo "demo: $*" >&2
    exit 1
}

stop_etcd() {
    [ -n "$etcd_pid" ] || return 0
    kill "-${1:-TERM}" "$etcd_pid" 2>/dev/null || true
    wait "$etcd_pid" 2>/dev/null || true
    etcd_pid=
}

stop_sidecar() {
    [ -n "$sidecar_pid" ] || return 0
    local code=0
    kill "$sidecar_pid" 2>/dev/null || true
    wait "$sidecar_pid" || code=$?
    sidecar_pid=
    return "$code"
}

finish() {
    local code=$?
    trap - EXIT
    stop_sidecar || true
    stop_etcd
    if [ "$code" != 0 ]; then
        for log in "$work"/*.log; do
            [ -s "$log" ] && echo "--- the end of $(basename "$log") ---" >&2 && tail -n 15 "$log" >&2
        done
        echo "demo: failed" >&2
    fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

now() { printf '%s' "${EPOCHREALTIME/,/.}"; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f s", to - from }'; }
size() { du -sb "$@" | awk '{ sum += $1 } END { printf "%.1f MB", sum / 1e6 }'; }
# Below the range from which the kernel takes the ports of outgoing connections: etcd binds them twice.
free_port() {
    python3 -c '
import random, socket
while True:
    port = random.randrange(20000, 32000)
    try:
        socket.socket().bind(("127.0.0.1", port))
    except OSError:
        continue
    print(port)
    break'
}

build() {
    if [ -n "${ETCDBR_BIN:-}" ]; then
        etcdbr=$ETCDBR_BIN
        return
    fi
    local start log=$work/build.log
    "$here/tools.sh" cc >/dev/null
    etcdbr=${CARGO_TARGET_DIR:-$root/target}/release/etcdbr
    if [ ! -x "$etcdbr" ]; then
        say "building etcdbr (the first time takes five minutes or so on two cores)"
    fi
    start=$(now)
    (cd "$root" && cargo build --release --locked --package etcdbr) >"$log" 2>&1 || fail "etcdbr does not build"
    say "etcdbr is built: $("$etcdbr" --version) ($(since "$start"))"
}

# start_etcd DATA_DIR LOG: waits until it answers.
start_etcd() {
    "$etcd_dir/etcd" --name demo --data-dir "$1" \
        --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
        --initial-cluster "demo=$peer" >"$2" 2>&1 &
    etcd_pid=$!
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        kill -0 "$etcd_pid" 2>/dev/null || fail "etcd ended before it served"
        if etcdctl get ready >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "etcd does not serve"
}

keyspace() { python3 "$here/demo_keyspace.py" "$1" "$client" "${@:2}"; }
etcdctl() { "$etcd_dir/etcdctl" --endpoints "$client" --dial-timeout 1s "$@"; }
hash_kv() {
    etcdctl endpoint hashkv --write-out json |
        python3 -c 'import json, sys; answer = json.load(sys.stdin)[0]["HashKV"]; print(answer["hash"])'
}

command -v python3 >/dev/null || fail "python3 is needed"
command -v cargo >/dev/null || [ -n "${ETCDBR_BIN:-}" ] || fail "cargo is needed"
"$here/tools.sh" etcd-any >"$work/tools.log" 2>&1 || fail "no etcd to be had"
etcd_dir=$("$here/tools.sh" --path etcd-any)
etcd_version=$("$etcd_dir/etcd" --version | sed -n 's/^etcd Version: *//p')
build

client=http://127.0.0.1:$(free_port)
peer=http://127.0.0.1:$(free_port)
archive=$work/archive
key=$work/etcdbr.key
store=(--storage-provider Local --store-container "$archive" --encryption-key-file "$key")

say "1. start etcd $etcd_version at $client"
start_etcd "$work/source" "$work/etcd.log"

start=$(now)
read -r leased leases < <(keyspace fill "$objects") || fail "etcd took no objects"
say "2. write $objects objects, $leased of them on $leases leases, overwrite and delete some ($(since "$start"))"

say "3. etcdbr keygen; etcdbr snapshot beside it: a full, then every revision; all encrypted, into $archive"
mkdir -p "$archive"
"$etcdbr" keygen --key-file "$key" >"$work/keygen.log" 2>&1 || fail "keygen failed"
keyspace edit 600 &
edits_pid=$!
"$etcdbr" snapshot --endpoints "$client" --delta-snapshot-period 500ms --output json "${store[@]}" \
    >"$work/sidecar.out" 2>"$work/sidecar.log" &
sidecar_pid=$!
wait "$edits_pid" || fail "etcd took no edits"

# Waits until the sidecar says that everything up to revision $1 is in the archive.
until_durable() {
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        kill -0 "$sidecar_pid" 2>/dev/null || fail "the sidecar ended by itself"
        if python3 -c '
import json, sys
lines = [json.loads(line) for line in sys.stdin if line.endswith("}\n")]
sys.exit(not any(line.get("durable_revision", 0) >= int(sys.argv[1]) for line in lines))' "$1" <"$work/sidecar.log"; then
            return
        fi
        sleep 0.1
    done
    fail "revision $1 is not durable"
}

read -r good_keys good_revision good_digest < <(keyspace digest) || fail "the keys cannot be read"
good_hash=$(hash_kv)
until_durable "$good_revision"
moment=$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)
say "   600 more writes during and after the full: revision $good_revision is in the archive at $moment"

secrets=$(keyspace forget) || fail "etcd does not forget"
read -r keys revision digest < <(keyspace digest) || fail "the keys cannot be read"
hash=$(hash_kv)
until_durable "$revision"
db_size=$(size "$work/source/member/snap/db")
say "4. a mistake deletes all $secrets secrets; one last write; kill -9 etcd, destroy its data directory"
stop_etcd KILL
rm -rf "$work/source"
stop_sidecar || fail "the sidecar did not end well"
if grep -rqa '/registry/' "$archive"; then fail "plaintext was found in the encrypted archive"; fi

say "5. etcdbr list"
"$etcdbr" list "${store[@]}" 2>"$work/list.log" | sed 's/^/     /' || fail "the list failed"

# restore_and_start NAME FLAGS...: into a directory of that name.
restore_and_start() {
    local start
    start=$(now)
    "$etcdbr" restore --data-dir "$work/$1" "${store[@]}" --name demo --initial-cluster "demo=$peer" \
        --initial-advertise-peer-urls "$peer" "${@:2}" >"$work/restore-$1.log" 2>&1 || fail "the restore failed"
    restore_time=$(since "$start")
    start_etcd "$work/$1" "$work/etcd-$1.log"
}

# same KEYS REVISION DIGEST HASH: what runs holds exactly that.
same() {
    local found new_hash new_leases
    found=$(keyspace digest) || fail "the restored keys cannot be read"
    [ "$found" = "$1 $2 $3" ] || fail "the keys differ: $1 at revision $2 ($3), restored $found"
    new_hash=$(hash_kv)
    [ "$new_hash" = "$4" ] || fail "HashKV differs: $4, restored $new_hash"
    new_leases=$(etcdctl lease list | grep -cE '^[0-9a-f]+$' || true)
    [ "$leases" = "$new_leases" ] || fail "the leases differ: $leases, restored $new_leases"
    say "   equal: $1 keys (values, revisions, versions, leases), revision $2, $leases leases, HashKV $4 ($restore_time)"
}

say "6. etcdbr restore: the last write before the crash is back"
restore_and_start restored
[ "$(etcdctl get --print-value-only /registry/last)" = "the last write before the crash" ] || fail "the last write is lost"
same "$keys" "$revision" "$digest" "$hash"
stop_etcd

say "7. etcdbr restore --at $moment: the moment before the mistake, secrets and all"
restore_and_start earlier --at "$moment"
same "$good_keys" "$good_revision" "$good_digest" "$good_hash"

say
say "   database $db_size, encrypted archive $(size "$archive"), full and deltas"
