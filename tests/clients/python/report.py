"""What the Python clients share: one line of JSON for each request."""

import json
import os

#: `http://USER:PASSWORD@HOST:PORT`, or none when the environment's own variables are to be followed.
PROXY = os.environ.get("CLIENT_PROXY")
CA = os.environ["CLIENT_CA"]


def answer(status, body):
    print(json.dumps({"status": status, "body": body}), flush=True)


def failure(error, code=None):
    print(json.dumps({"error": f"{type(error).__name__}: {error}", "code": code}), flush=True)
