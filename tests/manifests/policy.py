"""Plays the attacks, and what has to be let in, with the token of the gateway's own ServiceAccount."""

import attacks
from attacks import CHANGES_POLICY, JOB_POLICY, POD_POLICY, changed, gateway_job, gateway_pod
from cluster import wait_for

SETTING = "gluetun-gateway/policy-"
MERGE = "application/merge-patch+json"


class Play:
    """One after the other, in one namespace."""

    def __init__(self, cluster, token, namespace, check):
        self.cluster, self.token, self.namespace, self.check = cluster, token, namespace, check
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.home = f"/api/v1/namespaces/{namespace}"
        annotations = cluster.must("GET", self.home)["metadata"]["annotations"]
        self.defaults = {name: value for name, value in annotations.items() if name.startswith(SETTING)}

    def create(self, path, body, token=None):
        return self.cluster.request("POST", f"{path}?dryRun=All", body, token or self.token)

    def refused(self, what, path, body, policy, text):
        status, answer = self.create(path, body)
        said = answer.get("message", "") if isinstance(answer, dict) else answer
        # What the API server itself finds invalid never gets as far as a policy.
        by = policy if "must not contain" not in text else ""
        self.check(f"refused: {what}", status in (403, 422) and by in said and text in said, f"{status} {said}")

    def admitted(self, what, path, body):
        status, answer = self.create(path, body)
        said = answer.get("message") if isinstance(answer, dict) else answer
        self.check(f"let in: {what}", status == 201, f"{status} {said}")

    def settings(self, changes, probe=None):
        """Sets what the namespace allows, and waits until the policies have seen it (`probe` says so)."""
        annotations = dict(self.defaults)
        for key, value in changes.items():
            # A leading + adds to what there is.
            annotations[SETTING + key] = annotations[SETTING + key] + value[1:] if value.startswith("+") else value
        self.cluster.must("PATCH", self.home, {"metadata": {"annotations": annotations}}, kind=MERGE)
        if probe:
            try:
                wait_for("the policies to see their settings", probe, 15)
            except TimeoutError:
                # The check that follows says what is wrong.
                pass

    def run(self):
        pod, job = gateway_pod(), gateway_job()
        bare = changed(pod, {"metadata/labels": None})
        wait_for("the policies to be in force", lambda: POD_POLICY in str(self.create(self.pods, bare)[1]))
        wait_for("the policies to be in force", lambda: JOB_POLICY in str(
            self.create(self.jobs, changed(job, {"spec/activeDeadlineSeconds": None}))[1]))
        self.refused("another Job", self.jobs, changed(job, {"metadata/name": "other"}), CHANGES_POLICY,
                     "no Job but gluetun-gateway-servers")
        for name in ("unconfined", "kata"):
            self.cluster.must("POST", "/apis/node.k8s.io/v1/runtimeclasses",
                              {"metadata": {"name": name}, "handler": "runc"})
        self.admitted("the gateway's pod", self.pods, pod)
        self.admitted("the gateway's Job", self.jobs, job)
        for what, change, text in attacks.PODS:
            self.refused(what, self.pods, changed(pod, change), POD_POLICY, text)
        for what, change, text in attacks.JOBS:
            self.refused(f"a Job with {what}", self.jobs, changed(job, change), JOB_POLICY, text)
        self.too_much(pod)
        self.templates(pod)
        self.devices(pod)
        self.changes(pod, job)
        self.without_settings(pod, job)

    def again(self):
        """After an installation has gone and come back: the policies hold, and let in what they should."""
        pod = gateway_pod()
        wait_for("the policies to be back", lambda: POD_POLICY in str(
            self.create(self.pods, changed(pod, {"spec/hostPID": True}))[1]))
        self.admitted("the gateway's pod, installed again", self.pods, pod)
        self.refused("the host's network, installed again", self.pods, changed(pod, {"spec/hostNetwork": True}),
                     POD_POLICY, attacks.HOST)

    def too_much(self, pod):
        """An object that costs the policy more than it may is refused, not let through unseen."""
        many = [{"name": "GOGC", "value": "x" * 100} for _ in range(9000)]
        body = changed(pod, {f"{attacks.C}/env": many, "spec/hostPID": True})
        status, answer = self.create(self.pods, body)
        self.check("refused: a pod as long as a book", status in (403, 422), f"{status} {answer}")

    def templates(self, pod):
        for what, settings, change in attacks.TEMPLATES:
            body = changed(pod, change)
            if settings:
                self.settings({}, lambda: self.create(self.pods, body)[0] != 201)
                status, _ = self.create(self.pods, body)
                self.check(f"refused without its setting: {what}", status in (403, 422), str(status))
            self.settings(settings, lambda: self.create(self.pods, body)[0] == 201)
            self.admitted(what, self.pods, body)
        self.settings({"sidecar-images": "docker.io/library/busybox"})
        plain = changed(pod, {"spec/containers/+": attacks.SIDECAR})
        wait_for("the sidecar's image", lambda: self.create(self.pods, plain)[0] == 201)
        for what, change in attacks.SIDECARS:
            body = changed(pod, {"spec/containers/+": {**attacks.SIDECAR, **change}})
            self.refused(what, self.pods, body, POD_POLICY, "")

    def devices(self, pod):
        for tun, change in attacks.DEVICES_OF:
            body = changed(pod, change)
            self.settings({"tun": tun}, lambda: self.create(self.pods, body)[0] == 201)
            self.admitted(f"TUN_DEVICE={tun}", self.pods, body)
            if tun != "hostPath":
                self.refused(f"the hostPath under TUN_DEVICE={tun}", self.pods, pod, POD_POLICY, attacks.VOLUMES)
        self.settings({})
        wait_for("the first settings", lambda: self.create(self.pods, pod)[0] == 201)

    def changes(self, pod, job):
        """What is there already. First by rights alone; then with rights to everything, by the policy alone."""
        self.cluster.must("POST", self.pods, pod)
        self.cluster.must("POST", self.jobs, job)
        other = {"metadata": {"name": "gateway-like", "labels": {"app.kubernetes.io/name": "gluetun-gateway"}},
                 "spec": {"automountServiceAccountToken": False, "containers": [{"name": "x", "image": "x"}]}}
        self.cluster.must("POST", self.pods, other)
        of_pod, of_job = f"{self.pods}/{pod['metadata']['name']}", f"{self.jobs}/{job['metadata']['name']}"
        image = {"spec": {"containers": [{"name": "gluetun", "image": "docker.io/library/alpine:3"}]}}
        ephemeral = {"spec": {"ephemeralContainers": [{
            "name": "debug", "image": "docker.io/library/busybox:1.37", "securityContext": {"privileged": True}}]}}
        strategic = "application/strategic-merge-patch+json"
        binding = {"metadata": {"name": pod["metadata"]["name"]}, "target": {"kind": "Node", "name": "n"}}
        tries = [
            ("another image for a pod", "PATCH", of_pod, image, strategic, "changes no pod"),
            ("a privileged ephemeral container", "PATCH", of_pod + "/ephemeralcontainers", ephemeral, strategic,
             "changes no pod"),
            ("labels taken off a pod", "PATCH", of_pod, {"metadata": {"labels": {"app": None}}}, MERGE,
             "changes no pod"),
            ("a pod's status", "PATCH", of_pod + "/status", {"status": {"podIP": "10.9.9.9"}}, MERGE,
             "changes no pod"),
            ("a Job let go on", "PATCH", of_job, {"spec": {"suspend": True}}, MERGE, "changes no pod"),
            ("a Job's status", "PATCH", of_job + "/status", {"metadata": {"annotations": {"x": "y"}}}, MERGE,
             "changes no pod"),
            ("a CronJob", "POST", self.jobs.replace("/jobs", "/cronjobs"), {
                "metadata": {"name": "gluetun-gateway-servers"},
                "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job["spec"]}}}, "application/json",
             "no CronJobs"),
            ("binding a pod", "POST", of_pod + "/binding", binding, "application/json", "runs nothing in a pod"),
            ("evicting a pod", "POST", of_pod + "/eviction", {"metadata": {"name": pod["metadata"]["name"]}},
             "application/json", "runs nothing in a pod"),
            ("a command in a pod", "POST", of_pod + "/exec?command=id&stdout=true", None, "application/json",
             "runs nothing in a pod"),
            ("a proxy to a pod", "GET", of_pod + "/proxy/", None, "application/json", "runs nothing in a pod"),
        ]
        for what, method, path, body, kind, _ in tries:
            status, answer = self.cluster.request(method, path, body, self.token, kind)
            said = str(answer.get("message"))
            self.check(f"refused by the Role: {what}", status == 403 and "cannot" in said, f"{status} {said}")
        status, answer = self.cluster.request("DELETE", f"{self.pods}/gateway-like", None, self.token)
        self.check("refused: deleting a pod that is no VPN pod",
                   status == 403 and "deletes only VPN pods" in str(answer.get("message")), str(answer))
        self.with_every_right(tries)
        # And what it may do with what is there.
        status, answer = self.cluster.request("DELETE", of_pod, None, self.token)
        self.check("let in: deleting a VPN pod", status == 200, str(answer))
        status, answer = self.cluster.request("DELETE", of_job, {"propagationPolicy": "Background"}, self.token)
        self.check("let in: deleting the server list's Job", status == 200, str(answer))
        self.cluster.must("DELETE", f"{self.pods}/gateway-like")

    def with_every_right(self, tries):
        roles = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
        subject = {"kind": "ServiceAccount", "name": "gluetun-gateway", "namespace": self.namespace}
        self.cluster.must("POST", roles, {
            "metadata": {"name": "too-much"}, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}})
        path = "/api/v1/nodes"
        wait_for("every right", lambda: self.cluster.request("GET", path, None, self.token)[0] == 200)
        for what, method, path, body, kind, text in tries:
            status, answer = self.cluster.request(method, path, body, self.token, kind)
            said = str(answer.get("message"))
            self.check(f"refused by the policy alone: {what}",
                       status == 403 and CHANGES_POLICY in said and text in said, f"{status} {said}")
        elsewhere = changed(gateway_pod(), {"metadata/namespace": "default"})
        status, answer = self.create("/api/v1/namespaces/default/pods", elsewhere)
        self.check("refused by the policy alone: a VPN pod in another namespace",
                   status in (403, 422) and "ValidatingAdmissionPolicy 'gluetun-gateway-" in str(answer),
                   f"{status} {answer}")
        # Nobody but the gateway is concerned.
        status, answer = self.create("/api/v1/namespaces/default/pods", elsewhere, "manifests-admin")
        self.check("let in: the same by an administrator", status == 201, f"{status} {answer}")
        status, answer = self.create(self.pods, changed(
            gateway_pod(), {"metadata/name": "anything", "spec/hostPID": True}), "manifests-admin")
        self.check("let in: anything by an administrator", status == 201, f"{status} {answer}")
        self.cluster.must("DELETE", f"{roles}/too-much")
        wait_for("no more rights",
                 lambda: self.cluster.request("GET", "/api/v1/nodes", None, self.token)[0] == 403)

    def without_settings(self, pod, job):
        """A namespace that says nothing allows nothing; and only the gateway is concerned."""
        self.cluster.must("PATCH", self.home, {"metadata": {"annotations": {
            name: None for name in self.defaults}}}, kind=MERGE)
        wait_for("the settings to be gone", lambda: self.create(self.pods, pod)[0] != 201)
        self.refused("a pod while nothing is set", self.pods, pod, POD_POLICY, "")
        self.refused("a Job while nothing is set", self.jobs, job, JOB_POLICY, "")
        status, answer = self.create(self.pods, pod, "manifests-admin")
        self.check("let in: an administrator's pod meanwhile", status == 201, f"{status} {answer}")
        self.settings({})
        wait_for("the settings to be back", lambda: self.create(self.pods, pod)[0] == 201)
