#!/bin/sh
# Fetches a page through the gateway's proxy port. The username says where from. Needs curl alone.
set -eu

proxy=${PROXY_URL:-http://demo-country-se:demo@127.0.0.1:8080}
target=${TARGET_URL:-http://whoami.test/}

# The first request to a place waits for its VPN, up to 90 s by the gateway's defaults. -p: CONNECT for plain
# HTTP too, so that the page's headers are the site's own.
curl -sS --fail-with-body --noproxy '' --max-time 100 -p -x "$proxy" "$target"
