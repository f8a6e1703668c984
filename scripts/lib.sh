# What the scripts beside this file share; sourced, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # Used by those who source this.
namespace=gluetun-system
# The programs' name in messages.
program=$(basename "$0")
dry=
context=()

# Prints the comment at the head of the script, without its hash signs.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

say() { printf '%s: %s\n' "$program" "$*" >&2; }

die() {
    say "$1"
    shift
    for line in "$@"; do printf '    %s\n' "$line" >&2; done
    exit 1
}

# A mistake in the arguments.
wrong() {
    say "$1"
    printf '    see %s --help\n' "$program" >&2
    exit 64
}

# value OPTION WHAT [VALUE]: ends the script where an option lacks its value, be it that another one follows.
value() {
    case ${3-} in '' | --*) wrong "$1 needs $2" ;; esac
}

# Runs a command, or prints it under --dry-run.
run() {
    if [ -n "$dry" ]; then
        printf '+'
        printf ' %q' "$@"
        printf '\n'
    else
        "$@"
    fi
}

# need PROGRAM HOW-TO-GET-IT: a dry run needs nothing.
need() {
    [ -n "$dry" ] || command -v "$1" >/dev/null || die "needs $1, which is not on PATH" "$2"
}

kube() { run kubectl ${context[@]+"${context[@]}"} "$@"; }

# The same for questions, which are asked under --dry-run neither.
ask() { [ -z "$dry" ] && kubectl ${context[@]+"${context[@]}"} "$@" 2>/dev/null; }

# Whether a cluster answers.
reachable() {
    [ -n "$dry" ] || kubectl ${context[@]+"${context[@]}"} version --request-timeout=10s >/dev/null 2>&1 \
        || die 'no cluster answers' "kubectl config get-contexts shows those you have; name one with --context"
}

# The directory of an overlay.
tree() {
    case $1 in
        base) echo "$root/k8s" ;;
        kind | minikube | production) echo "$root/overlays/$1" ;;
        *) wrong "no overlay '$1': kind, minikube, production or base" ;;
    esac
}
