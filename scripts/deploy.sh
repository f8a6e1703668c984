#!/usr/bin/env bash
# Installs the gateway, or brings an installation up to date. Secrets that are there stay, unless their files are
# given anew.
#
#   deploy.sh [--overlay NAME] [--private-key FILE --addresses FILE] [--users FILE] [--admin-token FILE]
#             [--context NAME] [--no-wait] [--dry-run]
#
#   --overlay NAME       kind (default), minikube, production, or base for k8s/ as it is
#   --private-key FILE   the WireGuard private key, as the VPN provider's configuration has it: PrivateKey
#   --addresses FILE     its addresses with prefix lengths, separated by commas: Address
#   --users FILE         the users file: lines of `gluetun-gateway hash-password --user NAME`
#   --admin-token FILE   bearer tokens of the admin API, 16 characters or more each; without it the API is open
#                        to whoever reaches the port
#   --context NAME       the cluster, as kubectl knows it; default its current one
#   --no-wait            do not wait until the gateway is ready
#   --dry-run            print what would be done
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

overlay=kind key='' addresses='' users='' token='' wait=1
while [ $# -gt 0 ]; do
    case $1 in
        --overlay) value "$1" 'a name' "${2-}"; overlay=$2; shift ;;
        --private-key) value "$1" 'a file' "${2-}"; key=$2; shift ;;
        --addresses) value "$1" 'a file' "${2-}"; addresses=$2; shift ;;
        --users) value "$1" 'a file' "${2-}"; users=$2; shift ;;
        --admin-token) value "$1" 'a file' "${2-}"; token=$2; shift ;;
        --context) value "$1" 'a name' "${2-}"; context=(--context "$2"); shift ;;
        --no-wait) wait= ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit ;;
        *) wrong "unknown argument '$1'" ;;
    esac
    shift
done
tree=$(tree "$overlay")
[ -n "$key" ] && [ -z "$addresses" ] && wrong '--private-key and --addresses belong together'
[ -z "$key" ] && [ -n "$addresses" ] && wrong '--private-key and --addresses belong together'
for file in "$key" "$addresses" "$users" "$token"; do
    [ -z "$file" ] || [ -s "$file" ] || die "$file is no file, or empty"
done

# What a wrong key looks like later is a pod that never gets healthy: better now.
if [ -n "$key" ] && { [ "$(grep -c '[^[:space:]]' "$key")" -ne 1 ] \
    || ! grep -qE '^[[:space:]]*[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=[[:space:]]*$' "$key"; }; then
    die "$key holds no WireGuard private key" 'it is one line of 44 characters of base64, ending with ='
fi
# An IPv4 address with a prefix length up to 32, or an IPv6 address with one up to 128.
octet='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
address="($octet\\.$octet\\.$octet\\.$octet/(3[0-2]|[12]?[0-9])|[0-9a-fA-F]*:[0-9a-fA-F:.]*/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))"
if [ -n "$addresses" ] && { [ "$(grep -c '[^[:space:]]' "$addresses")" -ne 1 ] \
    || ! grep -qE "^[[:space:]]*$address([[:space:]]*,[[:space:]]*$address)*[[:space:]]*\$" "$addresses"; }; then
    die "$addresses holds no WireGuard addresses" \
        'such as 10.64.0.2/32,fc00:bbbb::2/128 on one line: each with its prefix length, up to 32 for IPv4, 128 for IPv6'
fi
if [ -n "$token" ] && ! awk -F '[,[:space:]]+' '
    { for (i = 1; i <= NF; i++) if (length($i)) { n++; if (length($i) < 16) short = 1 } }
    END { exit !n || short }' "$token"; then
    die "$token holds no tokens, or one that is too short" 'each has 16 characters or more: head -c 24 /dev/urandom | base64'
fi
if [ -n "$users" ] && ! grep -qE '^[^:#]+:\$' "$users"; then
    die "$users holds no account" 'make a line: gluetun-gateway hash-password --user alice'
fi

need kubectl 'https://kubernetes.io/docs/tasks/tools/'
reachable

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 700 "$work"

# secret NAME KEY FILE [KEY FILE]: from the files, without the white space at their ends, which would be part of
# the key. Server-side, so that no annotation repeats it.
secret() {
    local name=$1 arguments=()
    shift
    while [ $# -gt 0 ]; do
        printf '%s' "$(cat "$2")" >"$work/$1"
        arguments+=("--from-file=$1=$work/$1")
        shift 2
    done
    if [ -n "$dry" ]; then
        printf '+ kubectl create secret generic %s (from files) | kubectl apply --server-side -f -\n' "$name"
        return
    fi
    kubectl create secret generic "$name" -n "$namespace" "${arguments[@]}" --dry-run=client -o yaml \
        | kubectl ${context[@]+"${context[@]}"} apply --server-side --force-conflicts --field-manager=deploy -f - >/dev/null
    say "the Secret $name is set"
}

# there NAME HOW: ends the script when a Secret is neither there nor given.
there() {
    [ -n "$dry" ] && return
    ask -n "$namespace" get secret "$1" -o name >/dev/null || die "there is no Secret $1 yet" "$2"
}

kube apply -f "$root/k8s/00-namespace.yaml"
if [ -n "$key" ]; then
    secret gluetun-wireguard-credentials wireguard-private-key "$key" wireguard-addresses "$addresses"
else
    there gluetun-wireguard-credentials 'give the VPN key: --private-key FILE --addresses FILE'
fi
if [ -n "$users" ]; then
    secret gluetun-gateway-users users "$users"
else
    there gluetun-gateway-users 'give the accounts: --users FILE (a line is made by: gluetun-gateway hash-password --user alice)'
fi
if [ -n "$token" ]; then
    secret gluetun-gateway-admin token "$token"
elif [ "$overlay" = production ]; then
    there gluetun-gateway-admin 'production wants a token for the admin API: --admin-token FILE (head -c 24 /dev/urandom | base64)'
fi

# What is running now reads its settings only when it starts; the users file it reads when it changes.
before=$(ask -n "$namespace" get configmap gluetun-gateway-config -o 'jsonpath={.data}' || true)
kube apply -k "$tree"
after=$(ask -n "$namespace" get configmap gluetun-gateway-config -o 'jsonpath={.data}' || true)
if [ -n "$before" ] && { [ "$before" != "$after" ] || [ -n "$token" ]; }; then
    kube -n "$namespace" rollout restart deployment/gluetun-gateway
fi
if [ -n "$wait" ]; then
    kube -n "$namespace" rollout status deployment/gluetun-gateway --timeout=180s || {
        kubectl ${context[@]+"${context[@]}"} -n "$namespace" get pods,events >&2 || true
        die 'the gateway did not get ready' 'docs/troubleshooting.md says what its state means'
    }
fi
say "installed; who may use it: kubectl label namespace NAME gluetun-gateway/proxy=allowed"
