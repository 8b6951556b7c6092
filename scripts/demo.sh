#!/usr/bin/env bash
# The whole way on one page: a real etcd, an encrypted full backup into a local archive, the etcd destroyed, a restore,
# and the proof that the new etcd holds what the old one held. ETCDBR_BIN=/path names a binary that is already built.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
objects=5000
# Settings of this machine for other clusters and archives.
for name in $(compgen -e | grep -E '^(ETCD|ETCDCTL|ETCDBR)_' | grep -vx ETCDBR_BIN); do unset "$name"; done
work=$(mktemp -d "${TMPDIR:-/tmp}/etcdbr-demo-XXXXXX")
etcd_pid=

say() { printf '%s\n' "$*"; }
fail() {
    echo "demo: $*" >&2
    exit 1
}

stop_etcd() {
    [ -n "$etcd_pid" ] || return 0
    kill "$etcd_pid" 2>/dev/null || true
    wait "$etcd_pid" 2>/dev/null || true
    etcd_pid=
}

finish() {
    local code=$?
    trap - EXIT
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
read -r leased leases < <(python3 "$here/demo_keyspace.py" fill "$client" "$objects") || fail "etcd took no objects"
say "2. write $objects objects, $leased of them on $leases leases, overwrite and delete some ($(since "$start"))"
read -r keys revision digest < <(python3 "$here/demo_keyspace.py" digest "$client") || fail "the keys cannot be read"
hash=$(hash_kv)
db_size=$(size "$work/source/member/snap/db")

say "3. etcdbr keygen, etcdbr snapshot --once: encrypted, into $archive"
mkdir -p "$archive"
"$etcdbr" keygen --key-file "$key" >"$work/keygen.log" 2>&1 || fail "keygen failed"
start=$(now)
"$etcdbr" snapshot --once --endpoints "$client" "${store[@]}" >"$work/snapshot.log" 2>&1 || fail "the backup failed"
backup_time=$(since "$start")
if grep -rqa '/registry/' "$archive"; then fail "plaintext was found in the encrypted archive"; fi

say "4. stop etcd and destroy its data directory"
stop_etcd
rm -rf "$work/source"

say "5. etcdbr list"
"$etcdbr" list "${store[@]}" 2>"$work/list.log" | sed 's/^/     /' || fail "the list failed"

say "6. etcdbr restore --data-dir $work/restored"
start=$(now)
"$etcdbr" restore --data-dir "$work/restored" "${store[@]}" --name demo --initial-cluster "demo=$peer" \
    --initial-advertise-peer-urls "$peer" >"$work/restore.log" 2>&1 || fail "the restore failed"
restore_time=$(since "$start")

say "7. start etcd on the restored directory and compare"
start_etcd "$work/restored" "$work/etcd-restored.log"
read -r new_keys new_revision new_digest < <(python3 "$here/demo_keyspace.py" digest "$client") ||
    fail "the restored keys cannot be read"
new_hash=$(hash_kv)
new_leases=$(etcdctl lease list | grep -cE '^[0-9a-f]+$' || true)

[ "$keys $revision $digest" = "$new_keys $new_revision $new_digest" ] ||
    fail "the keys differ: $keys at revision $revision ($digest), restored $new_keys at $new_revision ($new_digest)"
[ "$hash" = "$new_hash" ] || fail "HashKV differs: $hash, restored $new_hash"
[ "$leases" = "$new_leases" ] || fail "the leases differ: $leases, restored $new_leases"

say
say "   equal: $keys keys (values, revisions, versions, leases), revision $revision, $leases leases, HashKV $hash"
say "   backup $backup_time, restore $restore_time; database $db_size, encrypted archive $(size "$archive")"
