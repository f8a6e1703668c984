"""Runs the scripts: their help and dry runs, what they say to mistakes, and deploy.sh and undeploy.sh for good on
the real API server."""

import base64
import os
import re
import subprocess
import tempfile

from attacks import ROOT

NAMES = ["setup-kind-cluster", "build-and-load", "deploy", "undeploy", "test"]
# As the WireGuard tools print one: 32 bytes in base64.
PRIVATE_KEY = "aGVsbG8gd29ybGQsIHRoaXMgaXMgMzIgYnl0ZXMhISE="


def run(name, *arguments, **more):
    environment = dict(os.environ, **more)
    return subprocess.run([os.path.join(ROOT, f"scripts/{name}.sh"), *arguments], capture_output=True, text=True,
                          env=environment)


def without_a_cluster(check):
    """What needs neither a cluster nor the tools."""
    for name in NAMES:
        out = run(name, "--help")
        check(f"{name} --help", out.returncode == 0 and "--dry-run" in out.stdout and not out.stderr, out.stderr)
        # With nothing on PATH but what every system has.
        out = run(name, "--dry-run", PATH="/usr/bin:/bin", KUBECONFIG="/dev/null")
        check(f"{name} --dry-run", out.returncode == 0 and out.stdout.startswith(("+", "kind: Cluster")), out.stderr)
        out = run(name, "--bogus")
        check(f"{name} --bogus", out.returncode == 64 and f"{name}.sh --help" in out.stderr, out.stderr)
    out = run("deploy", "--dry-run", "--overlay", "production")
    check("production is deployed", "apply -k" in out.stdout and "overlays/production" in out.stdout, out.stdout)
    out = run("deploy", "--dry-run", "--overlay", "moon")
    check("there is no such overlay", out.returncode == 64 and "no overlay 'moon'" in out.stderr, out.stderr)
    out = run("test", "--user", "alice")
    check("a password is asked for", out.returncode == 64 and "GATEWAY_PASSWORD" in out.stderr, out.stderr)
    for name in [*NAMES, "build-static"]:
        lacks_a_value(name, check)
    addresses(check)
    out = run("deploy", "--context", "nowhere", KUBECONFIG="/dev/null")
    check("no cluster answers", out.returncode == 1 and "no cluster answers" in out.stderr, out.stderr)


def lacks_a_value(name, check):
    """Each option that takes a value, without one: at the end, before another option, and empty."""
    options = re.findall(r"^  (--[a-z-]+) [A-Z]", run(name, "--help").stdout, re.MULTILINE)
    check(f"{name} has options with values", options)
    for option in options:
        for rest in [], ["--dry-run"], [""]:
            out = run(name, option, *rest)
            check(f"{name} {option} {rest}", out.returncode == 64 and f"{name}.sh: {option} needs a" in out.stderr
                  and f"{name}.sh --help" in out.stderr, f"{out.returncode} {out.stderr}")


def addresses(check):
    """WireGuard addresses, which deploy.sh looks at before it does anything."""
    with tempfile.TemporaryDirectory() as directory:
        key, file = os.path.join(directory, "key"), os.path.join(directory, "addresses")
        with open(key, "w", encoding="utf-8") as out:
            out.write(PRIVATE_KEY)
        for text, good in [
            ("10.64.0.2/32", True), ("10.64.0.2/0", True), ("10.64.0.2/33", False), ("10.64.0.2/128", False),
            ("fc00:bbbb::2/128", True), ("fc00:bbbb::2/0", True), ("fc00:bbbb::2/129", False), ("::1/1000", False),
            (" 10.64.0.2/32, fc00:bbbb::2/128 \n", True), ("10.64.0.2/32,fc00:bbbb::2/129", False),
            ("10.64.0.256/32", False), ("10.64.0/24", False), ("10.64.0.2", False), ("10.64.0.2/", False),
            ("10.64.0.2/-1", False), ("10.64.0.2/032", False), ("10.64.0.2/32,", False), ("10.64.0.2/32\nhello", False),
        ]:
            with open(file, "w", encoding="utf-8") as out:
                out.write(text)
            out = run("deploy", "--dry-run", "--private-key", key, "--addresses", file, PATH="/usr/bin:/bin")
            taken = out.returncode == 0
            check(f"deploy with the addresses {text!r}",
                  taken == good and (good or "holds no WireGuard addresses" in out.stderr),
                  f"{out.returncode} {out.stderr}")


