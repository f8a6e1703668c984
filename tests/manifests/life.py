"""The gateway's whole life on the real API server, with the token of its own ServiceAccount: it starts, makes
exits, serves, fails, reaps and ends. What a kubelet and the Job controller would do is played here."""

import http.client
import http.server
import json
import os
import socketserver
import ssl
import subprocess
import threading
import time

from attacks import ROOT
from cluster import free_port, wait_for
from relay import Relay

MERGE = "application/merge-patch+json"
# Addresses of the played pods: on Linux all of 127.0.0.0/8 is this machine's.
ADDRESS = "127.57.0.{}"
# Where the Job's pods run. VPN pods are bound to no node: the API server then deletes them at once.
NODE = "played"
# How pods of a server fare: by the last digit of its host name in the server list below.
SERVERS = [
    {"vpn": "wireguard", "country": "Sweden", "city": "Malmö", "hostname": "se-mma-wg-001"},
    {"vpn": "wireguard", "country": "Germany", "city": "Berlin", "hostname": "de-ber-wg-002"},
    {"vpn": "wireguard", "country": "France", "city": "Paris", "hostname": "fr-par-wg-003"},
]
CRASHES, STUCK = "de-ber-wg-002", "fr-par-wg-003"


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class Health(http.server.BaseHTTPRequestHandler):
    """9999: always well."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Logs(http.server.BaseHTTPRequestHandler):
    """The kubelet's port: every log is the server list."""

    def do_GET(self):
        text = json.dumps(SERVERS).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Proxy(socketserver.StreamRequestHandler):
    """8888: takes a CONNECT, and answers itself whatever is asked through the tunnel."""

    def handle(self):
        if not self.head().startswith("CONNECT "):
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while self.head():
            body = self.server.server_address[0].encode()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def head(self):
        lines = []
        while True:
            try:
                line = self.rfile.readline().decode("latin-1")
            except ConnectionResetError:
                # The gateway has cut the tunnel.
                line = ""
            if line in ("\r\n", "\n", ""):
                return "".join(lines)
            lines.append(line)


