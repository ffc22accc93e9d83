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
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
}