def on_the_server(cluster, kubectl, check):
    """deploy.sh and undeploy.sh, from nothing to nothing, and again."""
    namespace = "gluetun-system"
    more = {
        "KUBECONFIG": cluster.kubeconfig("deploy.kubeconfig", "manifests-admin", namespace),
        "PATH": os.path.dirname(kubectl) + os.pathsep + os.environ["PATH"],
    }
    key = cluster.write("key", PRIVATE_KEY + "\n")
    addresses = cluster.write("addresses", "10.64.0.2/32\n")
    users = cluster.write("some-users", "alice:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA\n")
    bad = cluster.write("bad", "hello\n")
    wanted = ["--private-key", key, "--addresses", addresses, "--users", users, "--no-wait"]

    def secrets():
        items = cluster.must("GET", f"/api/v1/namespaces/{namespace}/secrets")["items"]
        return {item["metadata"]["name"]: item for item in items}

    out = run("undeploy", "--overlay", "base", **more)
    check("undeploy what was applied", out.returncode == 0, out.stderr)
    for arguments, text in [
        (["--private-key", bad, "--addresses", addresses], "holds no WireGuard private key"),
        (["--private-key", key, "--addresses", bad], "holds no WireGuard addresses"),
        (["--private-key", key], "belong together"),
        (["--users", bad], "holds no account"),
        (["--users", "/nonexistent"], "is no file, or empty"),
        ([], "there is no Secret gluetun-wireguard-credentials yet"),
        (["--private-key", key, "--addresses", addresses], "there is no Secret gluetun-gateway-users yet"),
    ]:
        out = run("deploy", *arguments, **more)
        check(f"deploy: {text}", out.returncode != 0 and text in out.stderr, out.stderr)
    out = run("deploy", *wanted, **more)
    check("deploy from nothing", out.returncode == 0, out.stderr)
    stored = secrets()["gluetun-wireguard-credentials"]
    check("the key is stored as it is, without a newline",
          stored["data"]["wireguard-private-key"] == encode(PRIVATE_KEY), str(stored["data"].keys()))
    check("and nowhere else", "annotations" not in stored["metadata"])
    check("nothing of it was printed", PRIVATE_KEY not in out.stdout + out.stderr)
    before = versions(cluster, namespace)
    out = run("deploy", "--no-wait", **more)
    check("deploy once more", out.returncode == 0 and before == versions(cluster, namespace), out.stderr)
    out = run("deploy", "--no-wait", "--overlay", "production", **more)
    check("production wants a token", out.returncode != 0 and "wants a token" in out.stderr, out.stderr)
    token = cluster.write("token", "0123456789abcdef0123\n")
    out = run("deploy", "--no-wait", "--overlay", "production", "--admin-token", token, **more)
    check("and takes one", out.returncode == 0 and "gluetun-gateway-admin" in secrets(), out.stderr)
    for overlay in ("production", "kind", "kind"):
        out = run("undeploy", "--overlay", overlay, **more)
        check(f"undeploy {overlay}", out.returncode == 0, out.stderr)
    check("the Secrets stay", "gluetun-wireguard-credentials" in secrets())
    left = cluster.must("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    left += cluster.must("GET", path)["items"]
    left += [r for r in cluster.must("GET", f"/api/v1/namespaces/{namespace}/services")["items"]]
    check("nothing else does", not left, str([item["metadata"]["name"] for item in left]))
    out = run("deploy", "--no-wait", **more)
    check("deploy again", out.returncode == 0, out.stderr)


def versions(cluster, namespace):
    """Of the Secrets and of the Deployment, whose generation is that of its specification."""
    secrets = cluster.must("GET", f"/api/v1/namespaces/{namespace}/secrets")["items"]
    deployment = cluster.must("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/gluetun-gateway")
    return [(s["metadata"]["name"], s["metadata"]["resourceVersion"]) for s in secrets], \
        deployment["metadata"]["generation"]


def encode(text):
    return base64.b64encode(text.encode()).decode()
