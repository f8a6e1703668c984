"""The checks. Each takes the world and a client, returns what is worth telling, and raises `Failed`."""

import base64
import json
import os
import re
import subprocess
import time

from clients import BODY, CLIENTS, CODE, STATUS
from servers import NAME, Origin, Tap, certificates

#: A user that most checks share, so that they share its exit.
USER = "demo-country-se"

#: A user with every parameter. The demo has one pool, whose name is that of its provider.
EVERY = (
    "demo-country-us-city-new_york-server-us-nyc-wg-301-pool-default-session-Job_42-idle-10m-ttl-2h"
    "-mode-strict-wait-60s"
)

#: How many requests a client sends to show that it uses connections again.
REPEATED = 5

#: What the exits themselves answer: with their server's name.
WHOAMI = "http://whoami.test/"


class Failed(Exception):
    """A check that does not hold, with what was seen."""


class World:
    """What the checks share: the demo behind a tap, and origins."""

    def __init__(self, demo, directory, cache):
        self.demo = demo
        self.cache = cache
        self.tap = Tap(demo.proxy)
        self.ca, certificate, key = certificates(directory, "trusted")
        _, other, other_key = certificates(directory, "other")
        self.plain, self.tls, self.untrusted = Origin(), Origin((certificate, key)), Origin((other, other_key))
        # Chromium has its authorities in a database of the user's: this run's own home has one. `run` names
        # Chromium where it is wanted.
        home = os.path.join(directory, "home")
        database = os.path.join(home, ".pki", "nssdb")
        self.environment = {"HOME": home}
        os.makedirs(database)
        if os.environ.get("CHROMIUM"):
            for command in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "trusted", "-i", self.ca]):
                subprocess.run(["certutil", "-d", f"sql:{database}", *command], check=True)

    def clear(self):
        """Forgets what the servers have seen so far."""
        for seen in (self.tap, self.plain, self.tls, self.untrusted):
            seen.take()


def expect(condition, *seen):
    if not condition:
        raise Failed("saw " + "; ".join(text if isinstance(text, str) else repr(text) for text in seen))


def parsed(answer):
    try:
        return json.loads(answer.get("body", ""))
    except ValueError:
        return {}


def user_of(head):
    scheme, _, text = head["fields"].get("proxy-authorization", "").partition(" ")
    return base64.b64decode(text).decode().partition(":")[0] if scheme else None


def judge_error(answer, shown, code, status, text):
    """Whether the client shows an error of the gateway's as its trait says."""
    if shown == BODY and not text:
        expect(answer.get("status") == status and parsed(answer).get("error") == code, answer)
        return f"{status} {code}"
    expect("error" in answer and re.search(text or "^$", answer["error"]), answer)
    if shown == CODE:
        expect(answer["code"] == code, answer)
    if status == 400:
        # Clients have words of their own for a 407.
        expect(("400" in answer["error"]) == (shown in (CODE, STATUS)), answer)
    return answer["error"]


def play(check, world, client):
    """Plays a check; returns whether it holds, what there is to tell, and how many seconds it took."""
    world.clear()
    # Failed logins are counted by address: one client's must not slow the next one's.
    world.tap.source = f"127.77.0.{CLIENTS.index(client) + 1}"
    start = time.monotonic()
    try:
        holds, note = True, check(world, client)
    except Failed as failure:
        holds, note = False, str(failure)
    return holds, note, time.monotonic() - start


def check_http(world, client):
    """A request through HTTP, as the client sends it."""
    [answer] = client.run(world, USER, WHOAMI)
    seen = world.tap.take()
    expect(answer.get("status") == 200 and parsed(answer).get("country") == "Sweden", answer)
    heads = [head for heads in seen for head in heads if "whoami.test" in head["target"]]
    heads = [head for head in heads if "favicon" not in head["target"]]
    last = heads[-1]
    expect((last["method"] == "CONNECT") == client.tunnels_http, last)
    expect(user_of(last) == USER, last)
    expect((user_of(heads[0]) is None) == client.challenge_first, heads)
    return f"{last['method']} {last['target']}"


def check_https(world, client):
    """A request through HTTPS, with the origin's certificate verified."""
    [answer] = client.run(world, USER, world.tls.url + "/hello")
    seen, requests = world.tap.take(), world.tls.take()
    expect(answer.get("status") == 200 and parsed(answer).get("path") == "/hello", answer)
    expect(len(requests) == 1, requests)
    heads = [head for heads in seen for head in heads if NAME in head["target"]]
    expect(all(head["method"] == "CONNECT" for head in heads), heads)
    expect((user_of(heads[0]) is None) == client.challenge_first and user_of(heads[-1]) == USER, heads)
    return f"{heads[-1]['method']} {heads[-1]['target']}" + (", after a 407" if client.challenge_first else "")


def check_certificate(world, client):
    """A certificate by somebody else is refused: it is verified indeed."""
    [answer] = client.run(world, USER, world.untrusted.url + "/")
    expect("error" in answer and re.search(r"(?i)certificate|CERT|PKIX|signed", answer["error"]), answer)
    expect(not world.untrusted.take(), answer)
    return answer["error"]


