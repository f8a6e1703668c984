"""What the tests of the API share: the admin port as a client, and exits that are destroyed after the test."""

import os
import time

import pytest
import requests


def pytest_collection_modifyitems(items):
    """Tests that send traffic through the gateway need to reach it."""
    if os.environ.get("GATEWAY_REACHABLE", "yes") == "no":
        skip = pytest.mark.skip(reason="GATEWAY_REACHABLE=no: the gateway's proxy address is not reachable from here")
        for item in items:
            if "traffic" in item.keywords:
                item.add_marker(skip)


def pytest_configure(config):
    config.addinivalue_line("markers", "traffic: sends traffic through the gateway's proxy port")


class Api:
    """The admin port."""

    def __init__(self, url, token):
        self.url = url.rstrip("/")
        self.session = requests.Session()
        # Whatever proxy the environment names is not for the admin port.
        self.session.trust_env = False
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def request(self, method, path, **options):
        """A cold start is held for up to 90 s."""
        answer = self.session.request(method, self.url + path, timeout=options.pop("timeout", 100), **options)
        assert answer.headers["X-Request-Id"], "every answer names its request"
        return answer

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **options):
        return self.request("POST", path, **options)

    def destroy(self, pod_id):
        return self.post("/destroy", json={"id": pod_id})


@pytest.fixture(scope="session")
def api():
    url = os.environ.get("GLUETUN_K8S_API_URL")
    if not url:
        pytest.exit("GLUETUN_K8S_API_URL is not set: the address of the admin port, say http://127.0.0.1:8001", 4)
    return Api(url, os.environ.get("ADMIN_TOKEN"))


@pytest.fixture(scope="session")
def target():
    return os.environ.get("TARGET_URL", "http://example.com/")


@pytest.fixture(scope="session")
def servers(api):
    """The server list, which a new installation may still be fetching."""
    end = time.monotonic() + 120
    while not (found := api.get("/servers").json()) and time.monotonic() < end:
        time.sleep(1)
    assert found, "the server list stays empty"
    return found


@pytest.fixture
def start(api):
    """Starts an exit, and destroys it when the test is over."""
    started = []

    def begin(**body):
        answer = api.post("/start", json=body)
        if answer.status_code == 200:
            started.append(answer.json()["id"])
        return answer

    yield begin
    for pod_id in started:
        # 404 where the test has destroyed it.
        assert api.destroy(pod_id).status_code in (200, 404)
