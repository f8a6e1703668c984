"""Templates of the operator's, as POD_TEMPLATE_FILE takes them, beside the admission policy: each is merged by the
gateway itself (`manifest`), and the pod that comes of it is let in, needs a setting of the Namespace, or is refused by
the installed policy with its own words. docs/pods.md has the same in its table."""

import json
import os
import re
import subprocess

import attacks
from attacks import ROOT, VOLUMES, C, changed, gateway_pod

RESTRICTED = """
    securityContext:
      runAsNonRoot: true
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}"""
SIDECAR = f"""
  - name: exporter
    image: registry.example/exporter:1{RESTRICTED}"""
SIDECARS = {"sidecar-images": "registry.example/exporter"}
G, X = "spec.containers[gluetun]", "spec.containers[exporter]"
RESTRICTED_ONLY = "further containers only as the Pod Security level restricted has them"


def volume(kind):
    return f"spec: {{volumes: [{{name: more, {kind}}}]}}"


#: What a template has; the settings of the Namespace that it needs; what the policy says without them, if anything.
TEMPLATES = [
    ("nothing", "{}", {}, None),
    ("labels and annotations", "metadata: {labels: {team: red}, annotations: {example.com/note: x}}", {}, None),
    ("a node selector", "spec: {nodeSelector: {vpn: 'true'}}", {}, None),
    ("tolerations", "spec: {tolerations: [{key: vpn, operator: Exists, effect: NoSchedule}]}", {}, None),
    ("affinity", "spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: "
     "[{matchExpressions: [{key: vpn, operator: Exists}]}]}}}}", {}, None),
    ("topology spread", "spec: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, "
     "whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: gluetun-vpn}}}]}", {}, None),
    ("a priority", "spec: {priorityClassName: exits, preemptionPolicy: Never}", {}, None),
    ("a scheduler", "spec: {schedulerName: other}", {}, None),
    ("a runtime class", "spec: {runtimeClassName: gvisor}", {"runtime-classes": "gvisor"},
     "runtime classes only as configured"),
    ("DNS", "spec: {dnsPolicy: None, dnsConfig: {nameservers: [9.9.9.9]}}", {}, None),
    ("host aliases", "spec: {hostAliases: [{ip: 192.0.2.1, hostnames: [origin.example]}]}", {}, None),
    ("pull secrets", "spec: {imagePullSecrets: [{name: mirror}]}", {}, None),
    ("a grace period", "spec: {terminationGracePeriodSeconds: 10}", {}, None),
    ("resources", "spec: {containers: [{name: gluetun, resources: {limits: {cpu: '1', memory: 512Mi}}}]}", {}, None),
    ("a pull policy", "spec: {containers: [{name: gluetun, imagePullPolicy: Always}]}", {}, None),
    ("a variable that the gateway sets too", "spec: {containers: [{name: gluetun, env: [{name: GOMEMLIMIT, "
     "value: 400MiB}], resources: {limits: {memory: 512Mi}}}]}", {}, None),
    ("a variable of its own", "spec: {containers: [{name: gluetun, env: [{name: TZ, value: UTC}]}]}", {"env": "TZ"},
     "environment that is not configured: TZ"),
    ("a variable from a ConfigMap", "spec: {containers: [{name: gluetun, env: [{name: TZ, valueFrom: {configMapKeyRef: "
     "{name: extra, key: tz}}}]}]}", {"env": "TZ", "config-maps": "extra"}, "environment that is not configured: TZ"),
    ("a variable from a Secret", "spec: {containers: [{name: gluetun, env: [{name: WIREGUARD_PRESHARED_KEY, valueFrom: "
     "{secretKeyRef: {name: psk, key: key}}}]}]}",
     {"env": "WIREGUARD_PRESHARED_KEY", "secret-env": "+\nWIREGUARD_PRESHARED_KEY=psk/key"},
     "environment that is not configured: WIREGUARD_PRESHARED_KEY"),
    ("an emptyDir, mounted", "spec: {volumes: [{name: more, emptyDir: {}}], containers: [{name: gluetun, volumeMounts: "
     "[{name: more, mountPath: /tmp/gluetun}]}]}", {}, None),
    ("the downward API", volume("downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}"), {},
     None),
    ("a ConfigMap", volume("configMap: {name: extra}"), {"config-maps": "extra"}, VOLUMES),
    ("a Secret", volume("secret: {secretName: extra}"), {"secret-volumes": "extra"}, VOLUMES),
    ("a disk in memory with a limit", volume("emptyDir: {medium: Memory, sizeLimit: 16Mi}"), {}, None),
    ("a sidecar", f"spec:\n  containers:{SIDECAR}\n", SIDECARS, "further containers only with the images configured"),
    ("a sidecar that starts first", f"spec:\n  initContainers:{SIDECAR}\n    restartPolicy: Always\n", SIDECARS,
     "further containers only with the images configured"),
    ("an init container", f"spec:\n  initContainers:{SIDECAR}\n", SIDECARS,
     "further containers only with the images configured"),
]


