"""The clusters that the suite runs on, behind one interface: bring it up, give it an image, run a command in its
node, say where its NodePorts and this machine are, and take it away."""

import json
import os
import re
import signal
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(*command, **more):
    """A command that has to succeed: what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **more)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


class Node:
    """A node of its own on this machine, by the tool in the directory `tool`."""

    #: Where NodePorts answer, and this machine as its pods see it: the tool's README.
    node_ports, host = "172.31.255.2", "172.31.255.1"
    #: Whether what leaves a pod has the node's address outside.
    masquerades = False

    def __init__(self, tool):
        self.tool = tool
        self.state = os.environ.get("REAL_CLUSTER_STATE", "/run/real-cluster")

    @staticmethod
    def lacks():
        """Why such a node cannot be on this machine, whatever one does: None where it can."""
        if os.uname().sysname != "Linux":
            return "it needs Linux"
        if os.geteuid() != 0:
            return "it needs root, which makes namespaces, mounts and control groups"
        kind = subprocess.run(["stat", "-fc", "%T", "/sys/fs/cgroup"], capture_output=True, text=True).stdout.strip()
        if kind != "tmpfs":
            return f"it knows only control groups of version 1, and /sys/fs/cgroup is {kind or 'not there'}"
        return None

    def prepare(self):
        """Builds what `up` would build, at the lowest priority: minutes of it on a new machine."""
        build = subprocess.Popen(["nice", "-n", "19", os.path.join(self.tool, "build")], start_new_session=True)
        try:
            if build.wait():
                raise RuntimeError(f"{self.tool}/build ended with {build.returncode}")
        except BaseException:
            # Its compilers too: whoever waits for it has given up.
            os.killpg(build.pid, signal.SIGTERM)
            raise

    def up(self):
        return run(os.path.join(self.tool, "up")).strip()

    def path(self):
        """Where kubectl is."""
        return os.path.join(self.state, "bin")

    def load(self, image):
        command = [os.path.join(self.tool, "image"), image.name, image.root]
        for word in image.entrypoint:
            command += ["--entrypoint", word]
        for name, value in image.environment.items():
            command += ["--env", f"{name}={value}"]
        if image.user:
            command += ["--user", image.user]
        run(*command)

    def in_node(self, *command):
        with open(os.path.join(self.state, "node.pid"), encoding="utf-8") as file:
            pid = file.read().split()[0]
        return run("nsenter", "-t", pid, "-a", *command)

    def down(self):
        run(os.path.join(self.tool, "down"))


class Kind:
    """A kind cluster, made by the script that the quick start has for it."""

    node_ports = "127.0.0.1"
    masquerades = True

    def __init__(self, name):
        self.name = name
        self.kubeconfig = os.path.join(tempfile.gettempdir(), f"kind-{name}.kubeconfig")

    def up(self):
        run(os.path.join(ROOT, "scripts/setup-kind-cluster.sh"), "--name", self.name)
        with open(self.kubeconfig, "w", encoding="utf-8") as file:
            file.write(run("kind", "get", "kubeconfig", "--name", self.name))
        return self.kubeconfig

    def path(self):
        return ""

    @property
    def host(self):
        """The network's gateway, an IPv4 address among others."""
        settings = json.loads(run("docker", "network", "inspect", "kind"))[0]["IPAM"]["Config"]
        gateways = [setting.get("Gateway", "") for setting in settings]
        return next(gateway for gateway in gateways if re.fullmatch(r"[\d.]+", gateway))

    def load(self, image):
        lines = ["FROM scratch", "COPY . /", f"ENTRYPOINT {json.dumps(image.entrypoint)}"]
        lines += [f"ENV {name}={json.dumps(value)}" for name, value in image.environment.items()]
        lines += [f"USER {image.user}"] if image.user else []
        run("docker", "build", "--quiet", "--tag", image.name, "--file", "-", image.root, input="\n".join(lines))
        run("kind", "load", "docker-image", image.name, "--name", self.name)

    def in_node(self, *command):
        return run("docker", "exec", f"{self.name}-control-plane", *command)

    def down(self):
        run("kind", "delete", "cluster", "--name", self.name)
        if os.path.exists(self.kubeconfig):
            os.remove(self.kubeconfig)


#: Sends the signal $1 to the program that is called $2 in the pod whose UID is $3. A systemd driver writes the UID
#: with underscores.
SIGNAL = """
found=
for process in /proc/[0-9]*; do
    if grep -qE "$3|$(echo "$3" | tr - _)" "$process/cgroup" 2>/dev/null &&
        [ "$(tr '\\0' '\\n' <"$process/cmdline" | head -n 1)" = "$2" ]; then
        kill "-$1" "${process#/proc/}"
        found=1
    fi
done
[ -n "$found" ]
"""


def send_signal(cluster, pod, program, signal):
    """To the program of a pod's container, from the node: as the first process of a container it would not see a
    SIGKILL of its own."""
    cluster.in_node("sh", "-c", SIGNAL, "sh", signal, program, pod["metadata"]["uid"])
