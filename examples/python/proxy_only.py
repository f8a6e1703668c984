#!/usr/bin/env python3
"""Fetches a page through the gateway's proxy port. The username says where from. Standard library only."""

import os
import sys
import urllib.error
import urllib.request

PROXY = os.environ.get("PROXY_URL", "http://demo-country-se:demo@127.0.0.1:8080")
TARGET = os.environ.get("TARGET_URL", "http://whoami.test/")

through = urllib.request.build_opener(urllib.request.ProxyHandler({"http": PROXY, "https": PROXY}))
try:
    # The first request to a place waits for its VPN, up to 90 s by the gateway's defaults.
    with through.open(TARGET, timeout=100) as answer:
        print(answer.read().decode().strip())
except urllib.error.HTTPError as error:
    # What the gateway says, rather than the site, it marks by a code.
    code = error.headers.get("X-Gateway-Error")
    sys.exit(f"{error.code} {code or 'from the site'}: {error.read().decode().strip()}")