def gluetun(fields):
    return f"spec: {{volumes: [{{name: more, emptyDir: {{}}}}], containers: [{{name: gluetun, {fields}}}]}}"


def sidecar(old="", new="", more=""):
    return f"spec:\n  containers:{SIDECAR.replace(old, new)}\n    {more}\n"


MORE = {"name": "more", "emptyDir": {}}
MOUNT = {f"{C}/volumeMounts/+": {"name": "more", "mountPath": "/tmp/x"}}
UNLOADED = "no devices but the configured tun device"
LIKE = {**attacks.SIDECAR, "image": "registry.example/exporter:1"}


def beside(**change):
    return {"spec/containers/+": {**LIKE, **change}}


def rights(**change):
    return beside(securityContext={**attacks.RESTRICTED, **change})


#: What the gateway refuses when it starts, by the field; what a pod with it changes of the gateway's; and what the
#: policy says to that, or the API server itself, whatever the Namespace allows.
REFUSED = [
    ("a system priority", "spec: {priorityClassName: system-node-critical}", "spec.priorityClassName",
     {"spec/priorityClassName": "system-node-critical"}, "no system priority"),
    ("a device", gluetun("resources: {limits: {example.com/gpu: '1'}}"), f"{G}.resources.limits[example.com/gpu]",
     {f"{C}/resources/limits/example.com~gpu": "1", f"{C}/resources/requests/example.com~gpu": "1"}, UNLOADED),
    ("a claimed disk", volume("persistentVolumeClaim: {claimName: data}"), "spec.volumes[more].persistentVolumeClaim",
     {"spec/volumes/+": {"name": "more", "persistentVolumeClaim": {"claimName": "data"}}}, VOLUMES),
    ("a CSI volume", volume("csi: {driver: secrets.example.com}"), "spec.volumes[more].csi",
     {"spec/volumes/+": {"name": "more", "csi": {"driver": "secrets.example.com"}}}, VOLUMES),
    ("an ephemeral disk", volume("ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: "
                                 "{requests: {storage: 1Gi}}}}}"), "spec.volumes[more].ephemeral",
     {"spec/volumes/+": {"name": "more", "ephemeral": {"volumeClaimTemplate": {"spec": {
         "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}}, VOLUMES),
    ("huge pages", volume("emptyDir: {medium: HugePages}"), "spec.volumes[more].emptyDir.medium",
     {"spec/volumes/+": {"name": "more", "emptyDir": {"medium": "HugePages"}}}, VOLUMES),
    ("memory without a limit", volume("emptyDir: {medium: Memory}"), "spec.volumes[more].emptyDir.sizeLimit",
     {"spec/volumes/+": {"name": "more", "emptyDir": {"medium": "Memory"}}}, VOLUMES),
    ("a part of a volume", gluetun("volumeMounts: [{name: more, mountPath: /tmp/x, subPath: x}]"),
     f"{G}.volumeMounts[/tmp/x].subPath",
     {"spec/volumes/+": MORE, f"{C}/volumeMounts/+": {"name": "more", "mountPath": "/tmp/x", "subPath": "x"}},
     "no block devices, subPath"),
    ("a mount of nothing", gluetun("volumeMounts: [{name: none, mountPath: /tmp/x}]"), f"{G}.volumeMounts[/tmp/x]",
     MOUNT, "Not found"),
    ("a mount over Gluetun's program", gluetun("volumeMounts: [{name: more, mountPath: /gluetun-entrypoint}]"),
     f"{G}.volumeMounts[/gluetun-entrypoint]",
     {"spec/volumes/+": MORE, f"{C}/volumeMounts/+": {"name": "more", "mountPath": "/gluetun-entrypoint"}},
     attacks.MOUNTS),
    ("an expansion", gluetun("env: [{name: HEALTH_TARGET_ADDRESSES, value: $(HTTPPROXY_PASSWORD)}]"),
     f"{G}.env[HEALTH_TARGET_ADDRESSES].value",
     {f"{C}/env/+": {"name": "GOGC", "value": "$(HTTPPROXY_PASSWORD)"}}, attacks.NO_ENV_FROM),
    ("the VPN key in another variable", gluetun("env: [{name: GOGC, valueFrom: {secretKeyRef: {name: "
     "gluetun-wireguard-credentials, key: wireguard-private-key}}}]"), f"{G}.env[GOGC]",
     {f"{C}/env/+": attacks.secret_env("GOGC", attacks.KEY, "wireguard-private-key")}, attacks.ENVIRONMENT),
    ("no quantity", gluetun("resources: {limits: {cpu: banana}}"), f"{G}.resources.limits[cpu]",
     {f"{C}/resources/limits/cpu": "banana"}, "quantities must match"),
    ("a request above the limit", gluetun("resources: {requests: {cpu: 501m}}"), f"{G}.resources.requests[cpu]",
     {f"{C}/resources/requests/cpu": "501m"}, "must be less than or equal to cpu limit"),
    ("a label that is none", "metadata: {labels: {team: a b}}", "metadata.labels[team]",
     {"metadata/labels/team": "a b"}, "a valid label must be"),
    ("AppArmor unconfined by annotation",
     "metadata: {annotations: {container.apparmor.security.beta.kubernetes.io/gluetun: unconfined}}",
     "metadata.annotations[container.apparmor.security.beta.kubernetes.io/gluetun]",
     {"metadata/annotations/container.apparmor.security.beta.kubernetes.io~gluetun": "unconfined"},
     "security profiles by annotation"),
    ("a further network", "metadata: {annotations: {k8s.v1.cni.cncf.io/networks: host}}",
     "metadata.annotations[k8s.v1.cni.cncf.io/networks]",
     {"metadata/annotations/k8s.v1.cni.cncf.io~networks": "host"}, "further networks"),
    ("a scheduling gate", "spec: {schedulingGates: [{name: example.com/x}]}", "spec.schedulingGates",
     {"spec/schedulingGates": [{"name": "example.com/x"}]}, "no gates"),
    ("groups", "spec: {securityContext: {supplementalGroups: [6]}}", "spec.securityContext",
     {"spec/securityContext": {"supplementalGroups": [6]}}, "no sysctls, groups"),
    ("a sidecar as root", sidecar("runAsNonRoot: true", "runAsUser: 0"), f"{X}.securityContext.runAsUser",
     rights(runAsUser=0, runAsNonRoot=None), RESTRICTED_ONLY),
    ("a sidecar that may be root", sidecar("runAsNonRoot: true", "runAsNonRoot: false"),
     f"{X}.securityContext.runAsNonRoot", rights(runAsNonRoot=False), RESTRICTED_ONLY),
    ("a sidecar with a capability", sidecar("{drop: [ALL]}", "{drop: [ALL], add: [NET_BIND_SERVICE]}"),
     f"{X}.securityContext.capabilities.add",
     rights(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}), RESTRICTED_ONLY),
    ("a sidecar with a profile of the node's", sidecar("{type: RuntimeDefault}", "{type: Localhost, localhostProfile: x}"),
     f"{X}.securityContext.seccompProfile.type",
     rights(seccompProfile={"type": "Localhost", "localhostProfile": "x"}), RESTRICTED_ONLY),
    ("a sidecar with the VPN key", sidecar(more="env: [{name: WIREGUARD_PRIVATE_KEY, valueFrom: {secretKeyRef: {name: "
     "gluetun-wireguard-credentials, key: wireguard-private-key}}}]"), f"{X}.env[WIREGUARD_PRIVATE_KEY]",
     beside(env=[attacks.secret_env("WIREGUARD_PRIVATE_KEY", attacks.KEY, "wireguard-private-key")]),
     "only in Gluetun's container"),
    ("a sidecar with a Secret as environment", sidecar(more="envFrom: [{secretRef: {name: extra}}]"), f"{X}.envFrom",
     beside(envFrom=[{"secretRef": {"name": "extra"}}]), attacks.NO_ENV_FROM),
    ("a sidecar with a file for last words", sidecar(more="terminationMessagePath: /bin/sh"),
     f"{X}.terminationMessagePath", beside(terminationMessagePath="/bin/sh"), "last words"),
    ("a sidecar with a port of the node", sidecar(more="ports: [{containerPort: 1, hostPort: 1}]"),
     f"{X}.ports[1].hostPort", beside(ports=[{"containerPort": 1, "hostPort": 1}]), "no ports of the node"),
]
#: The settings that the example of docs/pods.md needs.
EXAMPLE = {**SIDECARS, "env": "TZ"}
EXAMPLE_WITHOUT = ["further containers only with the images configured", "environment that is not configured: TZ"]


def example():
    """The template that docs/pods.md shows."""
    with open(os.path.join(ROOT, "docs/pods.md"), encoding="utf-8") as file:
        section = file.read().partition("## `POD_TEMPLATE_FILE`")[2]
    return re.search(r"```yaml\n(.*?)```", section, re.S)[1]


class Templates:
    """`play` knows how to create pods as the gateway, and how to set what the Namespace allows."""

    def __init__(self, play, binary):
        self.play, self.binary, self.check, self.cluster = play, binary, play.check, play.cluster
        users = subprocess.run([binary, "hash-password", "--user", "alice"], input="secret\n", text=True,
                               capture_output=True, check=True).stdout
        config = self.cluster.must("GET", f"{play.home}/configmaps/gluetun-gateway-config")["data"]
        self.environment = {**config, "USERS_FILE": self.cluster.write("template-users", users),
                            "K8S_NAMESPACE": play.namespace}

    def gateway(self, template, *arguments, **more):
        """The gateway's program, with that template."""
        file = self.cluster.write("template.yaml", template)
        return subprocess.run([self.binary, *arguments], capture_output=True, text=True,
                              env={**self.environment, **more, "POD_TEMPLATE_FILE": file})

    def pod(self, template):
        """The pod that the gateway makes with it, in YAML."""
        out = self.gateway(template, "manifest", "--user", "alice-country-se")
        if out.returncode:
            raise RuntimeError(f"the gateway refuses the template:\n{template}\n{out.stderr}")
        return out.stdout

    def create(self, pod):
        path = f"{self.play.pods}?dryRun=All"
        status, answer = self.cluster.request("POST", path, pod, self.play.token, "application/yaml")
        return status, answer.get("message", "") if isinstance(answer, dict) else answer

    def run(self):
        for path, kind, name, more in [
            ("scheduling.k8s.io/v1/priorityclasses", "PriorityClass", "exits", {"value": 1000, "preemptionPolicy": "Never"}),
            ("node.k8s.io/v1/runtimeclasses", "RuntimeClass", "gvisor", {"handler": "runsc"}),
        ]:
            self.cluster.must("POST", f"/apis/{path}", {"kind": kind, "metadata": {"name": name}, **more})
        for what, template, settings, refusal in TEMPLATES:
            self.one(what, template, settings, [refusal] if refusal else [])
        self.one("the example of docs/pods.md", example(), EXAMPLE, EXAMPLE_WITHOUT)
        self.refused()
        self.play.settings({})
        self.judged()

    def refused(self):
        """What no setting lets in ends the start, and would be refused."""
        plain = changed(gateway_pod(), beside())
        self.play.settings(SIDECARS, lambda: self.create(json.dumps(plain))[0] == 201)
        self.check("a sidecar is let in", self.create(json.dumps(plain))[0] == 201)
        for what, template, path, change, text in REFUSED:
            out = self.gateway(template, "check")
            self.check(f"a template with {what} ends the start", out.returncode == 64 and f": {path}: " in out.stderr,
                       f"{out.returncode} {out.stderr}")
            status, said = self.create(json.dumps(changed(gateway_pod(), change)))
            self.check(f"a pod with {what} is refused", status in (400, 403, 422) and text in said, f"{status} {said}")

    def judged(self):
        """`check --cluster`: what it says of the operator, of the gateway as the operator, and as the gateway."""
        operator = self.cluster.kubeconfig("operator.kubeconfig", "manifests-admin", self.play.namespace)
        gateway = self.cluster.kubeconfig("gateway.kubeconfig", self.play.token, self.play.namespace)
        user = f"system:serviceaccount:{self.play.namespace}:gluetun-gateway"
        secret = {"metadata": {"name": attacks.KEY}, "stringData": {"wireguard-private-key": "a", "wireguard-addresses": "b"}}
        secrets = f"{self.play.home}/secrets"
        self.cluster.must("POST", secrets, secret)
        refused, admitted = "environment that is not configured: TZ", "a VPN pod would be admitted, made by "
        template = "spec: {containers: [{name: gluetun, env: [{name: TZ, value: UTC}]}]}"
        for what, config, arguments, code, says, says_not in [
            ("as the operator", operator, [], 0,
             [f"warning  rights and admission are judged as admin: ", f"--as {user}\n", f"ok       {admitted}admin\n",
              "ok       Secret ", "would do for admin\n"], [refused]),
            ("as the operator for the gateway", operator, ["--as", user], 1,
             [f"ok       rights and admission are judged as {user}\n", f"BAD      {admitted}{user}: ", refused,
              "ok       may create pods\n", "ok       Secret "], ["warning"]),
            ("as the gateway", gateway, [], 1,
             [f"ok       rights and admission are judged as {user}\n", f"BAD      {admitted}{user}: ", refused,
              "unknown  Secret "], ["warning"]),
            ("as the operator for somebody without rights", operator, ["--as", "bob", "--as-group", "friends"], 1,
             ["ok       rights and admission are judged as bob\n", "BAD      may create pods: bob lacks verb create",
              "ok       Secret "], ["the Role lacks"]),
            ("as the gateway for somebody else", gateway, ["--as", "bob"], 1, [], ["ok "]),
        ]:
            out = self.gateway(template, "check", "--cluster", *arguments, KUBECONFIG=config)
            self.check(f"check --cluster {what}", out.returncode == code and all(text in out.stdout for text in says)
                       and not any(text in out.stdout for text in says_not), f"{out.returncode} {out.stdout}{out.stderr}")
        self.check("check --cluster says why it may not speak for somebody",
                   '" cannot impersonate' in out.stderr and "verb impersonate" in out.stderr, out.stderr)
        out = self.gateway("{}", "check", "--cluster", "--as", user, KUBECONFIG=operator)
        self.check("check --cluster of a gateway that will do",
                   out.returncode == 0 and out.stdout.endswith("and the cluster will do\n"), out.stdout + out.stderr)
        self.cluster.must("DELETE", f"{secrets}/{attacks.KEY}")

    def one(self, what, template, settings, refusals):
        """`settings` of None: there is none that would let it in."""
        pod = self.pod(template)
        if refusals:
            self.play.settings({}, lambda: self.create(pod)[0] != 201)
            status, said = self.create(pod)
            self.check(f"a template with {what} is refused as documented",
                       status in (403, 422) and any(refusal in said for refusal in refusals), f"{status} {said}")
        if settings is None or (refusals and not settings):
            return
        self.play.settings(settings, lambda: self.create(pod)[0] == 201)
        status, said = self.create(pod)
        self.check(f"a template with {what} is let in", status == 201, f"{status} {said}")
