"""A real kube-apiserver and etcd for the length of a test, with what a cluster has on: RBAC, Pod Security,
ServiceAccount admission, ValidatingAdmissionPolicy, and an audit log. And requests to it as anybody.

There is no controller manager, scheduler or kubelet: a test makes what it needs of those.
"""

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ADMIN = "manifests-admin"
AUDIT_POLICY = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
"""


def wait_for(what, condition, patience=60):
    """Waits until `condition` returns something true, and returns that."""
    end = time.monotonic() + patience
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience} s in vain for {what}")
        time.sleep(0.1)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Cluster:
    """The servers. A context manager: they end with it, and what they wrote goes, unless it tells of a failure."""

    def __init__(self, assets):
        self.assets = assets
        self.dir = tempfile.mkdtemp(prefix="manifests-")
        self.processes = []
        self.keep = False
        self.audit_log = self.at("audit.log")

    def at(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.at(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.at(name)

    def spawn(self, name, *arguments):
        log = open(self.at(name + ".log"), "w", encoding="utf-8")
        command = [os.path.join(self.assets, name), *arguments]
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

    def __enter__(self):
        client, peer, self.port = free_port(), free_port(), free_port()
        subprocess.run(["openssl", "genrsa", "-out", self.at("sa.key"), "2048"], check=True, capture_output=True)
        self.spawn(
            "etcd",
            "--data-dir", self.at("etcd"),
            "--listen-client-urls", f"http://127.0.0.1:{client}",
            "--advertise-client-urls", f"http://127.0.0.1:{client}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-cluster", f"default=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        self.spawn(
            "kube-apiserver",
            "--etcd-servers", f"http://127.0.0.1:{client}",
            "--cert-dir", self.at("certs"),
            "--bind-address", "127.0.0.1",
            "--secure-port", str(self.port),
            "--advertise-address", "127.0.0.1",
            "--service-cluster-ip-range", "10.0.0.0/24",
            "--authorization-mode", "RBAC",
            "--token-auth-file", self.write("tokens.csv", f"{ADMIN},admin,admin,system:masters\n"),
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-account-key-file", self.at("sa.key"),
            "--service-account-signing-key-file", self.at("sa.key"),
            "--allow-privileged=true",
            "--audit-policy-file", self.write("audit.yaml", AUDIT_POLICY),
            "--audit-log-path", self.audit_log,
        )
        self.context = ssl.create_default_context()
        # Its certificate is its own, and new; the connection never leaves this machine.
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        try:
            wait_for("kube-apiserver", self.ready, 180)
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def ready(self):
        for process in self.processes:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args[0]} ended with {process.returncode}: see {self.dir}")
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def __exit__(self, kind=None, *_):
        # The data is thrown away, and a kube-apiserver whose etcd is gone takes a minute to end by itself.
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        if kind is None and not self.keep:
            shutil.rmtree(self.dir)
        else:
            print(f"logs are in {self.dir}")

    def request(self, method, path, body=None, token=ADMIN, kind="application/json"):
        """One request, with a text as it is or anything else as JSON: its status and the body, read as JSON where it
        is."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode(errors="replace")

    def must(self, method, path, body=None, token=ADMIN, kind="application/json"):
        """The same, for what has to succeed."""
        status, answer = self.request(method, path, body, token, kind)
        if not 200 <= status < 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    def kubeconfig(self, name, token, namespace, server=None):
        """A kubeconfig for that token: the file's path. `server` where it is not to talk to this one itself."""
        with open(self.at("certs/apiserver.crt"), "rb") as file:
            authority = base64.b64encode(file.read()).decode()
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority-data": authority}
        return self.write(name, json.dumps({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server} if server else cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {
                "cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }))

    def service_account_token(self, namespace, name):
        """A token of a ServiceAccount, as its pod would get one."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return self.must("POST", path, request)["status"]["token"]
