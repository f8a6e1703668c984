"""What only reads: health, servers, locations, and what every answer has in common."""

import pytest


def test_health(api):
    answer = api.get("/health")
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "healthy"
    assert isinstance(body["servers_loaded"], bool)


def test_servers(servers):
    for key, server in servers.items():
        assert key == key.lower() and " " not in key
        assert key.endswith(server["hostname"].lower())
        assert server["vpn"] == "wireguard"
        assert server["country"]


def test_servers_by_country(api, servers):
    country = next(iter(servers.values()))["country"]
    expected = {key for key, server in servers.items() if server["country"] == country}
    for spelling in (country, country.lower(), country.upper()):
        found = api.get("/servers", params={"country": spelling}).json()
        assert expected <= found.keys()
        assert all(country.lower() in server["country"].lower() for server in found.values())


def test_servers_by_city(api, servers):
    server = next(server for server in servers.values() if server.get("city"))
    found = api.get("/servers", params={"country": server["country"], "city": server["city"]}).json()
    assert server["hostname"] in {each["hostname"] for each in found.values()}
    assert {each["country"] for each in found.values()} == {server["country"]}


def test_servers_by_words(api, servers):
    """Every word contained, in any order."""
    spaced = [server["city"] for server in servers.values() if len(server.get("city", "").split()) > 1]
    if not spaced:
        pytest.skip("no city of several words in the list")
    words = " ".join(reversed(spaced[0].split()))
    found = api.get("/servers", params={"city": words}).json()
    assert spaced[0] in {server["city"] for server in found.values()}


def test_servers_that_are_none(api):
    answer = api.get("/servers", params={"country": "Atlantis"})
    assert (answer.status_code, answer.json()) == (200, {})


def test_locations(api, servers):
    body = api.get("/locations").json()
    countries = body["countries"]
    names = [country["name"] for country in countries]
    assert names == sorted(names)
    assert body["total_countries"] == len(countries)
    assert body["total_cities"] == sum(country["city_count"] for country in countries)
    assert body["total_servers"] == sum(country["total_servers"] for country in countries) == len(servers)
    hostnames = {server["hostname"] for server in servers.values()}
    for country in countries:
        cities = country["cities"]
        assert country["city_count"] == len(cities)
        assert country["total_servers"] >= sum(city["server_count"] for city in cities)
        assert [city["name"] for city in cities] == sorted(city["name"] for city in cities)
        assert all(city["sample_hostname"] in hostnames for city in cities)


def test_refresh(api, servers):
    answer = api.post("/servers/refresh")
    if answer.status_code == 200:
        body = answer.json()
        assert body["message"] == "Server cache refreshed"
        assert body["server_count"] > 0
    else:
        assert (answer.status_code, answer.json()["error"]) == (500, "Failed to refresh server cache")
    assert api.get("/servers").json(), "whatever came of it, a list is there"


@pytest.mark.parametrize("force", ["true", "1", "yes"])
def test_force(api, force):
    assert api.get("/servers", params={"force": force}).json()
    assert api.get("/locations", params={"force": force}).json()["total_servers"] > 0


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/nowhere", 404),
    ("GET", "/start", 405),
    ("POST", "/status", 405),
    ("DELETE", "/servers", 405),
])
def test_what_there_is_not(api, method, path, status):
    answer = api.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_cors_lets_the_front_end_in(api):
    origin = "http://localhost:5000"
    ask = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answer = api.request("OPTIONS", "/start", headers=ask)
    if "Access-Control-Allow-Origin" not in answer.headers:
        pytest.skip("this installation's CORS_ORIGINS are others")
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert {"GET", "POST", "OPTIONS"} <= {m.strip() for m in answer.headers["Access-Control-Allow-Methods"].split(",")}
    assert api.get("/status", headers={"Origin": origin}).headers["Access-Control-Allow-Origin"] == origin
    elsewhere = api.get("/status", headers={"Origin": "http://elsewhere.example"})
    assert "Access-Control-Allow-Origin" not in elsewhere.headers
