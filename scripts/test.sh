#!/usr/bin/env bash
# Asks a gateway that is deployed whether it works: the admin API, and, with a user, a request through a VPN exit.
#
#   test.sh [--admin-url URL] [--proxy-url URL] [--user NAME] [--target URL] [--start] [--dry-run]
#
#   --admin-url URL   default http://127.0.0.1:30801
#   --proxy-url URL   default http://127.0.0.1:30800
#   --user NAME       a proxy user name, such as alice-country-se; its password is in GATEWAY_PASSWORD
#   --target URL      what is asked for through the exit; default https://am.i.mullvad.net/json
#   --start           also POST /start and /destroy, as the original system's clients do; takes a VPN pod
#   --dry-run         print what would be done
#
# A token of the admin API is read from ADMIN_TOKEN.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

admin=http://127.0.0.1:30801 proxy=http://127.0.0.1:30800 user='' target=https://am.i.mullvad.net/json start=
while [ $# -gt 0 ]; do
    case $1 in
        --admin-url) value "$1" 'a URL' "${2-}"; admin=$2; shift ;;
        --proxy-url) value "$1" 'a URL' "${2-}"; proxy=$2; shift ;;
        --user) value "$1" 'a name' "${2-}"; user=$2; shift ;;
        --target) value "$1" 'a URL' "${2-}"; target=$2; shift ;;
        --start) start=1 ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit ;;
        *) wrong "unknown argument '$1'" ;;
    esac
    shift
done
[ -z "$user" ] || [ -n "$dry" ] || [ -n "${GATEWAY_PASSWORD:-}" ] || wrong '--user needs its password in GATEWAY_PASSWORD'
need curl 'your system has a package of it'

passed=0 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Secrets go by a file that curl reads, not by its arguments, which everybody sees.
(umask 077 && : >"$work/admin" && : >"$work/proxy")
if [ -n "${ADMIN_TOKEN:-}" ]; then printf 'header = "Authorization: Bearer %s"\n' "$ADMIN_TOKEN" >"$work/admin"; fi
if [ -n "$user" ]; then printf 'proxy-user = "%s:%s"\n' "$user" "${GATEWAY_PASSWORD:-}" >"$work/proxy"; fi

# expect WHAT PATTERN CURL-ARGUMENTS: the answer has to match. It is left in $answer.
expect() {
    local what=$1 pattern=$2
    shift 2
    if [ -n "$dry" ]; then
        run curl "$@"
        return
    fi
    if answer=$(curl -sS --max-time 120 "$@" 2>&1) && grep -qE "$pattern" <<<"$answer"; then
        passed=$((passed + 1))
        printf 'ok      %s\n' "$what"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s: %s\n' "$what" "$(head -c 400 <<<"$answer")"
    fi
}

api() { expect "$1" "$2" --config "$work/admin" "${@:4}" "$admin$3"; }

api 'it is alive' '"alive":true' /livez
api 'it is ready' '"ready":true' /readyz
api 'it is healthy, and knows servers' '"status":"healthy","servers_loaded":true' /health
api 'it has places' '"total_servers":[1-9]' /locations
api 'it has metrics' '^# TYPE ' /metrics
api 'it shows its pods' '^\{' /status
if [ -n "$user" ]; then
    expect "an exit for $user" '.' --config "$work/proxy" --fail --proxy "$proxy" "$target"
    [ -n "$dry" ] || printf '        %s\n' "$(head -c 300 <<<"$answer")"
fi
if [ -n "$start" ]; then
    country=$([ -n "$dry" ] || curl -sS --config "$work/admin" "$admin/locations" \
        | sed -nE 's/.*"countries":\[\{"name":"([^"]*)".*/\1/p' | head -n 1)
    api "a pod in ${country:-a country}" '"id":"[0-9a-f-]{36}"' /start \
        -H 'Content-Type: application/json' -d "{\"country\":\"${country:-COUNTRY}\"}"
    id=$(sed -nE 's/.*"id":"([0-9a-f-]{36})".*/\1/p' <<<"${answer:-}")
    api 'and it goes' 'Pod destroyed' /destroy \
        -H 'Content-Type: application/json' -d "{\"id\":\"${id:-ID}\"}"
fi
[ -n "$dry" ] || printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
