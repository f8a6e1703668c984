"""What goes wrong: a pod that is deleted, one that is killed for its memory, a gateway that is killed, an image that is
missing. What the client is told, and how soon it goes on."""

import json
import time

from clusters import send_signal
from client import Stream
from exits import WHOAMI
from kube import PODS, life, state, wait_for


def stream(suite, user, seconds=600):
    """A tunnel that flows."""
    tunnel = Stream(suite.proxy, user, seconds)
    tunnel.start()
    tunnel.flows.wait(60)
    if tunnel.ended:
        raise RuntimeError(f"the tunnel did not get there: {tunnel}")
    return tunnel


def deleted_pod(suite):
    """Somebody deletes an exit under a tunnel."""
    check, user = suite.report.check, "alice-country-se"
    tunnel = stream(suite, user)
    pod = suite.proxy.get(user, WHOAMI).json()["pod"]
    began = time.time()
    suite.kube.delete(f"{PODS}/{pod}")
    tunnel.join(30)
    check("a tunnel through a deleted pod ends", tunnel.ended is not None and not tunnel.whole, str(tunnel),
          seconds=(tunnel.ended or time.time()) - began)
    answer = suite.proxy.get(user, WHOAMI)
    check("the next request gets another exit", answer.status == 200 and answer.json()["pod"] != pod, f"{answer}",
          seconds=answer.seconds)
    suite.report.time("a pod deleted: until the next request is answered", time.time() - began)


def out_of_memory(suite):
    """An exit takes more memory than its limit. It has to be the kernel that kills it."""
    check, user = suite.report.check, "alice-country-se"
    tunnel = stream(suite, user)
    pod = suite.kube.get(f"{PODS}/{suite.proxy.get(user, WHOAMI).json()['pod']}")
    name, began = pod["metadata"]["name"], time.time()
    send_signal(suite.cluster, pod, "/gluetun-entrypoint", "USR1")
    at, seen = wait_for("the kernel to kill it", lambda: killed(suite, name))
    ended = state(seen, "terminated")
    check("a pod beyond its memory limit is killed", ended["reason"] == "OOMKilled" and ended["exitCode"] == 137,
          json.dumps(ended), seconds=at - began)
    tunnel.join(30)
    check("its tunnel ends", tunnel.ended is not None and not tunnel.whole, str(tunnel))
    answer = suite.proxy.get(user, WHOAMI)
    check("the next request gets another exit", answer.status == 200 and answer.json()["pod"] != name, f"{answer}",
          seconds=answer.seconds)
    suite.report.time("a pod killed for its memory: until the next request is answered", time.time() - at)
    wait_for("the dead pod to be removed", lambda: "gone" in life(suite.pods, name))
    told = [line for _, line in suite.logs.lines() if name in json.dumps(line) and "out_of_memory" in json.dumps(line)]
    check("the log names the reason", told, f"no line about {name} has out_of_memory")


def killed(suite, name):
    at, pod = suite.pods.first(name, lambda kind, pod: bool(state(pod, "terminated")))
    return at and (at, pod)


def killed_gateway(suite):
    """kill -9 of the only gateway, with sessions and a tunnel."""
    check, user = suite.report.check, "alice-country-se"
    before = suite.proxy.get(user, WHOAMI).json()["pod"]
    exits = {pod["metadata"]["uid"] for pod in suite.kube.exits()}
    gateway = suite.kube.gateways()[0]
    suite.gather(gateway)
    tunnel = stream(suite, user)
    began = time.time()
    send_signal(suite.cluster, gateway, "/gluetun-gateway", "KILL")
    tunnel.join(30)
    check("kill -9 of the gateway ends its tunnels", tunnel.ended is not None and not tunnel.whole, str(tunnel),
          seconds=(tunnel.ended or time.time()) - began)

    def answered():
        try:
            return suite.proxy.get(user, WHOAMI, patience=30)
        except OSError:
            return None

    answer = wait_for("the gateway to be back", answered, 90)
    took = time.time() - began
    check("its container is started again and serves", answer.status == 200, f"{answer}", seconds=took)
    suite.report.time("kill -9 of the only gateway: until the next request is answered", took)
    check("with the same exit", answer.json()["pod"] == before, f"{before} {answer}")
    after = {pod["metadata"]["uid"] for pod in suite.kube.exits()}
    check("no exit was lost or made", after == exits, f"{exits} {after}")
    restarts = suite.kube.gateways()[0]["status"]["containerStatuses"][0]
    check("it was killed, once", restarts["restartCount"] == 1
          and restarts["lastState"]["terminated"]["exitCode"] == 137, json.dumps(restarts))


def missing_image(suite):
    """An image that no registry has."""
    check = suite.report.check
    image = suite.image.partition(":")[0] + ":v0.0.0-missing"
    patch = json.dumps({"data": {"GLUETUN_IMAGE": image}})
    suite.kube.kubectl("-n", "gluetun-system", "patch", "configmap", "gluetun-gateway-config", "-p", patch)
    suite.roll_out()
    answer = suite.proxy.get("alice-country-pl", WHOAMI)
    said = answer.json()
    check("a missing image is told: start_failed, image_pull", answer.status == 502
          and said["error"] == "start_failed" and said["message"].startswith("image_pull"), f"{answer}",
          seconds=answer.seconds)
    print(f"        {answer.body.strip()}", flush=True)
    suite.report.time("a missing image: until the client is told", answer.seconds)
    again = suite.proxy.get("alice-country-fi", WHOAMI)
    check("and starts rest: start_backoff, with a time to come back", again.status == 503
          and again.json()["error"] == "start_backoff" and "image_pull" in again.json()["message"]
          and "retry-after" in again.headers, f"{again}", seconds=again.seconds)
    hit = suite.proxy.get("alice-country-se", WHOAMI)
    check("sessions with an exit notice nothing", hit.status == 200, f"{hit}", seconds=hit.seconds)
