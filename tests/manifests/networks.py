"""Who the NetworkPolicies let talk to whom, worked out from the objects as the API server has them, by the rules of
the NetworkPolicy API. That a CNI enforces them is another matter, which no API server can show."""

import ipaddress

from attacks import gateway_job, gateway_pod

NAMESPACE = "gluetun-system"
GATEWAY = {"app.kubernetes.io/name": "gluetun-gateway", "app.kubernetes.io/component": "gateway"}
NAMED = {"proxy": 8080, "admin": 8001}


class Pod:
    """One end of a connection."""

    def __init__(self, labels, namespace=NAMESPACE, namespace_labels=None):
        self.labels, self.namespace, self.namespace_labels = labels, namespace, namespace_labels or {}


def matches(selector, labels):
    assert "matchExpressions" not in selector, "not worked out here"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def peer_matches(peer, end):
    """`end` is a Pod, or an address outside of the cluster (or of a node)."""
    if "ipBlock" in peer:
        if isinstance(end, Pod):
            return False
        address = ipaddress.ip_address(end)
        inside = [ipaddress.ip_network(net) for net in [peer["ipBlock"]["cidr"], *peer["ipBlock"].get("except", [])]]
        hits = [address in net for net in inside]
        return hits[0] and not any(hits[1:])
    if not isinstance(end, Pod):
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], end.namespace_labels):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return matches(peer.get("podSelector", {}), end.labels)


def port_matches(port, protocol, number):
    if port.get("protocol", "TCP") != protocol:
        return False
    first = NAMED.get(port.get("port"), port.get("port"))
    return first is None or first <= number <= port.get("endPort", first)


def way(policies, pod, direction, peers, end, protocol, number):
    """Whether one side of the connection is let through: by any policy that selects the pod, or if none does."""
    chosen = [p["spec"] for p in policies
              if matches(p["spec"]["podSelector"], pod.labels) and direction in p["spec"]["policyTypes"]]
    if pod.namespace != NAMESPACE or not chosen:
        return True
    for rule in (rule for spec in chosen for rule in spec.get(direction.lower(), [])):
        at = not rule.get(peers) or any(peer_matches(peer, end) for peer in rule[peers])
        if at and (not rule.get("ports") or any(port_matches(p, protocol, number) for p in rule["ports"])):
            return True
    return False


def connects(policies, source, target, number, protocol="TCP"):
    out = not isinstance(source, Pod) or way(policies, source, "Egress", "to", target, protocol, number)
    into = not isinstance(target, Pod) or way(policies, target, "Ingress", "from", source, protocol, number)
    return out and into


def check_all(cluster, check):
    """The base, without what overlays open."""
    path = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"
    policies = [p for p in cluster.must("GET", path)["items"] if p["metadata"]["name"] != "gateway-nodeport"]
    deployment = cluster.must("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/gluetun-gateway")
    gateway = Pod(deployment["spec"]["template"]["metadata"]["labels"])
    check("the gateway has the labels that policies select by", matches({"matchLabels": GATEWAY}, gateway.labels))
    exit_pod = Pod(gateway_pod()["metadata"]["labels"])
    job = Pod(gateway_job()["spec"]["template"]["metadata"]["labels"])
    stranger = Pod({}, "default")
    beside = Pod({})
    client = Pod({}, "apps", {"gluetun-gateway/proxy": "allowed"})
    prometheus = Pod({}, "monitoring", {"gluetun-gateway/admin": "allowed"})
    labelled = Pod({"gluetun-gateway/proxy": "allowed"})
    labelled_elsewhere = Pod({"gluetun-gateway/proxy": "allowed"}, "default")
    tables = [
        # The gateway's ports.
        (True, client, gateway, 8080), (False, client, gateway, 8001), (True, prometheus, gateway, 8001),
        (False, prometheus, gateway, 8080), (False, stranger, gateway, 8080), (False, stranger, gateway, 8001),
        (False, labelled_elsewhere, gateway, 8080), (False, labelled, gateway, 8080),
        (False, beside, gateway, 8080), (False, exit_pod, gateway, 8080),
        (False, exit_pod, gateway, 8001), (False, "203.0.113.1", gateway, 8080), (False, "10.0.0.1", gateway, 8001),
        # Out of the gateway.
        (True, gateway, exit_pod, 8888), (True, gateway, exit_pod, 9999), (False, gateway, exit_pod, 8000),
        (True, gateway, "10.96.0.1", 443), (True, gateway, "172.18.0.2", 6443), (False, gateway, "10.0.0.1", 22),
        (False, gateway, "169.254.169.254", 80), (False, gateway, stranger, 8080),
        # Into exits, and between them.
        (False, client, exit_pod, 8888), (False, stranger, exit_pod, 9999), (False, exit_pod, exit_pod, 8888),
        (False, labelled, exit_pod, 8888), (False, job, exit_pod, 8888), (False, "10.0.0.1", exit_pod, 8888),
        # The list's Job has no network, and nothing else in the namespace has any.
        (False, job, "1.1.1.1", 443), (False, job, "10.96.0.1", 443), (False, beside, "1.1.1.1", 443),
        (False, stranger, job, 80),
    ]
    for expected, source, target, number in tables:
        what = f"{name(source)} to {name(target)}:{number}"
        check(f"{'lets' if expected else 'stops'} {what}", connects(policies, source, target, number) == expected)
    # An exit reaches the internet by UDP, and nothing of the cluster or beside it.
    for address in ["1.1.1.1", "185.213.154.68", "2606:4700:4700::1111"]:
        check(f"lets an exit to {address}", connects(policies, exit_pod, address, 51820, "UDP"))
        check(f"stops an exit to {address} by TCP", not connects(policies, exit_pod, address, 443))
    for address in ["10.96.0.1", "10.244.1.7", "172.16.0.1", "172.31.255.2", "192.168.1.1", "100.64.0.1", "127.0.0.1",
                    "169.254.169.254", "169.254.20.10", "0.0.0.0", "224.0.0.251", "255.255.255.255", "198.18.0.1", "::1",
                    "fd00:ec2::254", "fe80::1", "fc00::1", "64:ff9b::a9fe:a9fe", "ff02::1"]:
        check(f"stops an exit to {address}", not connects(policies, exit_pod, address, 53, "UDP"))
    for pod in (gateway, stranger, beside):
        check(f"stops an exit to {name(pod)}", not connects(policies, exit_pod, pod, 53, "UDP"))


def name(end):
    if not isinstance(end, Pod):
        return end
    return f"{end.namespace}/{end.labels.get('app.kubernetes.io/component') or end.labels or end.namespace_labels}"