class Kubelet:
    """Takes pods of the namespace through what their servers' names say."""

    def __init__(self, cluster, namespace):
        self.cluster, self.pods = cluster, f"/api/v1/namespaces/{namespace}/pods"
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.seen, self.servers, self.jobs_done = {}, [], set()
        self.add_node()
        self.ended = threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def add_node(self):
        """A node on which logs can be read, as the API server does it: by TLS, whose certificate it takes as it is."""
        key, certificate = self.cluster.at("kubelet.key"), self.cluster.at("kubelet.crt")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=played",
                        "-keyout", key, "-out", certificate], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        served = Server(("127.0.0.1", 0), Logs)
        served.socket = context.wrap_socket(served.socket, server_side=True)
        self.serve(served)
        self.cluster.must("POST", "/api/v1/nodes", {
            "metadata": {"name": NODE},
            "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                       "daemonEndpoints": {"kubeletEndpoint": {"Port": served.server_address[1]}}}})

    def serve(self, server):
        self.servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(self):
        try:
            while not self.ended.wait(0.1):
                for pod in self.cluster.must("GET", self.pods)["items"]:
                    if pod["metadata"]["uid"] not in self.seen:
                        self.seen[pod["metadata"]["uid"]] = pod
                        self.start(pod)
                for job in self.cluster.must("GET", self.jobs)["items"]:
                    if job["metadata"]["uid"] not in self.jobs_done:
                        self.jobs_done.add(job["metadata"]["uid"])
                        self.do_job(job)
        except (RuntimeError, OSError) as error:
            self.failure = error

    def start(self, pod):
        name = pod["metadata"]["name"]
        env = {e["name"]: e.get("value", "") for e in pod["spec"]["containers"][0].get("env", [])}
        server = env.get("SERVER_HOSTNAMES")
        container = pod["spec"]["containers"][0]["name"]
        status = {"name": container, "image": "x", "imageID": "x", "restartCount": 0}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if server is None or server == CRASHES:
            code = 0 if server is None else 1
            ended = {"exitCode": code, "reason": "Error" if code else "Completed",
                     "startedAt": now, "finishedAt": now}
            return self.status(name, "Failed" if code else "Succeeded", dict(
                status, ready=False, started=False, state={"terminated": ended}))
        if server == STUCK:
            return self.status(name, "Pending", dict(
                status, ready=False, started=False, state={"waiting": {"reason": "ContainerCreating"}}))
        address = ADDRESS.format(len(self.servers) // 2 + 1)
        for port, handler in ((9999, Health), (8888, Proxy)):
            self.serve(Server((address, port), handler))
        self.status(name, "Running", dict(status, ready=True, started=True, state={"running": {"startedAt": now}}),
                    address)

    def status(self, name, phase, container, address=None):
        status = {"phase": phase, "containerStatuses": [container],
                  "conditions": [{"type": "Ready", "status": "True" if container["ready"] else "False"}]}
        if address:
            status.update(podIP=address, podIPs=[{"ip": address}])
        # It may have been deleted meanwhile.
        self.cluster.request("PATCH", f"{self.pods}/{name}/status", {"status": status}, kind=MERGE)

    def do_job(self, job):
        """As the Job controller: the template's pod, with the Job's labels and as its owner; and that it is done."""
        meta, template = job["metadata"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"],
                 "controller": True, "blockOwnerDeletion": True}
        self.cluster.must("POST", self.pods, {
            "metadata": {"generateName": meta["name"] + "-", "labels": template["metadata"]["labels"],
                         "ownerReferences": [owner]},
            # As a scheduler would have bound it.
            "spec": {**template["spec"], "nodeName": NODE}})
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        done = [{"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now}
                for kind in ("SuccessCriteriaMet", "Complete")]
        self.cluster.must("PATCH", f"{self.jobs}/{meta['name']}/status", {"status": {
            "startTime": now, "completionTime": now, "succeeded": 1, "uncountedTerminatedPods": {},
            "conditions": done}}, kind=MERGE)

    def stop(self):
        self.ended.set()
        self.thread.join()
        for served in self.servers:
            served.shutdown()
            served.server_close()


class Life:
    """One gateway process."""

    def __init__(self, cluster, token, namespace, binary, check):
        self.cluster, self.namespace, self.binary, self.check = cluster, namespace, binary, check
        self.token = token
        self.proxy, self.admin = free_port(), free_port()
        self.leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        users = subprocess.run([binary, "hash-password", "--user", "alice"], input="secret\n", text=True,
                               capture_output=True, check=True).stdout
        config = cluster.must("GET", f"/api/v1/namespaces/{namespace}/configmaps/gluetun-gateway-config")["data"]
        self.environment = {
            "PATH": os.environ["PATH"],
            # What the Deployment gives it, and shorter times.
            **config,
            "KUBECONFIG": cluster.kubeconfig("gateway.kubeconfig", token, namespace),
            "K8S_NAMESPACE": namespace,
            "POD_NAME": "gluetun-gateway-0",
            "USERS_FILE": cluster.write("users", users),
            "PROXY_ADDR": f"127.0.0.1:{self.proxy}",
            "ADMIN_ADDR": f"127.0.0.1:{self.admin}",
            "IDLE_TIMEOUT": "4s",
            "DRAIN_DELAY": "0s",
            "DRAIN_TIMEOUT": "1s",
        }
        # Whether the gateway can fetch the list by itself.
        with open(os.path.join(ROOT, "docs/configuration.md"), encoding="utf-8") as file:
            self.fetches = "SERVERS_REFRESH" in file.read()
        self.list = cluster.write("servers.json", json.dumps(SERVERS))

    def __enter__(self):
        self.kubelet = Kubelet(self.cluster, self.namespace)
        self.process = None
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.kubelet.stop()

    def begin(self, **more):
        with open(self.cluster.at("gateway.log"), "a", encoding="utf-8") as log:
            self.process = subprocess.Popen([self.binary], env={**self.environment, **more},
                                            stdout=log, stderr=subprocess.STDOUT)

    def end(self):
        self.process.terminate()
        return self.process.wait(30)

    def ready(self):
        if self.process.poll() is not None:
            log = self.cluster.at("gateway.log")
            raise RuntimeError(f"the gateway ended with {self.process.returncode}: see {log}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def get(self, user, seconds=60):
        """A request through the proxy: status and body."""
        out = subprocess.run(
            ["curl", "-sS", "-m", str(seconds), "-o", "-", "-w", "\n%{http_code}", "-x",
             f"http://{user}:secret@127.0.0.1:{self.proxy}", "http://whoami.test/"],
            capture_output=True, text=True)
        body, _, code = out.stdout.rpartition("\n")
        return int(code or 0), body

    def run(self):
        if self.fetches:
            self.begin()
            wait_for("the server list's Job", lambda: self.kubelet.jobs_done)
            wait_for("the gateway", self.ready)
            kept = f"/api/v1/namespaces/{self.namespace}/configmaps/gluetun-gateway-servers"
            wait_for("the list to be kept", lambda: "binaryData" in self.cluster.must("GET", kept))
            self.check("the gateway ends in good order", self.end() == 0)
            # The list is lost, and the Job that is done is in the way of the next one.
            self.cluster.must("PATCH", kept, {"binaryData": None, "metadata": {"annotations": None}}, kind=MERGE)
            self.begin()
            wait_for("another Job", lambda: len(self.kubelet.jobs_done) > 1)
            wait_for("the list to be kept again", lambda: "binaryData" in self.cluster.must("GET", kept))
            self.check("the gateway ends in good order", self.end() == 0)
        self.begin(SERVERS_FILE_PATH=self.list)
        wait_for("the gateway", self.ready)
        status, body = self.get("alice-country-se")
        self.check("an exit, and a request through it", status == 200 and body.startswith("127.57."),
                   f"{status} {body}")
        status, body = self.get("alice-country-se")
        self.check("a second request", status == 200, f"{status} {body}")
        status, body = self.get("alice-country-de-wait-8s", 30)
        self.check("a pod that fails is told", status in (502, 503, 504) and "error" in body, f"{status} {body}")
        status, body = self.get("alice-country-fr-wait-6s", 30)
        self.check("a pod that is stuck is told", status in (502, 503, 504) and "error" in body, f"{status} {body}")
        wait_for("the idle sessions to end", self.is_empty, 60)
        status, _ = self.get("alice-country-se-session-orphan")
        self.check("an exit to be orphaned", status == 200, str(status))
        # Somebody deletes the claim, and what the leader's watch says of a pod is looked up before it goes.
        for lease in self.claims():
            self.cluster.must("DELETE", f"{self.leases}/{lease}")
        wait_for("the orphan to go", self.is_empty, 60)
        self.check("nothing is left", self.is_empty())
        self.check("the gateway ends in good order", self.end() == 0)
        # A restarted container takes its own Lease over; and the answer to the creation of a pod is lost.
        with Relay(self.cluster) as relay:
            through = self.cluster.kubeconfig("relay.kubeconfig", self.token, self.namespace, relay.url)
            self.begin(SERVERS_FILE_PATH=self.list, KUBECONFIG=through)
            wait_for("the gateway, again", self.ready)
            relay.lose_next()
            status, body = self.get("alice-country-se-session-lost")
            self.check("an exit whose creation was not answered", status == 200, f"{status} {body}")
            self.check("its answer was lost, and it was asked for", relay.lost == 1 and len(relay.asked) == 1,
                       f"{relay.lost} {relay.asked}")
            wait_for("that session to end", self.is_empty, 60)
            self.check("again, and it ends in good order", self.end() == 0)
        # What the gateway asks at its start: may it, and would its pods be let in?
        with open(self.cluster.at("gateway.log"), encoding="utf-8") as log:
            complaints = [line for line in log if '"preflight' in line and ('"WARN"' in line or '"ERROR"' in line)]
        self.check("the preflight finds nothing", not complaints, "".join(complaints))
        if self.kubelet.failure:
            raise self.kubelet.failure

    def claims(self):
        items = self.cluster.must("GET", self.leases)["items"]
        return [item["metadata"]["name"] for item in items if item["metadata"]["name"].startswith("gw-")]

    def is_empty(self):
        pods = self.cluster.must("GET", f"{self.pods}?labelSelector=app%3Dgluetun-vpn")["items"]
        return not pods and not self.claims()
