"""Plays every check with every client, one line each; exits with 1 if one fails. Started by `run`."""

import argparse
import os
import signal
import sys
import time

from checks import CHECKS, World, play
from clients import CLIENTS
from demo import Demo, scratch
from docs import check_docs
from patience import patience


def arguments():
    parser = argparse.ArgumentParser(
        prog="tests/clients/run", description="The clients that people use, against the demo."
    )
    names = [client.name for client in CLIENTS]
    parser.add_argument("--only", metavar="NAMES", help=f"some of {', '.join(names)}, python and node; with commas")
    parser.add_argument("--check", metavar="NAME", help=f"one of {', '.join(CHECKS)}")
    parser.add_argument(
        "--patience", action="store_true",
        help="measure instead how long each client waits for an answer to its CONNECT (two minutes)",
    )
    parser.add_argument("--cache", metavar="DIR", default="target/clients", help=argparse.SUPPRESS)
    options = parser.parse_args()
    only = options.only.split(",") if options.only else names
    chosen = [client for client in CLIENTS if client.name in only or client.family in only]
    known = {*names, *(client.family for client in CLIENTS)}
    if unknown := [name for name in only if name not in known]:
        parser.error(f"no client {', '.join(unknown)}: there are {', '.join(sorted(known))}")
    if options.check and options.check not in CHECKS:
        parser.error(f"no check {options.check}: there are {', '.join(CHECKS)}")
    return options, chosen


def main():
    options, clients = arguments()
    # So that the demo ends with this program however it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    binary = os.environ["GATEWAY_BIN"]
    begin = time.monotonic()
    passed = failed = 0
    with scratch() as directory:
        if options.patience:
            return patience(binary, directory, options.cache, clients)
        demo = Demo(binary, directory)
        try:
            world = World(demo, directory, options.cache)
            checks = {name: check for name, check in CHECKS.items() if options.check in (None, name)}
            for client in clients:
                for name, check in checks.items():
                    if name == "udp" and not client.udp:
                        continue
                    holds, note, seconds = play(check, world, client)
                    passed, failed = passed + holds, failed + (not holds)
                    verdict = "ok    " if holds else "FAILED"
                    print(f"{verdict} {client.name:<18} {name:<15} {seconds:5.2f} s  {note}", flush=True)
        finally:
            demo.stop()
    for mistake in check_docs():
        failed += 1
        print(f"FAILED docs/clients.md: {mistake}")
    print(f"\n{passed} passed, {failed} failed")
    print(f"in {time.monotonic() - begin:.0f} s")
    return 1 if failed or not passed else 0


sys.exit(main())
