"""Exits from start to destroy, and every way to ask for one wrongly."""

import time
import urllib.parse

import pytest
import requests

#: What `/start` answers with, and what `/status` tells of each pod.
STARTED = {
    "id", "proxy", "pod_name", "pod_ip", "username", "password",
    "service_name", "service_cluster_ip", "service_dns", "service_port", "service_url",
}
TOLD = STARTED - {"id", "proxy"} | {"server", "port", "status"}


def through(proxy, url):
    session = requests.Session()
    session.trust_env = False
    return session.get(url, proxies={"http": proxy, "https": proxy}, timeout=30)


def test_life_by_country(api, servers, start):
    country = next(iter(servers.values()))["country"]
    answer = start(country=country)
    assert answer.status_code == 200, answer.text
    exit_ = answer.json()
    assert STARTED <= exit_.keys()
    assert exit_["pod_name"] == f"gluetun-{exit_['id']}"

    proxy, service = urllib.parse.urlsplit(exit_["proxy"]), urllib.parse.urlsplit(exit_["service_url"])
    assert (proxy.username, proxy.password) == (exit_["username"], exit_["password"])
    assert (proxy.hostname, proxy.port) == (exit_["pod_ip"], 8888)
    assert (service.username, service.password) == (exit_["username"], exit_["password"])
    assert (service.hostname, service.port) == (exit_["service_dns"], exit_["service_port"])

    told = api.get("/status").json()[exit_["id"]]
    assert TOLD <= told.keys()
    assert (told["status"], told["port"]) == ("running", 8888)
    assert servers[told["server"]]["country"] == country
    same = STARTED - {"id", "proxy"}
    assert {name: told[name] for name in same} == {name: exit_[name] for name in same}

    gone = api.destroy(exit_["id"])
    assert (gone.status_code, gone.json()) == (200, {"message": "Pod destroyed"})
    assert exit_["id"] not in api.get("/status").json()
    again = api.destroy(exit_["id"])
    assert (again.status_code, again.json()) == (404, {"error": "Pod not found"})


def test_start_of_a_server(api, servers, start):
    key = sorted(servers)[-1]
    answer = start(server=key)
    assert answer.status_code == 200, answer.text
    assert api.get("/status").json()[answer.json()["id"]]["server"] == key


@pytest.mark.traffic
def test_traffic_through_the_service(api, servers, start, target):
    server = next(server for server in servers.values() if server.get("city"))
    answer = start(country=server["country"], city=server["city"])
    assert answer.status_code == 200, answer.text
    exit_ = answer.json()
    page = through(exit_["service_url"], target)
    assert page.status_code == 200, page.text

    api.destroy(exit_["id"])
    # Another replica may hear of the end a moment later.
    end = time.monotonic() + 10
    while (refused := through(exit_["service_url"], "http://example.com/")).status_code != 407:
        assert time.monotonic() < end, f"{refused.status_code}: the credentials outlive the pod"
        time.sleep(0.1)


def test_two_exits_are_two(api, servers, start):
    country = next(iter(servers.values()))["country"]
    first, second = start(country=country), start(country=country)
    assert first.status_code == second.status_code == 200, (first.text, second.text)
    assert first.json()["id"] != second.json()["id"]
    assert first.json()["username"] != second.json()["username"]


def test_a_server_that_is_none(start):
    answer = start(server="atlantis-poseidonis-at-pos-wg-001")
    assert answer.status_code == 400
    assert answer.json()["error"] == "Invalid server"


@pytest.mark.parametrize("body, text", [
    ({"country": "Atlantis"}, "No server found for country 'Atlantis'"),
    ({"city": "Poseidonis"}, "No server found for city 'Poseidonis'"),
    ({"country": "Atlantis", "city": "Poseidonis"}, "No server found for country 'Atlantis' and city 'Poseidonis'"),
])
def test_places_that_are_none(start, body, text):
    answer = start(**body)
    # The place comes back as the filter reads it, which is without case.
    assert (answer.status_code, answer.json()["error"].lower()) == (400, text.lower())


def test_start_of_nothing(start):
    answer = start()
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("path", ["/start", "/destroy"])
@pytest.mark.parametrize("body, kind", [
    (b"{", "application/json"),
    (b"[1, 2]", "application/json"),
    (b'{"server": 7, "id": 7}', "application/json"),
    (b'{"country": "Sweden"}', "text/plain"),
    (b"\xff\xfe", "application/json"),
])
def test_bodies_that_are_none(api, path, body, kind):
    answer = api.post(path, data=body, headers={"Content-Type": kind})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize("body", [{}, {"id": "no-such-pod"}, {"id": "00000000-0000-0000-0000-000000000000"}])
def test_destroy_of_nothing(api, body):
    answer = api.post("/destroy", json=body)
    assert (answer.status_code, answer.json()) == (404, {"error": "Pod not found"})


def test_stop_is_not_for_pods(api):
    answer = api.post("/stop", json={"id": "00000000-0000-0000-0000-000000000000"})
    assert answer.status_code == 400
    text = answer.json()["error"].lower()
    assert "stop" in text and "destroy" in text