def check_wrong_password(world, client):
    """A wrong password, for a plain request and for a tunnel."""
    plain, tunnel = client.run(world, USER, WHOAMI, world.tls.url + "/", password="wrong")
    text = client.connect_407 if client.tunnels_http else client.http_407
    judge_error(plain, client.connect_error if client.tunnels_http else BODY, "auth_failed", 407, text)
    expect(not world.tls.take(), "a request at the origin")
    return judge_error(tunnel, client.connect_error, "auth_failed", 407, client.connect_407)


def check_error_body(world, client):
    """A country that is none: the answer to a plain request in full, and to a tunnel as it is shown."""
    plain, tunnel = client.run(world, "demo-country-swden", WHOAMI, world.tls.url + "/")
    text = client.connect_400 if client.tunnels_http else ""
    judge_error(plain, client.connect_error if client.tunnels_http else BODY, "no_such_country", 400, text)
    if "body" in plain:
        expect("did you mean se" in parsed(plain).get("hint", ""), plain)
    return judge_error(tunnel, client.connect_error, "no_such_country", 400, client.connect_400)


def check_keep_alive(world, client):
    """Requests one after the other share a tunnel, and a connection to the gateway."""
    secure = [f"{world.tls.url}/{number}" for number in range(REPEATED)]
    plain = [f"{world.plain.url}/{number}" for number in range(REPEATED)]
    answers = client.run(world, USER, *secure, *plain)
    seen, tunnels, requests = world.tap.take(), world.tls.take(), world.plain.take()
    expect([answer.get("status") for answer in answers] == [200] * 2 * REPEATED, answers)
    expect(len(tunnels) == REPEATED and len(set(tunnels)) <= client.connections, tunnels)
    target = world.tls.url.removeprefix("https://")
    asked = [head for heads in seen for head in heads if head["target"] == target and user_of(head)]
    expect(len(set(tunnels)) <= len(asked) <= len(set(tunnels)) + client.spare_tunnels, asked)
    target = world.plain.url.removeprefix("http://")
    used = [heads for heads in seen if any(target in head["target"] and user_of(head) for head in heads)]
    expect(len(requests) == REPEATED and len(used) <= client.connections, used)
    return f"{REPEATED} requests each: tunnels {len(asked)}, connections to the gateway {len(used)}"


def check_parameters(world, client):
    """A user with every parameter."""
    plain, tunnel = client.run(world, EVERY, WHOAMI, world.tls.url + "/every")
    expect(parsed(plain).get("server") == "us-nyc-wg-301", plain)
    expect(parsed(tunnel).get("path") == "/every", tunnel)
    return f"{len(EVERY)} characters"


def check_percent(world, client):
    """A user whose name is percent-encoded in the proxy's URL."""
    answer, = client.run(world, USER.replace("-", "%2D"), WHOAMI)
    if client.decodes_percent:
        expect(parsed(answer).get("country") == "Sweden", answer)
        return "decoded"
    expect("percent" in parsed(answer).get("hint", ""), answer)
    return "sent as it is"


def check_environment(world, client):
    """Which variables name the proxy, and that NO_PROXY goes around it."""
    # An address of this machine's: what goes around the proxy needs no resolver.
    direct = f"http://127.0.0.1:{world.plain.server_address[1]}/"
    for variables in (("http_proxy", "https_proxy"), ("HTTP_PROXY", "HTTPS_PROXY")):
        world.clear()
        followed = variables[0] in client.http_variables, variables[1] in client.https_variables
        urls = (WHOAMI if followed[0] else direct), (world.tls.url + "/" if followed[1] else direct)
        answers = client.run(world, USER, *urls, variables=variables)
        heads = [head for heads in world.tap.take() for head in heads]
        for follows, target, answer in zip(followed, ("whoami.test", NAME), answers):
            asked = [head for head in heads if target in head["target"]]
            expect(bool(asked) == follows, variables, heads)
            if client.variables_with_user or not follows:
                expect(answer.get("status") == 200, variables, answer)
            else:
                expect(answer.get("status") != 200 and not any(map(user_of, asked)), variables, answer)
    if client.http_variables:
        variables = [*client.http_variables, *client.https_variables]
        for spelling in ("no_proxy", "NO_PROXY"):
            # Nobody but the exits can resolve the name, so what goes around them fails.
            answer, = client.run(
                world, USER, world.plain.url + "/", variables=variables, environment={spelling: NAME}.items()
            )
            heads = [head for heads in world.tap.take() for head in heads if NAME in head["target"]]
            expect("error" in answer and not heads, spelling, answer, heads)
    followed = ", ".join((*client.http_variables, *client.https_variables)) or "none"
    return followed + ("" if client.variables_with_user else ", without user and password")


def check_udp(world, client):
    """WebRTC and QUIC, which know no HTTP proxy, are kept from going around it."""
    seen, = client.run(world, USER, command=client.udp)
    # With nothing against it packets come, or else this would prove nothing.
    expect(seen.get("webrtc", {}).get("open", 0) > 0 and seen["quic"]["open"] > 0, seen)
    expect(seen["webrtc"]["closed"] == seen["quic"]["closed"] == 0, seen)
    return "WebRTC: packets, none with the flag; QUIC: packets, none with a proxy"


CHECKS = {
    "http": check_http,
    "https": check_https,
    "certificate": check_certificate,
    "wrong-password": check_wrong_password,
    "error-body": check_error_body,
    "keep-alive": check_keep_alive,
    "parameters": check_parameters,
    "percent": check_percent,
    "environment": check_environment,
    "udp": check_udp,
}
