"""What the gateway's ServiceAccount may do and may not, asked with its own token; and what it did, by the audit
log, beside what its Role grants."""

import json

# (verb, resource with group and subresource, name): each side of the line that the Role draws.
ALLOWED = [
    ("get", "pods", ""), ("list", "pods", ""), ("watch", "pods", ""), ("create", "pods", ""), ("delete", "pods", ""),
    ("get", "pods/log", ""),
    ("get", "leases.coordination.k8s.io", ""), ("list", "leases.coordination.k8s.io", ""),
    ("watch", "leases.coordination.k8s.io", ""), ("create", "leases.coordination.k8s.io", ""),
    ("patch", "leases.coordination.k8s.io", ""), ("delete", "leases.coordination.k8s.io", ""),
    ("update", "leases.coordination.k8s.io", "gluetun-gateway-leader"),
    ("create", "events", ""), ("list", "events", ""),
    ("create", "jobs.batch", ""), ("get", "jobs.batch", "gluetun-gateway-servers"),
    ("delete", "jobs.batch", "gluetun-gateway-servers"),
    ("get", "configmaps", "gluetun-gateway-servers"), ("update", "configmaps", "gluetun-gateway-servers"),
]
REFUSED = [
    ("patch", "pods", ""), ("update", "pods", ""), ("deletecollection", "pods", ""), ("create", "pods/exec", ""),
    ("get", "pods/exec", ""), ("create", "pods/attach", ""), ("create", "pods/portforward", ""),
    ("get", "pods/proxy", ""), ("update", "pods/ephemeralcontainers", ""), ("patch", "pods/ephemeralcontainers", ""),
    ("create", "pods/binding", ""), ("create", "pods/eviction", ""), ("patch", "pods/status", ""),
    ("patch", "pods/resize", ""),
    ("get", "secrets", ""), ("get", "secrets", "gluetun-wireguard-credentials"),
    ("get", "secrets", "gluetun-gateway-users"), ("list", "secrets", ""), ("watch", "secrets", ""),
    ("create", "secrets", ""),
    ("get", "configmaps", ""), ("list", "configmaps", ""), ("create", "configmaps", ""),
    ("get", "configmaps", "gluetun-gateway-config"), ("patch", "configmaps", "gluetun-gateway-servers"),
    ("update", "configmaps", "gluetun-gateway-config"), ("delete", "configmaps", "gluetun-gateway-servers"),
    ("update", "leases.coordination.k8s.io", ""), ("deletecollection", "leases.coordination.k8s.io", ""),
    ("list", "jobs.batch", ""), ("patch", "jobs.batch", "gluetun-gateway-servers"),
    ("update", "jobs.batch", "gluetun-gateway-servers"), ("delete", "jobs.batch", ""),
    ("create", "cronjobs.batch", ""), ("create", "deployments.apps", ""), ("patch", "deployments.apps", ""),
    ("create", "daemonsets.apps", ""), ("get", "services", ""), ("create", "services", ""), ("get", "endpoints", ""),
    ("create", "serviceaccounts/token", "gluetun-gateway"), ("create", "serviceaccounts", ""),
    ("impersonate", "serviceaccounts", ""), ("create", "rolebindings.rbac.authorization.k8s.io", ""),
    ("escalate", "roles.rbac.authorization.k8s.io", ""), ("update", "roles.rbac.authorization.k8s.io", ""),
    ("delete", "networkpolicies.networking.k8s.io", ""), ("delete", "events", ""),
]
# The whole cluster and another namespace: nothing.
ELSEWHERE = [
    ("list", "pods", None), ("create", "pods", "kube-system"), ("get", "pods", "default"),
    ("create", "jobs.batch", "default"), ("get", "leases.coordination.k8s.io", "kube-system"),
    ("get", "nodes", None), ("list", "namespaces", None), ("patch", "namespaces", "gluetun-system"),
    ("update", "namespaces", "gluetun-system"),
    ("list", "secrets", None),
    ("delete", "validatingadmissionpolicies.admissionregistration.k8s.io", None),
    ("delete", "validatingadmissionpolicybindings.admissionregistration.k8s.io", None),
]


def may(cluster, token, verb, resource, name="", namespace=None):
    """Whether the token's owner may do that, by SelfSubjectAccessReview: what `kubectl auth can-i` asks."""
    resource, _, sub = resource.partition("/")
    resource, _, group = resource.partition(".")
    attributes = {"verb": verb, "group": group, "resource": resource, "subresource": sub, "name": name}
    if namespace:
        attributes["namespace"] = namespace
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    return cluster.must("POST", path, review, token)["status"]["allowed"]


def check_table(cluster, token, namespace, check):
    """Every line of the tables above."""
    for verb, resource, name in ALLOWED:
        check(f"may {verb} {resource} {name}".rstrip(), may(cluster, token, verb, resource, name, namespace))
    for verb, resource, name in REFUSED:
        check(f"may not {verb} {resource} {name}".rstrip(),
              not may(cluster, token, verb, resource, name, namespace))
    for verb, resource, where in ELSEWHERE:
        check(f"may not {verb} {resource} in {where or 'the cluster'}",
              not may(cluster, token, verb, resource, "", where))


def role_rights(cluster, namespace):
    """The Role, spread out: {(verb, resource): names, or None for any}."""
    role = cluster.must("GET", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/gluetun-gateway")
    rights = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                full = f"{resource}.{group}" if group else resource
                for verb in rule["verbs"]:
                    rights[(verb, full)] = rule.get("resourceNames")
    return rights


def used_rights(cluster, user, since):
    """What the audit log says that the user did after its first `since` bytes: {(verb, resource): names}, and what
    was refused for want of a right. Everybody may ask what he may do, and that needs no Role."""
    used, refused = {}, []
    with open(cluster.audit_log, encoding="utf-8") as file:
        file.seek(since)
        for line in file:
            event = json.loads(line)
            ref = event.get("objectRef")
            if event["user"]["username"] != user or not ref or ref.get("apiGroup") == "authorization.k8s.io":
                continue
            resource = ref["resource"]
            resource += f"/{ref['subresource']}" if ref.get("subresource") else ""
            resource += f".{ref['apiGroup']}" if ref.get("apiGroup") else ""
            used.setdefault((event["verb"], resource), set()).add(ref.get("name", ""))
            if event["annotations"].get("authorization.k8s.io/decision") != "allow":
                refused.append(f"{event['verb']} {resource}")
    return used, refused


def compare(cluster, namespace, user, since, unused_here, check):
    """The Role holds what was used, and nothing else."""
    rights = role_rights(cluster, namespace)
    used, refused = used_rights(cluster, user, since)
    for (verb, resource), names in sorted(used.items()):
        print(f"  used: {verb} {resource}")
        granted = rights.get((verb, resource), [])
        check(f"the Role grants {verb} {resource}", granted is None or names <= set(granted))
    check(f"nothing was refused: {refused}", not refused)
    for verb, resource in sorted(set(rights) - set(used)):
        why = unused_here.get(resource)
        check(f"{verb} {resource} is granted and was not used: {why or 'for nothing'}", why)
    check("the gateway did something", len(used) >= 10)
