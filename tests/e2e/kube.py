"""The cluster's API through `kubectl proxy`, what happens in a namespace while it happens, and the logs of the
gateway's containers, which are gone with their pods otherwise."""

import json
import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

NAMESPACE = "gluetun-system"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"


def wait_for(what, condition, patience=60, pause=0.1):
    """Waits until `condition` returns something true, and returns that."""
    end = time.monotonic() + patience
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience} s in vain for {what}")
        time.sleep(pause)


class Kube:
    """An administrator. A context manager: `kubectl proxy` runs meanwhile."""

    def __init__(self, kubeconfig, path):
        self.environment = dict(os.environ, KUBECONFIG=kubeconfig, PATH=os.pathsep.join(filter(None, [path, os.environ["PATH"]])))

    def __enter__(self):
        self.proxy = subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True,
                                      env=self.environment)
        line = self.proxy.stdout.readline()
        self.url = "http://" + re.search(r"127\.0\.0\.1:\d+", line)[0]
        return self

    def __exit__(self, *_):
        self.proxy.kill()
        self.proxy.wait()

    def kubectl(self, *arguments, **more):
        """A command that has to succeed, and what it printed."""
        done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, env=self.environment, **more)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def open(self, path, method="GET", timeout=30):
        return urllib.request.urlopen(urllib.request.Request(self.url + path, method=method), timeout=timeout)

    def get(self, path):
        with self.open(path) as answer:
            return json.load(answer)

    def text(self, path):
        with self.open(path) as answer:
            return answer.read().decode()

    def items(self, path, labels=""):
        return self.get(f"{path}?labelSelector={labels}")["items"]

    def delete(self, path):
        with self.open(path, "DELETE") as answer:
            answer.read()

    def gateways(self):
        """The gateway's pods that are not on their way out."""
        pods = self.items(PODS, "app.kubernetes.io/name%3Dgluetun-gateway")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def exits(self):
        return self.items(PODS, "app%3Dgluetun-vpn")

    def claims(self):
        return [lease["metadata"]["name"] for lease in self.items(LEASES)
                if lease["metadata"]["name"].startswith("gw-")]

    def metrics(self, pod):
        """What a gateway's pod counts: {name with its labels: number}."""
        text = self.text(f"{PODS}/{pod['metadata']['name']}:8001/proxy/metrics")
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


class Watch(threading.Thread):
    """Everything that happens to the objects at a path from now on, with its time: `events` holds (time, type,
    object)."""

    def __init__(self, kube, path):
        super().__init__(daemon=True)
        self.kube, self.path, self.events = kube, path, []
        listed = kube.get(path)
        self.version = listed["metadata"]["resourceVersion"]
        self.start()

    def run(self):
        while True:
            try:
                query = f"{self.path}?watch=1&resourceVersion={self.version}"
                with self.kube.open(query, timeout=3600) as stream:
                    for line in stream:
                        event = json.loads(line)
                        self.version = event["object"]["metadata"]["resourceVersion"]
                        self.events.append((time.time(), event["type"], event["object"]))
            except (OSError, ValueError):
                # The server ends a watch now and then; the cluster's own end ends this thread's process.
                time.sleep(0.2)

    def first(self, name, condition):
        """When the object first was so, and what it was: (None, None) for never."""
        for at, kind, seen in list(self.events):
            if seen["metadata"]["name"] == name and condition(kind, seen):
                return at, seen
        return None, None

    def names(self, labels):
        """Of all objects that had these labels, in the order in which they came."""
        found = {}
        for _, _, seen in list(self.events):
            has = seen["metadata"].get("labels", {})
            if all(has.get(key) == value for key, value in labels.items()):
                found[seen["metadata"]["name"]] = None
        return list(found)


def state(pod, kind):
    """`running` or `terminated` of a pod's first container, if it is that."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    return statuses[0].get("state", {}).get(kind)


def condition(pod, kind):
    return any(c["type"] == kind and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


#: The steps of a pod's life, in order.
STEPS = {
    "created": lambda kind, pod: True,
    "scheduled": lambda kind, pod: condition(pod, "PodScheduled"),
    "running": lambda kind, pod: bool(state(pod, "running")) and bool(pod["status"].get("podIP")),
    "ready": lambda kind, pod: condition(pod, "Ready"),
    "ended": lambda kind, pod: bool(state(pod, "terminated")),
    "deleting": lambda kind, pod: "deletionTimestamp" in pod["metadata"],
    "gone": lambda kind, pod: kind == "DELETED",
}


def life(watch, name):
    """When a pod came to each step of its life: {step: time}, without those that it did not."""
    times = {step: watch.first(name, condition)[0] for step, condition in STEPS.items()}
    return {step: at for step, at in times.items() if at is not None}


class Logs(threading.Thread):
    """Follows the logs of all gateway containers into files of a directory, from their start to their end."""

    def __init__(self, kube, pods, directory):
        super().__init__(daemon=True)
        self.kube, self.pods, self.directory, self.followed = kube, pods, directory, set()
        self.start()

    def run(self):
        while True:
            for _, _, pod in list(self.pods.events):
                name = pod["metadata"]["name"]
                if name.startswith("gluetun-gateway-") and state(pod, "running"):
                    start = (name, pod["status"]["containerStatuses"][0]["restartCount"])
                    if start not in self.followed and pod["metadata"]["labels"].get("app.kubernetes.io/component") == "gateway":
                        self.followed.add(start)
                        threading.Thread(target=self.follow, args=start, daemon=True).start()
            time.sleep(0.1)

    def follow(self, name, restarts):
        try:
            with self.kube.open(f"{PODS}/{name}/log?container=gateway&follow=true", timeout=3600) as stream, \
                    open(os.path.join(self.directory, f"{name}.{restarts}.log"), "wb") as file:
                for line in stream:
                    file.write(line)
                    file.flush()
        except OSError as error:
            print(f"        the log of {name} is not followed: {error}", flush=True)

    def lines(self):
        """All of them: (pod's name, line as an object)."""
        for file in sorted(os.listdir(self.directory)):
            with open(os.path.join(self.directory, file), encoding="utf-8") as text:
                for line in text:
                    try:
                        yield file.split(".")[0], json.loads(line)
                    except ValueError:
                        # The last one of a container that was killed.
                        continue
