"""What the clients are measured with: an origin that counts connections, in plain and over TLS, and a tap
between client and gateway that sees what a client really sends."""

import asyncio
import http.server
import json
import os
import ssl
import subprocess
import threading

#: The origin's name. No resolver knows it (RFC 6761): only the exits do, by the demo's `--host`.
NAME = "origin.test"


def certificates(directory, label):
    """A certificate authority and a certificate of the origin's name by it: `(ca, certificate, key)`."""
    ca, ca_key, leaf, key = (os.path.join(directory, f"{label}-{name}.pem") for name in ("ca", "cakey", "leaf", "key"))
    request, extensions = os.path.join(directory, f"{label}.csr"), os.path.join(directory, f"{label}.ext")
    with open(extensions, "w", encoding="utf-8") as file:
        file.write(
            f"subjectAltName=DNS:{NAME}\nbasicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n"
            "keyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "30", "-subj", f"/CN={label}",
         "-addext", "keyUsage=critical,keyCertSign"],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", f"/CN={NAME}"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "30",
         "-extfile", extensions, "-out", leaf],
    ):
        subprocess.run(["openssl", *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return ca, leaf, key


class Origin(http.server.ThreadingHTTPServer):
    """An origin on a free port: answers every GET with what it is and which connection it came on."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, certificate=None):
        super().__init__(("127.0.0.1", 0), OriginHandler)
        self.tls = None
        if certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*certificate)
        self.lock = threading.Lock()
        #: Of each request since the last look, the number of its connection.
        self.requests = []
        self.connections = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http{'s' if self.tls else ''}://{NAME}:{self.server_address[1]}"

    def get_request(self):
        stream, address = super().get_request()
        if self.tls:
            # The handshake is the handler's, so that a slow one holds nobody up.
            stream = self.tls.wrap_socket(stream, server_side=True, do_handshake_on_connect=False)
        return stream, address

    def handle_error(self, request, client_address):
        """A client that refuses the certificate, or hangs up: what it says itself is what counts."""

    def take(self):
        """The requests since the last look."""
        with self.lock:
            requests, self.requests = self.requests, []
            return requests


class OriginHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120

    def setup(self):
        super().setup()
        with self.server.lock:
            self.server.connections += 1
            self.number = self.server.connections

    def do_GET(self):
        if self.path == "/favicon.ico":
            body = b""
        else:
            body = json.dumps({"origin": self.server.url, "path": self.path}).encode()
            with self.server.lock:
                self.server.requests.append(self.number)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Tap:
    """Relays to the gateway and notes the head of every request that a client sends in the clear."""

    def __init__(self, gateway):
        self.gateway = gateway
        #: Where it connects to the gateway from. On Linux all of 127.0.0.0/8 is this machine's.
        self.source = "127.0.0.1"
        self.connections = []
        self.lock = threading.Lock()
        #: The loop itself does not keep its tasks.
        self.tasks = set()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        listen = asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=128)
        server = asyncio.run_coroutine_threadsafe(listen, self.loop).result()
        self.address = "127.0.0.1:{}".format(server.sockets[0].getsockname()[1])

    def take(self):
        """The connections since the last look that had a request: of each, its heads."""
        with self.lock:
            connections, self.connections = self.connections, []
        return [heads for heads in connections if heads]

    async def serve(self, reader, writer):
        task = asyncio.current_task()
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        heads = []
        with self.lock:
            self.connections.append(heads)
        try:
            upstream = await asyncio.open_connection(*self.gateway, local_addr=(self.source, 0))
        except OSError:
            writer.close()
            return
        state = {"connect": False, "opaque": False}

        async def up():
            pending = b""
            while data := await reader.read(65536):
                upstream[1].write(data)
                await upstream[1].drain()
                if state["opaque"]:
                    continue
                pending += data
                while b"\r\n\r\n" in pending and not state["connect"]:
                    head, pending = pending.split(b"\r\n\r\n", 1)
                    lines = head.decode("iso-8859-1").split("\r\n")
                    method, target, _ = lines[0].split(" ", 2)
                    fields = dict(line.split(":", 1) for line in lines[1:])
                    fields = {name.lower(): value.strip() for name, value in fields.items()}
                    heads.append({"method": method, "target": target, "fields": fields})
                    state["connect"] = method == "CONNECT"
            upstream[1].write_eof()

        async def down():
            while data := await upstream[0].read(65536):
                if state["connect"]:
                    # A tunnel from here on, unless it is refused.
                    state["connect"] = False
                    state["opaque"] = data.startswith(b"HTTP/1.1 2")
                writer.write(data)
                await writer.drain()
            writer.write_eof()

        try:
            await asyncio.gather(up(), down())
        except OSError:
            pass
        finally:
            writer.close()
            upstream[1].close()
