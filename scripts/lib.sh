# shellcheck shell=bash
# Sourced by the scripts: what more than one of them needs.

# Not everybody has the tools of an administrator in the path.
PATH=$PATH:/usr/sbin:/sbin

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Installs Debian packages whose command (after the colon) is not there yet: need PACKAGE:COMMAND...
need() {
    local wanted=() pair
    for pair in "$@"; do
        [ -e "${pair#*:}" ] || command -v "${pair#*:}" >/dev/null || wanted+=("${pair%%:*}")
    done
    [ ${#wanted[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "please install ${wanted[*]} (or what your distribution calls them)"
    [ "$(id -u)" = 0 ] || die "please install ${wanted[*]}, or run this as root so that I can"
    printf 'installing %s\n' "${wanted[*]}"
    local target
    target=$(dirname "${BASH_SOURCE[0]}")/../target
    mkdir -p "$target"
    # Two scripts at once, as in scripts/test, take turns.
    (
        flock 9
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
    ) 9>"$target/packages.lock"
}

# Builds the workspace's test programs (words go to cargo) and prints a line of each, its parts parted by tabs: unit (in src/) or kernel (in tests/), FOLDER/TARGET,
# the package's whole path, the source, the executable.
test_programs() { # CARGO-WORDS...
    need jq:jq
    cargo test --locked --no-run --quiet --message-format json "$@" |
        jq --raw-output 'select(.reason == "compiler-artifact" and .profile.test and .executable) |
            [if .target.kind == ["test"] then "kernel" else "unit" end, (.manifest_path | split("/")[-2]) + "/" + .target.name,
             (.manifest_path | rtrimstr("/Cargo.toml")), .target.src_path, .executable] | @tsv'
}
