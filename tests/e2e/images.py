"""What the images of the suite consist of: the gateway's, as the Dockerfile describes it; the look-alike of
Gluetun, under the name that the manifests ask for; and a client."""

import dataclasses
import json
import os
import re
import shutil
import subprocess

from clusters import ROOT, run

#: From exec to healthy. Gluetun itself takes 0.5 to 0.8 s of a start under the manifests' CPU limit.
LOOKALIKE_START = "830ms"


@dataclasses.dataclass
class Image:
    """A root file system in a directory, and how it is run."""

    name: str
    root: str
    entrypoint: list
    user: str = ""
    environment: dict = dataclasses.field(default_factory=dict)


def gluetun_image():
    """The image of the VPN pods, by the manifests."""
    with open(os.path.join(ROOT, "k8s/03-configmap.yaml"), encoding="utf-8") as file:
        return re.search(r"^  GLUETUN_IMAGE: (\S+)$", file.read(), re.M)[1]


def place(program, root, name):
    """Puts a program into a root file system, without what is only for a debugger, and with the shared libraries that
    it needs, if any."""
    target = os.path.join(root, name)
    os.makedirs(root, exist_ok=True)
    if subprocess.run(["strip", "-o", target, program], capture_output=True).returncode:
        shutil.copy(program, target)
    shown = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    for library in (word for word in shown.split() if word.startswith("/")):
        into = os.path.join(root, library.lstrip("/"))
        os.makedirs(os.path.dirname(into), exist_ok=True)
        shutil.copy(os.path.realpath(library), into)
    os.chmod(target, 0o755)
    return os.path.getsize(target)


def gateway(program, work):
    """As the Dockerfile's last stage has it."""
    with open(os.path.join(ROOT, "Dockerfile"), encoding="utf-8") as file:
        text = file.read()
    entrypoint = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", text, re.M)[1])
    user = re.search(r"^USER (\S+)$", text, re.M)[1]
    image = Image("gluetun-gateway:dev", os.path.join(work, "gateway"), entrypoint, user)
    place(program, image.root, os.path.basename(entrypoint[0]))
    return image


def lookalike(program, work, hosts):
    """`hosts` are names that it dials elsewhere: {name: address}."""
    image = Image(gluetun_image(), os.path.join(work, "lookalike"), ["/gluetun-entrypoint"], environment={
        "LOOKALIKE_START": LOOKALIKE_START,
        "LOOKALIKE_HOSTS": ",".join(f"{name}={address}" for name, address in hosts.items()),
    })
    place(program, image.root, "gluetun-entrypoint")
    return image


def client(work):
    """curl, from this machine."""
    image = Image("e2e-client:dev", os.path.join(work, "client"), ["/curl"])
    place(shutil.which("curl"), image.root, "curl")
    os.makedirs(os.path.join(image.root, "tmp"), exist_ok=True)
    return image


def program(given):
    """The program with the embedded cluster, whose look-alike is packed: `given`, or what cargo builds."""
    if given:
        return os.path.abspath(given)
    messages = run("cargo", "build", "--locked", "--quiet", "--bin", "gluetun-gateway", "--message-format=json", cwd=ROOT)
    built = [json.loads(line) for line in messages.splitlines()]
    return next(message["executable"] for message in built if message.get("executable"))
