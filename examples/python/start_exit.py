#!/usr/bin/env python3
"""Starts an exit through the admin port, fetches a page through it, and destroys it. Standard library only."""

import json
import os
import sys
import urllib.error
import urllib.request

API = os.environ.get("GLUETUN_K8S_API_URL", "http://127.0.0.1:8001").rstrip("/")
TOKEN = os.environ.get("ADMIN_TOKEN")
COUNTRY = os.environ.get("COUNTRY", "Sweden")
TARGET = os.environ.get("TARGET_URL", "http://whoami.test/")


def call(path, body):
    """Posts JSON to the admin port. A cold start is held until the VPN is up: allow for it."""
    headers = {"Content-Type": "application/json"}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    request = urllib.request.Request(API + path, data=json.dumps(body).encode(), headers=headers)
    # The admin port is in the cluster: never through a proxy that the environment names.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=100) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        reason = json.load(error).get("error", error.reason)
        sys.exit(f"{path}: {error.code} {reason}")


def fetch(url, proxy):
    """Fetches a page through a proxy whose URL holds its credentials."""
    through = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    with through.open(url, timeout=30) as answer:
        return answer.read().decode()


started = call("/start", {"country": COUNTRY})
print("started", started["pod_name"], file=sys.stderr)
try:
    print(fetch(TARGET, started["service_url"]).strip())
finally:
    print(call("/destroy", {"id": started["id"]})["message"], file=sys.stderr)
