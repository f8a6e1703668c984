"""Two replicas, and one version after the other under load."""

import statistics
import threading
import time

from clusters import ROOT
from client import Load, Stream
from exits import WHOAMI
from failures import stream
from kube import NAMESPACE, life, wait_for

#: How late a watch may tell of a deletion.
LAG = 0.5
#: Tunnels that go on for ever, and those that end by themselves within the drain.
ENDLESS, SHORT_SECONDS = 24, 8
CLIENTS = 4
USERS = ["alice-country-se", "alice-country-de"]


def two_replicas(suite):
    """The production overlay, as the deployment guide has it: its Secret first."""
    check = suite.report.check
    suite.kube.kubectl("-n", "gluetun-system", "create", "secret", "generic", "gluetun-gateway-admin",
                       f"--from-literal=token={suite.token}")
    suite.gather(*suite.kube.gateways())
    text = suite.kube.kubectl("kustomize", f"{ROOT}/tests/e2e/production")
    text = text.replace("192.0.2.1", suite.cluster.host)
    began = time.time()
    suite.kube.kubectl("apply", "-f", "-", input=text)
    # What it leaves out, `apply` does not take away.
    suite.kube.kubectl("-n", "gluetun-system", "delete", "service", "gluetun-k8s-api-nodeport")
    suite.wait_until_rolled_out()
    suite.report.time("one replica to two of overlays/production, until only they are there", time.time() - began)
    check("two gateways are ready", len(suite.kube.gateways()) == 2)
    private = suite.proxy.get("alice-country-se", f"http://{suite.cluster.host}:{suite.origin.port}/")
    check("ALLOW_DESTINATIONS lets a private address through", private.status == 200, f"{private}")
    leaders = [suite.kube.metrics(pod)["gluetun_gateway_leader"] for pod in suite.kube.gateways()]
    check("one of them leads", sorted(leaders) == [0, 1], str(leaders))


def rolling_update(suite):
    """Every request is answered, tunnels that end within the drain are whole, and none is cut before it is over."""
    check = suite.report.check
    for user in USERS:
        suite.proxy.get(user, WHOAMI)
    old = suite.kube.gateways()
    exits = {pod["metadata"]["uid"] for pod in suite.kube.exits()}
    endless = [stream(suite, USERS[n % len(USERS)]) for n in range(ENDLESS)]
    load = Load(suite.proxy, USERS, CLIENTS)
    short, over = [], threading.Event()

    def keep_opening():
        while not over.wait(0.5):
            tunnel = Stream(suite.proxy, USERS[len(short) % len(USERS)], SHORT_SECONDS)
            short.append(tunnel)
            tunnel.start()

    opener = threading.Thread(target=keep_opening, daemon=True)
    opener.start()
    suite.gather(*old)
    began = time.time()
    suite.roll_out()
    check("a rolling update of two replicas under load", True, seconds=time.time() - began)
    suite.report.time("a rolling update of two replicas, until the old ones are gone", time.time() - began)
    over.set()
    opener.join()
    for tunnel in endless + short:
        tunnel.join(60)
    load.stop()
    check(f"all of {len(load.answers)} requests meanwhile were answered", load.answers and not load.failed,
          "\n        ".join(map(str, load.failed[:10])))
    if load.answers:
        times = [answer.seconds for _, answer in load.answers]
        suite.report.time("a hit during the update: CONNECT and GET", *times)
        suite.report.time("  of those, 99 of 100 within", statistics.quantiles(times, n=100)[98])
        at, slowest = max(load.answers, key=lambda one: one[1].seconds)
        print(f"        the slowest: {slowest.seconds:.3f} s, {slowest.connected:.3f} of them until it was connected, "
              f"{at - began:.1f} s into the update", flush=True)
    torn = [tunnel for tunnel in short if not tunnel.whole]
    check(f"{len(short)} tunnels of {SHORT_SECONDS} s were whole", not torn, "\n        ".join(map(str, torn[:10])))
    cut_only_after_the_drain(suite, old, endless)
    after = {pod["metadata"]["uid"] for pod in suite.kube.exits()}
    check("no exit was lost or made", after == exits, f"{exits} {after}")


def cut_only_after_the_drain(suite, old, endless):
    """Each tunnel is in the log of the replica that had it, whose end began with its pod's deletion."""
    check = suite.report.check
    outcomes = {line["request_id"]: (pod, line["outcome"]) for pod, line in suite.logs.lines()
                if "request_id" in line and "outcome" in line}
    drained = {pod["metadata"]["name"]: [] for pod in old}
    for tunnel in endless:
        pod, outcome = outcomes.get(tunnel.request_id, (None, None))
        if pod not in drained or outcome != "cut":
            check("every endless tunnel was cut by the drain of an old replica", False, f"{tunnel}: {outcome} by {pod}")
            return
        drained[pod].append(tunnel.ended - life(suite.pods, pod)["deleting"])
    check("every endless tunnel was cut by the drain of an old replica", True)
    settings = suite.kube.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/gluetun-gateway-config")["data"]
    delay, drain = (int(settings[name].removesuffix("s")) for name in ("DRAIN_DELAY", "DRAIN_TIMEOUT"))
    for pod, seconds in drained.items():
        soonest = min(seconds, default=None)
        check(f"{len(seconds)} of them on {pod}, none before DRAIN_DELAY and DRAIN_TIMEOUT were over",
              seconds and soonest >= delay + drain - LAG, f"{seconds}", seconds=soonest)
    suite.report.time(f"DRAIN_DELAY {delay} s, DRAIN_TIMEOUT {drain} s: deletion of a replica to a cut",
                      *[second for seconds in drained.values() for second in seconds])
    gone = [life(suite.pods, pod).get("gone") for pod in drained]
    check("both old replicas are gone", all(gone), str(gone))
    wait_for("the sessions to be free", lambda: all(tunnel.ended for tunnel in endless))
