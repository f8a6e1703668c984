"""The clients: how each is run, and what it does in a way of its own. Every trait is measured by a check,
and the table of docs/clients.md is made from them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: How long one run of a client may take, in seconds: longer than any of its own limits.
LIMIT = 150

#: What a client has of the environment: nothing that names a proxy or certificates of the machine's own.
KEPT = ("PATH", "LANG", "TMPDIR", "JAVA_HOME", "CHROMIUM", "PYTHONDONTWRITEBYTECODE")

#: What a client shows of an error of the gateway's.
BODY = "the whole answer"
CODE = "status and `X-Gateway-Error`"
STATUS = "the status"
TEXT = "the status text only"
NOTHING = "neither status nor body"


@dataclass(frozen=True)
class Client:
    """One client. The defaults are what most of them do."""

    name: str
    family: str
    command: tuple
    #: Sends credentials only after a 407.
    challenge_first: bool = False
    #: Uses CONNECT for http:// too.
    tunnels_http: bool = False
    #: Takes percent sequences in the user of a proxy's URL for what they mean.
    decodes_percent: bool = True
    #: What is shown of a refused CONNECT, and how a 407 and a 400 read.
    connect_error: str = NOTHING
    connect_407: str = ""
    connect_400: str = ""
    #: What is shown of a 407 to a plain request, where that is not the whole answer.
    http_407: str = ""
    #: Variables that it follows for http:// and https://, spelled as it wants them.
    http_variables: tuple = ("http_proxy", "HTTP_PROXY")
    https_variables: tuple = ("https_proxy", "HTTPS_PROXY")
    #: Takes user and password from these variables as well.
    variables_with_user: bool = True
    #: After how many seconds it gives up on a CONNECT by itself, with nothing set; `None` for longer than
    #: the gateway holds a request.
    gives_up: int | None = None
    #: Programs of its own beside the client: `udp` counts packets that go around the proxy.
    udp: tuple = ()
    #: Connections that it makes at most for requests one after the other.
    connections: int = 1
    #: Tunnels that it may open beside those that it uses.
    spare_tunnels: int = 0

    def run(self, world, user, *urls, password="demo", variables=None, environment=(), command=None):
        """What the client tells of each URL: `{"status", "body"}` or `{"error", "code"}`. With
        `variables` the proxy is told by these variables of the environment instead. Another command of
        the client's may print something else."""
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        proxy = f"http://{user}:{password}@{world.tap.address}"
        env.update({"CLIENT_CA": world.ca, **dict(environment)})
        if variables is None:
            env["CLIENT_PROXY"] = proxy
        else:
            env.update({name: proxy for name in variables})
        env.update(world.environment)
        program = [part.format(cache=world.cache, here=HERE) for part in command or self.command]
        try:
            run = subprocess.run(
                [*program, *urls], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                timeout=LIMIT, check=False,
            )
        except subprocess.TimeoutExpired as error:
            return [{"error": f"harness: no end within {LIMIT} s: {error.stderr}", "code": None}]
        answers = [json.loads(line) for line in run.stdout.splitlines()]
        if len(answers) != (1 if command else len(urls)):
            return [{"error": f"harness: exit code {run.returncode}: {run.stderr[-2000:]}", "code": None}]
        return answers


def python(name, **traits):
    return Client(name, "python", (sys.executable, f"{{here}}/python/{name}_client.py"), **traits)


def node(name, **traits):
    return Client(name, "node", ("node", f"{{cache}}/node/{name}.mjs"), **traits)


CLIENTS = (
    Client(
        "curl", "curl", (sys.executable, "{here}/python/curl_client.py"),
        connect_error=CODE,
        connect_407=r"CONNECT tunnel failed, response 407",
        connect_400=r"CONNECT tunnel failed, response 400",
        http_variables=("http_proxy",),
    ),
    python("requests", connect_error=STATUS, connect_407="407", connect_400="400"),
    python("aiohttp", connect_error=CODE, connect_407="407", connect_400="400"),
    python("httpx", gives_up=5, connect_error=STATUS, connect_407="407", connect_400="400"),
    node(
        "undici", connect_error=STATUS, connect_407=r"Proxy response \(407\)", connect_400=r"Proxy response \(400\)",
        http_407=r"Proxy Authentication Required \(407\)", connections=2,
    ),
    node("https-proxy-agent", tunnels_http=True, connect_error=BODY, http_variables=(), https_variables=()),
    Client("go", "go", ("{cache}/go-client",), gives_up=60, connect_error=CODE, connect_407="407", connect_400="400"),
    Client(
        "java", "java", ("java", "-cp", "{cache}/java", "Client"),
        challenge_first=True, connect_error=STATUS, http_variables=(), https_variables=(),
        http_407="too many authentication attempts", connect_407="too many authentication attempts",
        connect_400="Tunnel failed, got: 400",
    ),
    Client(
        "chromium", "chromium", ("node", "{cache}/node/chromium.mjs"),
        challenge_first=True, connect_407="ERR_HTTP_RESPONSE_CODE_FAILURE", connect_400="ERR_TUNNEL_CONNECTION_FAILED",
        # It asks for the page's icon of its own accord, on a second connection where a request comes meanwhile.
        connections=2,
        # Where a tunnel is not open after 250 ms, it dials a second one beside it and keeps what comes last for later.
        spare_tunnels=1,
        variables_with_user=False, gives_up=30, udp=("node", "{cache}/node/chromium-udp.mjs"),
    ),
)
