"""The gateway's demo as a process: started on free ports, ended with the harness."""

import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from servers import NAME

#: Whatever proxy the environment names is not for the harness's own requests.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

#: How long it may take to start on a machine that is busy with other things, in seconds.
PATIENCE = 120


class Demo:
    """A demo that is ready, with the address of its proxy port (`host`, `port`)."""

    def __init__(self, binary, directory, *flags):
        self.log = os.path.join(directory, "demo.log")
        command = [binary, "demo", "--proxy-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--pod-start", "200ms"]
        command += ["--idle-timeout", "10m", "--host", f"{NAME}=127.0.0.1", *flags]
        environment = {name: value for name, value in os.environ.items() if name != "LOG_LEVEL"}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        try:
            self.proxy = self._told(r"proxy +http://([\d.]+):(\d+)")
            self.admin = self._told(r"admin +http://([\d.]+):(\d+)")
            self._until(self._ready, "is not ready")
        except BaseException:
            self.stop()
            raise

    def _until(self, condition, what):
        end = time.monotonic() + PATIENCE
        while not (value := condition()):
            if self.process.poll() is not None or time.monotonic() > end:
                with open(self.log, encoding="utf-8") as file:
                    raise SystemExit(f"clients: the demo {what}:\n{file.read()}")
            time.sleep(0.05)
        return value

    def _told(self, pattern):
        def look():
            with open(self.log, encoding="utf-8") as file:
                return re.search(pattern, file.read())

        host, port = self._until(look, "does not start").groups()
        return host, int(port)

    def _ready(self):
        try:
            with DIRECT.open("http://{}:{}/readyz".format(*self.admin), timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def metric(self, name, **labels):
        """The value of a counter or gauge, 0 if there is none yet."""
        with DIRECT.open("http://{}:{}/metrics".format(*self.admin), timeout=10) as answer:
            text = answer.read().decode()
        for line in text.splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name and dict(re.findall(r'(\w+)="([^"]*)"', match[2] or "")) == labels:
                return float(match[3])
        return 0.0

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def scratch():
    """A directory of this run's own."""
    return tempfile.TemporaryDirectory(prefix="gluetun-gateway-clients-")
