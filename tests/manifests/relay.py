"""What is between the gateway and the API server where an answer gets lost: passes every request on, and cuts the
connection on which the answer to a creation of a pod would come."""

import http.client
import http.server
import re
import threading

# Those of one connection.
HOP_BY_HOP = {"connection", "host", "keep-alive", "transfer-encoding"}


class Relay(http.server.ThreadingHTTPServer):
    """A context manager; the gateway's requests go to `url`."""

    daemon_threads = True

    def __init__(self, cluster):
        super().__init__(("127.0.0.1", 0), Passing)
        self.cluster = cluster
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        # Names of the pods that were asked for after an answer was lost.
        self.lost, self.asked = 0, []
        self.loses = False
        # Clear from the lost answer until the pod is asked for: no watch may tell of it before.
        self.flows = threading.Event()
        self.flows.set()

    def lose_next(self):
        """The next pod that is created: nobody is told."""
        self.loses = True

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.flows.set()
        self.shutdown()
        self.server_close()


class Passing(http.server.BaseHTTPRequestHandler):
    """One connection, which ends after one request."""

    def pass_on(self):
        relay, path = self.server, self.path.partition("?")[0]
        # A dry run is the preflight's.
        loses = (relay.loses and self.command == "POST" and path.endswith("/pods")
                 and "dryRun" not in self.path)
        if loses:
            relay.loses = False
            relay.flows.clear()
        pod = re.fullmatch(r".*/pods/([^/]+)", path)
        if self.command == "GET" and pod and not relay.flows.is_set():
            relay.asked.append(pod[1])
            relay.flows.set()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        api = http.client.HTTPSConnection("127.0.0.1", relay.cluster.port, context=relay.cluster.context)
        try:
            api.request(self.command, self.path, body, headers)
            answer = api.getresponse()
            if loses:
                answer.read()
                relay.lost += 1
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while part := answer.read1(1 << 16):
                if "watch=true" in self.path:
                    relay.flows.wait(60)
                self.wfile.write(part)
                self.wfile.flush()
        except (OSError, http.client.HTTPException):
            # Either side has gone, as at the gateway's end.
            pass
        finally:
            api.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def log_message(self, *_):
        pass
