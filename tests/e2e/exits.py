"""What the gateway is for: exits through the Service from a pod and from this machine, cold and warm, idle ones that
go, the server list's Job, `/start` to `/destroy`."""

import calendar
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

from clusters import ROOT
from kube import JOBS, PODS, life, state, wait_for

WHOAMI = "http://whoami.test/"
#: The account, and what it is asked for: a session that nobody uses again.
IDLE_USER = "alice-country-no-idle-30s"
ADMIN_PORT, PROXY_PORT = 30801, 30800
#: More cold starts than the two that show that it works.
STARTS = 6


def admin(suite, method, path, sent=None):
    """A request to the admin port by its NodePort: status, and the body as JSON."""
    request = urllib.request.Request(
        f"http://{suite.cluster.node_ports}:{ADMIN_PORT}{path}", method=method,
        data=None if sent is None else json.dumps(sent).encode(), headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    return status, json.loads(text)


def server_list(suite):
    """The Job has run by itself. Its removal is looked at by `job_is_gone`, half a minute later."""
    check = suite.report.check
    wait_for("a list from the Job", lambda: admin(suite, "GET", "/health")[1].get("servers_source") == "job")
    health = admin(suite, "GET", "/health")[1]
    check("the list that the Job has printed is in use", health["servers_count"] == suite.servers, str(health))
    kept = "/api/v1/namespaces/gluetun-system/configmaps/gluetun-gateway-servers"
    wait_for("the list to be kept", lambda: "servers.json.gz" in suite.kube.get(kept).get("binaryData", {}))
    check("and is kept in its ConfigMap", True)
    name = suite.pods.names({"app.kubernetes.io/component": "server-list"})[0]
    created = life(suite.pods, name)["created"]
    ended, pod = wait_for("the Job's pod to end", lambda: ended_pod(suite, name))
    check("its pod ended with code 0", state(pod, "terminated")["exitCode"] == 0, str(pod["status"]))
    suite.report.time("the server list's Job: pod created to container ended", ended - created)


def ended_pod(suite, name):
    at, pod = suite.pods.first(name, lambda kind, pod: bool(state(pod, "terminated")))
    return at and (at, pod)


def job_is_gone(suite):
    """30 s after its end."""
    def complete(kind, job):
        return any(c["type"] == "Complete" and c["status"] == "True" for c in job["status"].get("conditions", []))

    name = "gluetun-gateway-servers"
    _, job = wait_for("the Job to be complete", lambda: present(suite.jobs.first(name, complete)))
    # By the server's clock, which is this machine's, and in whole seconds.
    done = calendar.timegm(time.strptime(job["status"]["completionTime"], "%Y-%m-%dT%H:%M:%SZ"))
    gone, _ = wait_for("the Job to go", lambda: present(suite.jobs.first(name, lambda kind, _: kind == "DELETED")))
    suite.report.check("the Job goes 30 s after its end", 30 <= gone - done <= 60, f"{gone - done:.1f} s",
                       seconds=gone - done)
    left = suite.kube.items(PODS, "app.kubernetes.io/component%3Dserver-list") + suite.kube.items(JOBS)
    suite.report.check("and nothing of it is left", not left, str(left))


def present(found):
    return found[0] and found


def from_this_machine(suite):
    """By the NodePort: a cold start, then hits."""
    check, proxy = suite.report.check, suite.proxy
    user = "alice-country-se"
    answer = cold_start(suite, "first, NodePort", user)
    pod = answer.json()["pod"]
    exits = {item["metadata"]["name"]: item for item in suite.kube.exits()}
    check("the first request waits for its exit", answer.status == 200 and pod in exits, f"{answer}",
          seconds=answer.seconds)
    check("which is in Sweden", answer.json()["country"] == "Sweden", answer.body)
    origin = proxy.get(user, "http://origin.test/")
    status = exits[pod]["status"]
    seen = status["hostIP"] if suite.cluster.masquerades else status["podIP"]
    check("a server elsewhere sees the pod's address", origin.status == 200 and origin.json()["peer"] == seen,
          f"{origin}")
    hits = [proxy.get(user, WHOAMI) for _ in range(20)]
    same = all(hit.status == 200 and hit.json()["pod"] == pod for hit in hits)
    check("twenty more get the same exit", same, str([hit.body for hit in hits]))
    suite.report.time("a hit: CONNECT and GET, NodePort", *[hit.seconds for hit in hits])
    plain = [proxy.get(user, WHOAMI, absolute=True) for _ in range(20)]
    check("and in absolute form", all(hit.status == 200 and hit.json()["pod"] == pod for hit in plain))
    suite.report.time("a hit: absolute form, NodePort", *[hit.seconds for hit in plain])
    wrong = proxy.get("alice:wrong", WHOAMI)
    check("a wrong password is refused", wrong.status == 407, f"{wrong}")
    private = proxy.get(user, f"http://{suite.cluster.host}:{suite.origin.port}/")
    check("a private address is refused", private.status == 403 and "destination_denied" in private.body, f"{private}")
    # Used by nobody from here on: `idle_is_reaped` looks at it.
    idle = proxy.get(IDLE_USER, WHOAMI)
    suite.idle = (idle.json()["pod"], time.time())
    check("another place is another exit", idle.status == 200 and idle.json()["country"] == "Norway"
          and idle.json()["pod"] != pod, f"{idle}", seconds=idle.seconds)


def cold_start(suite, place, user, ask=None):
    """A request that has no exit yet; its steps are kept."""
    asked = time.time()
    answer = (ask or suite.proxy.get)(user, WHOAMI)
    if answer.status == 200:
        pod = answer.json()["pod"]
        wait_for("the kubelet to find it ready", lambda: "ready" in life(suite.pods, pod), 30)
        suite.report.start(place, asked, life(suite.pods, pod), answer.seconds)
    return answer


def client_pod(suite, name, *arguments):
    """curl in a pod of the namespace `default`, to its end: its exit code, and what it printed."""
    path = "/api/v1/namespaces/default/pods"
    manifest = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": "curl", "image": suite.client.name, "imagePullPolicy": "Never", "args": list(arguments)}]}}
    suite.kube.kubectl("apply", "-f", "-", input=json.dumps(manifest))

    def ended():
        return state(suite.kube.get(f"{path}/{name}"), "terminated")

    code = wait_for(f"the pod {name} to end", ended, 150)["exitCode"]
    text = suite.kube.text(f"{path}/{name}/log")
    suite.kube.delete(f"{path}/{name}?gracePeriodSeconds=0")
    return code, text


def from_a_pod(suite):
    """By the Service's name, as the quick start has it."""
    suite.kube.kubectl("label", "namespace", "default", "gluetun-gateway/proxy=allowed", "--overwrite")
    proxy = f"http://alice-country-de:{suite.password}@gluetun-gateway.gluetun-system:8080"
    wanted = ["-sS", "-m", "120", "-p", "-x", proxy, "-w", "\n%{time_total}\n", WHOAMI]
    code, text = client_pod(suite, "e2e-cold", *wanted)
    body, _, seconds = text.strip().rpartition("\n")
    suite.report.check("a client pod gets an exit by the Service's name", code == 0 and '"country":"Germany"' in body,
                       f"{code} {text}", seconds=float(seconds or 0))
    suite.report.time("a cold start, as a pod's curl sees it", float(seconds or 0))
    code, again = client_pod(suite, "e2e-warm", *wanted)
    body_again, _, seconds = again.strip().rpartition("\n")
    suite.report.check("and another client pod the same one", code == 0 and body_again == body, f"{code} {again}",
                       seconds=float(seconds or 0))
    suite.report.time("a hit, as a pod's curl sees it (with the name)", float(seconds or 0))


def start_and_destroy(suite):
    """The original system's way, by its NodePort, and the script that tries an installation."""
    check = suite.report.check
    began = time.monotonic()
    status, made = admin(suite, "POST", "/start", {"country": "Switzerland"})
    check("/start answers when its pod is up", status == 200 and made["pod_name"], f"{status} {made}",
          seconds=time.monotonic() - began)
    suite.report.time("POST /start", time.monotonic() - began)
    listed = admin(suite, "GET", "/status")[1]
    check("/status shows it", listed.get(made["id"], {}).get("status") == "running", str(listed))
    service = suite.kube.get("/api/v1/namespaces/gluetun-system/services/gluetun-gateway")
    check("its answer names the Service", made["service_cluster_ip"] == service["spec"]["clusterIP"]
          and made["service_port"] == 8080, str(made))
    code, text = client_pod(suite, "e2e-start", "-sS", "-m", "30", "-x", made["service_url"], WHOAMI)
    check("a client pod uses service_url", code == 0 and made["pod_name"] in text, f"{code} {text}")
    began = time.time()
    status, said = admin(suite, "POST", "/destroy", {"id": made["id"]})
    check("/destroy", status == 200, f"{status} {said}", seconds=time.time() - began)
    check("/status shows it no more", made["id"] not in admin(suite, "GET", "/status")[1])
    pair = f"{made['username']}:{made['password']}"
    refused = suite.proxy.get(pair, WHOAMI)
    check("its credentials are refused", refused.status == 407, f"{refused}")
    wait_for("the pod to go", lambda: "gone" in life(suite.pods, made["pod_name"]))
    suite.report.time("POST /destroy until the pod is gone", life(suite.pods, made["pod_name"])["gone"] - began)
    tried = subprocess.run(
        [os.path.join(ROOT, "scripts/test.sh"), "--admin-url", f"http://{suite.cluster.node_ports}:{ADMIN_PORT}",
         "--proxy-url", f"http://{suite.cluster.node_ports}:{PROXY_PORT}", "--user", "alice-country-se",
         "--target", WHOAMI, "--start"], capture_output=True, text=True,
        env=dict(os.environ, GATEWAY_PASSWORD=suite.password))
    check("scripts/test.sh finds all well", tried.returncode == 0, tried.stdout + tried.stderr)


def cold_starts(suite):
    """One after the other, each with an exit of its own that goes before the next."""
    wait_for("room", lambda: len(suite.kube.exits()) <= 3)
    stops = []
    for number in range(1, STARTS + 1):
        answer = cold_start(suite, f"one of {STARTS}, NodePort", f"alice-country-nl-session-cold{number}")
        suite.report.check(f"cold start {number} of {STARTS}", answer.status == 200, f"{answer}",
                           seconds=answer.seconds)
        pod, began = answer.json()["pod"], time.time()
        claim = suite.kube.get(f"{PODS}/{pod}")["metadata"]["annotations"]["gluetun-gateway/claim"]
        status, said = admin(suite, "DELETE", f"/v1/sessions/{claim}")
        suite.report.check(f"and its end, {number} of {STARTS}", status == 200, f"{status} {said}")
        wait_for("the pod to go", lambda name=pod: "gone" in life(suite.pods, name))
        stops.append(life(suite.pods, pod)["gone"] - began)
    suite.report.time("a session ended by DELETE until its pod is gone", *stops)


def idle_is_reaped(suite):
    """The session that nobody has used since `from_this_machine`."""
    pod, left = suite.idle
    _, made = suite.pods.first(pod, lambda kind, _: True)
    claim = made["metadata"]["annotations"]["gluetun-gateway/claim"]
    gone, _ = wait_for("the idle session to end", lambda: present(
        suite.leases.first(claim, lambda kind, _: kind == "DELETED")), 90)
    suite.report.check("a session that is idle for 30 s ends", 29.5 <= gone - left <= 45, f"after {gone - left:.1f} s",
                       seconds=gone - left)
    suite.report.time("idle=30s: last use until the session's end", gone - left)
    wait_for("its exit to go", lambda: not [item for item in suite.kube.exits() if claim in json.dumps(item)])
    suite.report.check("and its exit with it", True)
