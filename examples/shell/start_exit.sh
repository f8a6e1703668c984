#!/bin/sh
# Starts an exit through the admin port, fetches a page through it, and destroys it. Needs curl and jq.
set -eu

api=${GLUETUN_K8S_API_URL:-http://127.0.0.1:8001}
country=${COUNTRY:-Sweden}
target=${TARGET_URL:-http://whoami.test/}

# Posts JSON to the admin port, which is in the cluster: never through a proxy that the environment names.
# A cold start is held until the VPN is up: allow for it.
call() {
    if [ -n "${ADMIN_TOKEN:-}" ]; then
        set -- "$@" -H "Authorization: Bearer $ADMIN_TOKEN"
    fi
    path=$1 body=$2
    shift 2
    curl -sS --noproxy '*' --fail-with-body --max-time 100 -H 'Content-Type: application/json' \
        "$@" -d "$body" "${api%/}$path"
}

started=$(call /start "$(jq -cn --arg country "$country" '{country: $country}')") || {
    echo "start: $(printf '%s' "$started" | jq -r '.error? // .')" >&2
    exit 1
}
id=$(printf '%s' "$started" | jq -r .id)
destroy() { call /destroy "{\"id\":\"$id\"}" | jq -r .message >&2; }
trap destroy EXIT
printf 'started %s\n' "$(printf '%s' "$started" | jq -r .pod_name)" >&2

curl -sS --fail-with-body --noproxy '' --max-time 30 -x "$(printf '%s' "$started" | jq -r .service_url)" "$target"
