"""Templates of the operator's, as POD_TEMPLATE_FILE takes them, beside the admission policy: each is merged by the
gateway itself (`manifest`), and the pod that comes of it is let in, needs a setting of the Namespace, or is refused by
the installed policy with its own words. docs/pods.md has the same in its table."""

import os
import re
import subprocess

from attacks import ROOT, VOLUMES

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
    ("a system priority", "spec: {priorityClassName: system-node-critical}", {}, "no system priority"),
    ("a scheduler", "spec: {schedulerName: other}", {}, None),
    ("a runtime class", "spec: {runtimeClassName: gvisor}", {"runtime-classes": "gvisor"},
     "runtime classes only as configured"),
    ("DNS", "spec: {dnsPolicy: None, dnsConfig: {nameservers: [9.9.9.9]}}", {}, None),
    ("host aliases", "spec: {hostAliases: [{ip: 192.0.2.1, hostnames: [origin.example]}]}", {}, None),
    ("pull secrets", "spec: {imagePullSecrets: [{name: mirror}]}", {}, None),
    ("a grace period", "spec: {terminationGracePeriodSeconds: 10}", {}, None),
    ("resources", "spec: {containers: [{name: gluetun, resources: {limits: {cpu: '1', memory: 512Mi}}}]}", {}, None),
    ("a device", "spec: {containers: [{name: gluetun, resources: {limits: {example.com/gpu: 1}}}]}", {},
     "no devices but the configured tun device"),
    ("a pull policy", "spec: {containers: [{name: gluetun, imagePullPolicy: Always}]}", {}, None),
    ("a variable that the gateway sets too", "spec: {containers: [{name: gluetun, env: [{name: GOMEMLIMIT, "
     "value: 400MiB}]}]}", {}, None),
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
    ("a claimed disk", volume("persistentVolumeClaim: {claimName: data}"), None, VOLUMES),
    ("a CSI volume", volume("csi: {driver: secrets.example.com}"), None, VOLUMES),
    ("an ephemeral disk", volume("ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: "
                                 "{requests: {storage: 1Gi}}}}}"), None, VOLUMES),
    ("a part of a volume", "spec: {volumes: [{name: more, emptyDir: {}}], containers: [{name: gluetun, volumeMounts: "
     "[{name: more, mountPath: /tmp/gluetun, subPath: x}]}]}", None, "no block devices, subPath"),
    ("a sidecar", f"spec:\n  containers:{SIDECAR}\n", SIDECARS, "further containers only with the images configured"),
    ("a sidecar that starts first", f"spec:\n  initContainers:{SIDECAR}\n    restartPolicy: Always\n", SIDECARS,
     "further containers only with the images configured"),
    ("an init container", f"spec:\n  initContainers:{SIDECAR}\n", SIDECARS,
     "further containers only with the images configured"),
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

    def pod(self, template):
        """The pod that the gateway makes with it, in YAML."""
        file = self.cluster.write("template.yaml", template)
        out = subprocess.run([self.binary, "manifest", "--user", "alice-country-se"], capture_output=True, text=True,
                             env={**self.environment, "POD_TEMPLATE_FILE": file})
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
        self.play.settings({})

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
