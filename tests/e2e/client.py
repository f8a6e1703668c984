"""Clients of the proxy port, and a server of the suite's own that they ask through exits."""

import base64
import dataclasses
import errno
import http.server
import itertools
import json
import socket
import threading
import time
import urllib.parse

#: Between two lines of a stream.
TICK = 0.1


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    body: str
    seconds: float
    #: Of these, until the connection was open.
    connected: float = 0

    def json(self):
        return json.loads(self.body)


class Proxy:
    """The proxy port at an address, for one account."""

    def __init__(self, address, port, password):
        self.address, self.port, self.password = address, port, password

    def connect(self, user, target, patience=120, source=0):
        """A CONNECT from a port of this machine (0 for any): the open socket, with what has come after the head, and the
        answer."""
        began = time.monotonic()
        sock = socket.create_connection((self.address, self.port), timeout=patience, source_address=("", source))
        connected = time.monotonic() - began
        sock.settimeout(patience)
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{self.credentials(user)}\r\n".encode())
        reader = sock.makefile("rb")
        status, headers = head(reader)
        answer = Answer(status, headers, "", time.monotonic() - began, connected)
        if status != 200:
            answer.body = body(reader, headers)
            sock.close()
        return sock, reader, answer

    def get(self, user, url, patience=120, absolute=False, source=0):
        """A GET of an http URL, through a tunnel or in absolute form. The time is until the last byte."""
        began = time.monotonic()
        parts = urllib.parse.urlsplit(url)
        target = f"{parts.hostname}:{parts.port or 80}"
        path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        connected = 0
        common = f"Host: {parts.netloc}\r\nConnection: close\r\n"
        if absolute:
            sock = socket.create_connection((self.address, self.port), timeout=patience)
            reader = sock.makefile("rb")
            request = f"GET {url} HTTP/1.1\r\n{common}{self.credentials(user)}\r\n"
        else:
            sock, reader, answer = self.connect(user, target, patience, source)
            connected = answer.connected
            if answer.status != 200:
                return answer
            request = f"GET {path} HTTP/1.1\r\n{common}\r\n"
        with sock:
            sock.sendall(request.encode())
            status, headers = head(reader)
            return Answer(status, headers, body(reader, headers), time.monotonic() - began, connected)

    def credentials(self, user):
        pair = user if ":" in user else f"{user}:{self.password}"
        return f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


def head(reader):
    line = reader.readline().decode("latin-1")
    if not line:
        raise ConnectionResetError("the connection ended before an answer")
    headers = {}
    while (field := reader.readline().decode("latin-1").strip()):
        name, _, value = field.partition(":")
        headers[name.lower()] = value.strip()
    return int(line.split()[1]), headers


def body(reader, headers):
    length = headers.get("content-length")
    got = reader.read() if length is None else reader.read(int(length))
    if length is not None and len(got) < int(length):
        raise ConnectionResetError(f"the body ended after {len(got)} of {length} bytes")
    return got.decode()


class Stream(threading.Thread):
    """A tunnel with a line every TICK for so many seconds; how it ended is kept. Begun by `start`."""

    def __init__(self, proxy, user, seconds):
        super().__init__(daemon=True)
        self.proxy, self.user, self.seconds = proxy, user, seconds
        self.request_id, self.opened, self.ended, self.lines, self.whole, self.error = None, None, None, 0, False, None
        self.flows = threading.Event()

    def run(self):
        try:
            sock, reader, answer = self.proxy.connect(self.user, "origin.test:80")
            if answer.status != 200:
                raise ConnectionError(f"{answer.status} {answer.body}")
            with sock:
                self.request_id, self.opened = answer.headers.get("x-gateway-request-id"), time.time()
                sock.settimeout(30)
                sock.sendall(f"GET /stream?seconds={self.seconds} HTTP/1.1\r\nHost: origin.test\r\n\r\n".encode())
                head(reader)
                while (line := reader.readline()):
                    self.lines += 1
                    self.whole = line == b"end\n"
                    self.flows.set()
        except OSError as error:
            self.error = error
        self.ended = time.time()
        self.flows.set()

    def __str__(self):
        lasted = "never opened" if self.opened is None else f"{(self.ended or time.time()) - self.opened:.1f} s"
        return f"{self.user}: {lasted}, {self.lines} lines, {'whole' if self.whole else 'not whole'}, {self.error}"


class Load:
    """Clients that ask one after the other, each through a connection of its own, until `stop`.

    Their source ports are below those that the system gives out. A tunnel that is cut is reset, and its port free at once;
    for ten seconds more the node's connection tracking leads whatever comes from that port to the replica that is gone.
    With one address for hundreds of clients, one of them would soon have that port.
    """

    PORTS = range(10240, 32768)

    def __init__(self, proxy, users, clients):
        self.failed, self.answers, self.ports = [], [], itertools.cycle(self.PORTS)
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(proxy, users[n % len(users)]), daemon=True)
                        for n in range(clients)]
        for thread in self.threads:
            thread.start()

    def ask(self, proxy, user):
        while not self.over.wait(0.02):
            began = time.time()
            try:
                answer = proxy.get(user, "http://whoami.test/", patience=20, source=next(self.ports))
                good, said = answer.status == 200, f"{answer.status} {answer.body}"
            except (OSError, ValueError, IndexError) as error:
                if getattr(error, "errno", None) == errno.EADDRINUSE:
                    # Somebody else's.
                    continue
                good, said = False, repr(error)
            if good:
                self.answers.append((began, answer))
            else:
                self.failed.append((began, user, said))

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


class Origin(http.server.ThreadingHTTPServer):
    """A destination on this machine: `/` tells who has connected, `/stream?seconds=N` goes on for so long."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address):
        super().__init__((address, 0), OriginHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]

    def handle_error(self, request, client_address):
        """A client that is gone is no news."""


class OriginHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        if url.path != "/stream":
            self.wfile.write(json.dumps({"peer": self.client_address[0]}).encode())
            return
        end = time.monotonic() + float(urllib.parse.parse_qs(url.query)["seconds"][0])
        while time.monotonic() < end:
            self.wfile.write(b"tick\n")
            time.sleep(TICK)
        self.wfile.write(b"end\n")

    def log_message(self, *_):
        pass
