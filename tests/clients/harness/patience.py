"""How long each client waits, with its own defaults, for an answer to its CONNECT. The demo has room for one
pod, and that is in use: a request for another place is held until the gateway gives up after START_TIMEOUT,
90 s. Takes that long, so CI leaves it out; docs/clients.md has the numbers."""

import os
import re
import socket
import subprocess
import sys
import threading
import time

from checks import World
from clients import HERE, KEPT
from demo import Demo

#: How long the gateway holds a request at most, in seconds: START_TIMEOUT's default.
HOLD = 90

#: How long a client's program may take to start on a busy machine, in seconds.
START = 15

#: What every client is started with: `{proxy}` has the user, `{url}` is an HTTPS origin.
PYTHON = {
    "requests": "import requests; requests.get({url!r}, proxies={{'https': {proxy!r}}}, verify={ca!r})",
    "aiohttp": (
        "import aiohttp, asyncio\n"
        "async def get():\n"
        "    async with aiohttp.ClientSession() as session:\n"
        "        await session.get({url!r}, proxy={proxy!r})\n"
        "asyncio.run(get())"
    ),
    "httpx": "import httpx; httpx.Client(proxy={proxy!r}).get({url!r})",
}
NODE = {
    "undici": (
        "import {{ ProxyAgent, fetch }} from 'undici';\n"
        "await fetch({url!r}, {{ dispatcher: new ProxyAgent({proxy!r}) }});"
    ),
    "https-proxy-agent": (
        "import https from 'node:https';\n"
        "import {{ HttpsProxyAgent }} from 'https-proxy-agent';\n"
        "https.get({url!r}, {{ agent: new HttpsProxyAgent({proxy!r}) }}, (answer) => {{\n"
        "  console.error('answer', answer.statusCode, answer.headers['x-gateway-error']);\n"
        "  answer.resume();\n"
        "}});"
    ),
    # The navigation's own limit, of 30 s, is off: what is left is Chromium's.
    "chromium": (
        "import {{ chromium }} from 'playwright-core';\n"
        "const {{ origin, host, username, password }} = new URL({proxy!r});\n"
        "const browser = await chromium.launch({{ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'],\n"
        "  proxy: {{ server: `http://${{host}}`, username, password }} }});\n"
        "try {{\n"
        "  const page = await browser.newPage();\n"
        "  console.error('begin');\n"
        "  await page.goto({url!r}, {{ timeout: 0 }});\n"
        "}} finally {{\n"
        "  await browser.close();\n"
        "}}"
    ),
}
GO = """package main

import (
	"log"
	"net/http"
	"net/url"
)

func main() {{
	proxy, err := url.Parse({proxy!d})
	if err != nil {{
		log.Fatal(err)
	}}
	client := http.Client{{Transport: &http.Transport{{Proxy: http.ProxyURL(proxy)}}}}
	_, err = client.Get({url!d})
	log.Fatal(err)
}}
"""
JAVA = """import java.net.*;
import java.net.http.*;

class Patience {{
    public static void main(String[] none) throws Exception {{
        System.setProperty("jdk.http.auth.tunneling.disabledSchemes", "");
        var proxy = URI.create({proxy!d});
        var login = proxy.getUserInfo().split(":", 2);
        var client = HttpClient.newBuilder()
            .proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())))
            .authenticator(new Authenticator() {{
                @Override
                protected PasswordAuthentication getPasswordAuthentication() {{
                    return new PasswordAuthentication(login[0], login[1].toCharArray());
                }}
            }})
            .build();
        client.send(HttpRequest.newBuilder(URI.create({url!d})).build(), HttpResponse.BodyHandlers.ofString());
    }}
}}
"""


def program(name, directory, cache, values):
    """The command of a client, and where to run it."""
    quoted = {key: value.join('""') for key, value in values.items()}
    if name == "curl":
        return ["curl", "-sS", "-x", values["proxy"], values["url"]], directory
    if name in PYTHON:
        return [sys.executable, "-c", PYTHON[name].format(**values)], directory
    if name in NODE:
        return ["node", "--input-type=module", "-e", NODE[name].format(**values)], os.path.join(cache, "node")
    text, file = (GO, "patience.go") if name == "go" else (JAVA, "Patience.java")
    path = os.path.join(directory, file)
    with open(path, "w", encoding="utf-8") as out:
        out.write(text.replace("!d", "").format(**quoted))
    if name == "java":
        return ["java", path], directory
    subprocess.run(["go", "build", "-o", path + ".out", path], check=True, cwd=os.path.join(HERE, "go"))
    return [path + ".out"], directory


def occupy(world):
    """Opens a tunnel, which takes the demo's only pod, and returns its socket."""
    stream = socket.create_connection(world.demo.proxy)
    target = world.plain.url.removeprefix("http://")
    login = "ZGVtby1jb3VudHJ5LXNlOmRlbW8="  # demo-country-se:demo
    stream.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {login}\r\n\r\n".encode())
    if not stream.recv(4096).startswith(b"HTTP/1.1 200"):
        raise SystemExit("clients: the demo's only pod cannot be taken")
    return stream


def measure(client, command, where, world, wrong):
    env = {key: os.environ[key] for key in KEPT if key in os.environ} | world.environment
    start = time.monotonic()
    run = subprocess.Popen(command, cwd=where, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in run.stderr:
        if line == "begin\n":
            start = time.monotonic()
        else:
            lines.append(line.strip())
    run.wait()
    seconds = time.monotonic() - start
    told = [line for line in lines if re.search(r"rror|xception|imeout|answer|curl|Get ", line)]
    expected = client.gives_up or HOLD
    verdict = "ok    "
    if not expected - 1 <= seconds <= expected + START:
        verdict = "FAILED"
        wrong.append(client.name)
    print(f"{verdict} {client.name:<18} {seconds:6.1f} s  {(told or lines or [''])[-1][:200]}", flush=True)


def patience(binary, directory, cache, clients):
    demo = Demo(binary, directory, "--instance-limit", "1")
    try:
        world = World(demo, directory, cache)
        taken = occupy(world)
        values = {
            "proxy": "http://demo-country-us:demo@{}:{}".format(*demo.proxy),
            "url": world.tls.url + "/",
            "ca": world.ca,
        }
        wrong = []
        programs = [(client, *program(client.name, directory, cache, values)) for client in clients]
        threads = [threading.Thread(target=measure, args=(*each, world, wrong)) for each in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken.close()
    finally:
        demo.stop()
    return 1 if wrong else 0
