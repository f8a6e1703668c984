"""What somebody tries who has stolen the gateway's token, each with a part of the refusal that has to meet it;
and what has to be let in. All of it against the real API server, by a server-side dry run."""

import copy
import json
import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
POD_POLICY = "ValidatingAdmissionPolicy 'gluetun-gateway-pods'"
CHANGES_POLICY = "ValidatingAdmissionPolicy 'gluetun-gateway-changes'"
JOB_POLICY = "ValidatingAdmissionPolicy 'gluetun-gateway-jobs'"

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def gateway_pod():
    """A VPN pod, as the gateway makes it: its own golden file."""
    with open(os.path.join(ROOT, "src/controller/testdata/pod.json"), encoding="utf-8") as file:
        return json.load(file)


def gateway_job():
    """The server list's Job, as the gateway makes it."""
    labels = {
        "app.kubernetes.io/name": "gluetun",
        "app.kubernetes.io/component": "server-list",
        "app.kubernetes.io/part-of": "gluetun-gateway",
        "app.kubernetes.io/managed-by": "gluetun-gateway",
        "sidecar.istio.io/inject": "false",
    }
    container = {
        "name": "format-servers",
        "image": "qmcgaw/gluetun:v3.41.3",
        "command": ["/gluetun-entrypoint"],
        "args": ["format-servers", "-mullvad", "-format", "json"],
        "env": [{"name": "STORAGE_FILEPATH", "value": ""}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}},
        "securityContext": dict(
            RESTRICTED, privileged=False, readOnlyRootFilesystem=True, runAsGroup=65532),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "gluetun-gateway-servers", "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 60,
            "ttlSecondsAfterFinished": 30,
            "template": {
                "metadata": {"labels": labels, "annotations": {"linkerd.io/inject": "disabled"}},
                "spec": {
                    "containers": [container],
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 1,
                },
            },
        },
    }


def changed(base, change):
    """A copy with the changes made: {path: value}, where None removes, a last "+" appends, and ~ is a slash."""
    copied = copy.deepcopy(base)
    for path, value in change.items():
        at = copied
        *way, last = [step.replace("~", "/") for step in path.split("/")]
        for step in way:
            at = at[int(step)] if step.isdigit() else at.setdefault(step, {})
        if last == "+":
            at.append(value)
        elif value is None:
            at.pop(last, None)
        else:
            at[int(last) if last.isdigit() else last] = value
    return copied


def secret_env(name, secret, key):
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


KEY = "gluetun-wireguard-credentials"
C = "spec/containers/0"
SIDECAR = {"name": "sidecar", "image": "docker.io/library/busybox:1.37", "securityContext": RESTRICTED}
MOUNTS = "nothing is mounted but /dev/net/tun"
VOLUMES = "no volume but the node's /dev/net/tun"
PROFILE = "the runtime's default profiles"
COMMAND = "the image's own command, no lifecycle hooks"
ENVIRONMENT = "Secrets and ConfigMaps in the environment only as configured"
HOST = "no host namespaces"
ACCOUNT = "no service account but the default one, and not its token"
NODE = "no node by name"
LABELS = "labels and name must be those of a VPN pod"
DEVICES = "no devices but the configured tun device"
NO_ENV_FROM = "no envFrom, and no $(VARIABLE)"


def program_from_an_annotation(place):
    """A volume that has an annotation for a program, mounted at `place`."""
    return {
        "metadata/annotations/x": "#!/bin/sh",
        "spec/volumes/+": {"name": "x", "downwardAPI": {"items": [
            {"path": "iptables", "mode": 0o755, "fieldRef": {"fieldPath": "metadata.annotations['x']"}}]}},
        f"{C}/volumeMounts/+": {"name": "x", "mountPath": place},
    }


# What it is called, what it changes of a VPN pod, and what the refusal says.
PODS = [
    ("a privileged container",
     {f"{C}/securityContext/privileged": True, f"{C}/securityContext/allowPrivilegeEscalation": None}, PROFILE),
    ("privilege escalation", {f"{C}/securityContext/allowPrivilegeEscalation": None}, PROFILE),
    ("CAP_SYS_ADMIN", {f"{C}/securityContext/capabilities/add": ["NET_ADMIN", "SYS_ADMIN"]}, PROFILE),
    ("MKNOD without TUN_DEVICE=mknod", {f"{C}/securityContext/capabilities/add": ["NET_ADMIN", "MKNOD"]}, PROFILE),
    ("capabilities kept", {f"{C}/securityContext/capabilities/drop": []}, PROFILE),
    ("no security context", {f"{C}/securityContext": None}, PROFILE),
    ("seccomp Unconfined", {f"{C}/securityContext/seccompProfile/type": "Unconfined"}, PROFILE),
    ("AppArmor Unconfined", {f"{C}/securityContext/appArmorProfile": {"type": "Unconfined"}}, PROFILE),
    ("an SELinux type", {f"{C}/securityContext/seLinuxOptions": {"type": "spc_t"}}, PROFILE),
    ("an unmasked /proc", {f"{C}/securityContext/procMount": "Unmasked", "spec/hostUsers": False}, PROFILE),
    ("AppArmor by annotation",
     {"metadata/annotations/container.apparmor.security.beta.kubernetes.io~gluetun": "unconfined"},
     "security profiles by annotation"),
    ("the host's network", {"spec/hostNetwork": True}, HOST),
    ("the host's processes", {"spec/hostPID": True}, HOST),
    ("the host's IPC", {"spec/hostIPC": True}, HOST),
    ("a shared process namespace", {"spec/shareProcessNamespace": True}, HOST),
    ("the host's root", {"spec/volumes/+": {"name": "x", "hostPath": {"path": "/"}}}, VOLUMES),
    ("the runtime's socket",
     {"spec/volumes/+": {"name": "x", "hostPath": {"path": "/run/containerd/containerd.sock"}}}, VOLUMES),
    ("a path beside the device",
     {"spec/volumes/0/hostPath": {"path": "/dev/net/tun/../../sda", "type": "CharDevice"}}, "must not contain '..'"),
    ("another device", {"spec/volumes/0/hostPath": {"path": "/dev/kmsg", "type": "CharDevice"}}, VOLUMES),
    ("the device's path as a directory",
     {"spec/volumes/0/hostPath": {"path": "/dev/net/tun", "type": "DirectoryOrCreate"}}, VOLUMES),
    ("a service account's token by projection",
     {"spec/volumes/+": {"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}}, VOLUMES),
    ("the users file", {"spec/volumes/+": {"name": "x", "secret": {"secretName": "gluetun-gateway-users"}}}, VOLUMES),
    ("the VPN key as a volume", {"spec/volumes/+": {"name": "x", "secret": {"secretName": KEY}}}, VOLUMES),
    ("a ConfigMap",
     {"spec/volumes/+": {"name": "x", "configMap": {"name": "gluetun-gateway-config"}}}, VOLUMES),
    ("a CSI volume", {"spec/volumes/+": {"name": "x", "csi": {"driver": "secrets.example.com"}}}, VOLUMES),
    ("somebody's disk",
     {"spec/volumes/+": {"name": "x", "persistentVolumeClaim": {"claimName": "data"}}}, VOLUMES),
    ("a subPath", {f"{C}/volumeMounts/0/subPath": "x"}, "subPath"),
    ("a subPathExpr", {f"{C}/volumeMounts/0/subPathExpr": "$(HTTPPROXY)"}, "subPath"),
    ("mount propagation", {f"{C}/volumeMounts/0/mountPropagation": "HostToContainer"}, "mount propagation"),
    ("a program from an annotation", program_from_an_annotation("/sbin"), MOUNTS),
    ("a program from an annotation, on a detour", program_from_an_annotation("/mnt/../sbin"), MOUNTS),
    ("an empty directory over Gluetun's own", {
        "spec/volumes/+": {"name": "x", "emptyDir": {}},
        f"{C}/volumeMounts/+": {"name": "x", "mountPath": "/gluetun"},
    }, MOUNTS),
    ("the device somewhere else", {f"{C}/volumeMounts/0/mountPath": "/dev/net"}, MOUNTS),
    ("a file for last words over a program", {f"{C}/terminationMessagePath": "/sbin/iptables"}, "last words"),
    ("a container that is started again", {f"{C}/restartPolicy": "Always"}, "no restarts"),
    ("a further network", {"metadata/annotations/k8s.v1.cni.cncf.io~networks": "host"}, "further networks"),
    ("another network", {"metadata/annotations/v1.multus-cni.io~default-network": "host"}, "further networks"),
    ("another image", {f"{C}/image": "docker.io/library/alpine:3"}, "with an image of a configured repository"),
    ("an image that only begins alike", {f"{C}/image": "qmcgaw/gluetun-evil:v1"},
     "with an image of a configured repository"),
    ("an image below the repository", {f"{C}/image": "qmcgaw/gluetun/evil:v1"},
     "with an image of a configured repository"),
    ("an image of a registry called like the repository", {f"{C}/image": "qmcgaw/gluetun:5000/evil"},
     "with an image of a configured repository"),
    ("a digest below such a registry", {f"{C}/image": "qmcgaw/gluetun:5000/evil@sha256:" + "0" * 64},
     "with an image of a configured repository"),
    ("a command", {f"{C}/command": ["sh", "-c", "id"]}, COMMAND),
    ("arguments", {f"{C}/args": ["update"]}, COMMAND),
    ("a lifecycle hook", {f"{C}/lifecycle": {"postStart": {"exec": {"command": ["id"]}}}}, COMMAND),
    ("a probe that executes", {f"{C}/readinessProbe/exec": {"command": ["id"]}, f"{C}/readinessProbe/httpGet": None},
     COMMAND),
    ("a liveness probe", {f"{C}/livenessProbe": {"exec": {"command": ["id"]}}}, COMMAND),
    ("a startup probe", {f"{C}/startupProbe": {"exec": {"command": ["id"]}}}, COMMAND),
    ("a probe of another host", {f"{C}/readinessProbe/httpGet/host": "169.254.169.254"}, COMMAND),
    ("the users file in the environment", {f"{C}/env/+": secret_env("GOGC", "gluetun-gateway-users", "users")},
     ENVIRONMENT),
    # Gluetun would print it: "the hostname specified is not valid", and the gateway may read logs.
    ("the VPN key as a host name", {f"{C}/env/+": secret_env("SERVER_HOSTNAMES", KEY, "wireguard-private-key")},
     ENVIRONMENT),
    ("the VPN key as an address", {f"{C}/env/3": secret_env("WIREGUARD_ADDRESSES", KEY, "wireguard-private-key")},
     ENVIRONMENT),
    ("the VPN key by expansion", {f"{C}/env/4/value": "$(WIREGUARD_PRIVATE_KEY)"}, NO_ENV_FROM),
    ("a VPN key of one's own", {f"{C}/env/2": {"name": "WIREGUARD_PRIVATE_KEY", "value": "x"}},
     "the VPN key only from its Secret"),
    ("a command of Gluetun's", {f"{C}/env/+": {"name": "VPN_PORT_FORWARDING_UP_COMMAND", "value": "id"}},
     "environment that is not configured: VPN_PORT_FORWARDING_UP_COMMAND"),
    ("a Secret as environment", {f"{C}/envFrom": [{"secretRef": {"name": KEY}}]}, NO_ENV_FROM),
    ("a ConfigMap as environment", {f"{C}/envFrom": [{"configMapRef": {"name": "gluetun-gateway-config"}}]},
     NO_ENV_FROM),
    ("the gateway's own account", {"spec/serviceAccountName": "gluetun-gateway"}, ACCOUNT),
    ("the account's token", {"spec/automountServiceAccountToken": True}, ACCOUNT),
    ("the account's token by default", {"spec/automountServiceAccountToken": None}, ACCOUNT),
    ("an init container", {"spec/initContainers": [SIDECAR]}, "further containers only with the images configured"),
    ("a privileged init container",
     {"spec/initContainers": [dict(SIDECAR, image="qmcgaw/gluetun:v3.41.3", securityContext={"privileged": True})]},
     "further containers only"),
    ("another container", {"spec/containers/+": SIDECAR}, "further containers only with the images configured"),
    ("no container of Gluetun's", {f"{C}/name": "other"}, "one container called gluetun"),
    ("a port of the node", {f"{C}/ports/0/hostPort": 8888}, "no ports of the node"),
    ("a runtime class", {"spec/runtimeClassName": "unconfined"}, NODE),
    ("a node by name", {"spec/nodeName": "control-plane"}, NODE),
    ("a system priority", {"spec/priorityClassName": "system-node-critical"}, NODE),
    ("restarts", {"spec/restartPolicy": "Always"}, NODE),
    ("sysctls", {"spec/securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}, "no sysctls"),
    ("seccomp Unconfined for the pod", {"spec/securityContext": {"seccompProfile": {"type": "Unconfined"}}},
     "no sysctls"),
    ("groups of the node's", {"spec/securityContext": {"supplementalGroups": [0, 6]}}, "no sysctls, groups"),
    ("a group for volumes", {"spec/securityContext": {"fsGroup": 0}}, "no sysctls, groups"),
    ("a user for the pod", {"spec/securityContext": {"runAsUser": 0}}, "no sysctls, groups"),
    ("resources for the pod", {"spec/resources": {"limits": {"cpu": "64", "memory": "64Gi"}}}, "no sysctls, groups"),
    ("a scheduling gate", {"spec/schedulingGates": [{"name": "example.com/never"}]}, "no sysctls, groups"),
    ("a readiness gate", {"spec/readinessGates": [{"conditionType": "example.com/never"}]}, "no sysctls, groups"),
    ("a disk in huge pages", {"spec/volumes/+": {"name": "x", "emptyDir": {"medium": "HugePages"}}}, VOLUMES),
    ("a disk in huge pages of a size", {
        "spec/volumes/+": {"name": "x", "emptyDir": {"medium": "HugePages-2Mi", "sizeLimit": "2Mi"}}}, VOLUMES),
    ("a disk in memory without a limit", {"spec/volumes/+": {"name": "x", "emptyDir": {"medium": "Memory"}}}, VOLUMES),
    ("Istio's sidecar", {"metadata/labels/sidecar.istio.io~inject": "true"}, LABELS),
    ("Istio's sidecar where the namespace has it", {"metadata/labels/sidecar.istio.io~inject": None}, LABELS),
    ("Linkerd's sidecar", {"metadata/annotations/linkerd.io~inject": "enabled"}, LABELS),
    ("a device plugin's device", {f"{C}/resources/limits/example.com~mem": "1"}, DEVICES),
    ("a dynamic resource",
     {"spec/resourceClaims": [{"name": "x", "resourceClaimName": "y"}]}, DEVICES),
    ("no labels", {"metadata/labels": None}, LABELS),
    ("the gateway's labels", {"metadata/labels/app.kubernetes.io~name": "gluetun-gateway"}, LABELS),
    ("a way to the admin port", {"metadata/labels/gluetun-gateway~admin": "allowed"}, LABELS),
    ("another name", {"metadata/name": "gluetun-other"}, LABELS),
    ("a finalizer", {"metadata/finalizers": ["example.com/stuck"]}, "no finalizers"),
]

T = "spec/template/spec"
JC = f"{T}/containers/0"
LIST_ONLY = "the container only as the Pod Security level restricted has it"
LIST_BARE = "no volumes, init containers"
JOBS = [
    ("a privileged container",
     {f"{JC}/securityContext/privileged": True, f"{JC}/securityContext/allowPrivilegeEscalation": None}, LIST_ONLY),
    ("root", {f"{JC}/securityContext/runAsUser": 0, f"{JC}/securityContext/runAsNonRoot": None}, LIST_ONLY),
    ("a capability", {f"{JC}/securityContext/capabilities/add": ["NET_ADMIN"]}, LIST_ONLY),
    ("a writable root", {f"{JC}/securityContext/readOnlyRootFilesystem": False}, LIST_ONLY),
    ("the host's root", {f"{T}/volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, LIST_BARE),
    ("the VPN key as a volume", {f"{T}/volumes": [{"name": "x", "secret": {"secretName": KEY}}]}, LIST_BARE),
    ("an emptyDir", {f"{T}/volumes": [{"name": "x", "emptyDir": {}}]}, LIST_BARE),
    ("an init container", {f"{T}/initContainers": [SIDECAR]}, LIST_BARE),
    ("a runtime class", {f"{T}/runtimeClassName": "x"}, LIST_BARE),
    ("sysctls", {f"{T}/securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}, LIST_BARE),
    ("the host's network", {f"{T}/hostNetwork": True}, HOST),
    ("the host's processes", {f"{T}/hostPID": True}, HOST),
    ("another image", {f"{JC}/image": "docker.io/library/alpine:3"}, "one container, with an image of a configured"),
    ("another container", {f"{T}/containers/+": SIDECAR}, "one container, with an image of a configured"),
    ("a shell", {f"{JC}/command": ["sh", "-c", "id"]}, "no command but"),
    ("another subcommand", {f"{JC}/args": ["update", "-mullvad", "-format", "json"]}, "no command but"),
    ("an output file", {f"{JC}/args/+": "-output=/x"}, "no command but"),
    ("the VPN key", {f"{JC}/env/+": secret_env("X", KEY, "wireguard-private-key")}, "no environment, hooks"),
    ("a Secret as environment", {f"{JC}/envFrom": [{"secretRef": {"name": KEY}}]}, "no environment, hooks"),
    ("a lifecycle hook", {f"{JC}/lifecycle": {"postStart": {"exec": {"command": ["id"]}}}}, "no environment, hooks"),
    ("a port of the node", {f"{JC}/ports": [{"containerPort": 1, "hostPort": 1}]}, "no environment, hooks"),
    ("a device", {f"{JC}/resources/limits/example.com~mem": "1"}, "no devices"),
    ("the gateway's own account", {f"{T}/serviceAccountName": "gluetun-gateway"}, ACCOUNT),
    ("the account's token", {f"{T}/automountServiceAccountToken": True}, ACCOUNT),
    ("an image of a registry called like the repository", {f"{JC}/image": "qmcgaw/gluetun:5000/evil"},
     "one container, with an image of a configured"),
    ("a file for last words", {f"{JC}/terminationMessagePath": "/gluetun-entrypoint"}, "no environment, hooks"),
    ("groups of the node's", {f"{T}/securityContext": {"supplementalGroups": [0, 6]}}, LIST_BARE),
    ("resources for the pod", {f"{T}/resources": {"limits": {"cpu": "64", "memory": "64Gi"}}}, LIST_BARE),
    ("a scheduling gate", {f"{T}/schedulingGates": [{"name": "example.com/never"}]}, LIST_BARE),
    ("a further network", {"spec/template/metadata/annotations/k8s.v1.cni.cncf.io~networks": "host"}, LIST_BARE),
    ("no start", {"spec/suspend": True}, "one pod, once"),
    ("a controller of somebody's", {"spec/managedBy": "example.com/controller"}, "one pod, once"),
    ("a selector of its own",
     {"spec/manualSelector": True, "spec/selector": {"matchLabels": {"app.kubernetes.io/component": "server-list"}}},
     "one pod, once"),
    ("an index", {"spec/completionMode": "Indexed", "spec/completions": 1}, "one pod, once"),
    ("a hundred pods", {"spec/parallelism": 100, "spec/completions": 100}, "one pod, once"),
    ("a week", {"spec/activeDeadlineSeconds": 604800}, "one pod, once"),
    ("the labels of a VPN pod", {"spec/template/metadata/labels/app": "gluetun-vpn"}, "labels must be those"),
    ("the gateway's labels", {"spec/template/metadata/labels/app.kubernetes.io~name": "gluetun-gateway"},
     "labels must be those"),
]

# Values of TUN_DEVICE, and what each changes of the golden pod (as controller::manifest does).
NO_VOLUME = {"spec/volumes": None, f"{C}/volumeMounts": None}
DEVICES_OF = [
    ("hostPath", {}),
    ("mknod", dict(
        NO_VOLUME, **{f"{C}/securityContext/capabilities/add": ["NET_ADMIN", "MKNOD", "DAC_OVERRIDE"]})),
    ("none", NO_VOLUME),
    ("squat.ai/tun", dict(
        NO_VOLUME, **{f"{C}/resources/limits/squat.ai~tun": "1", f"{C}/resources/requests/squat.ai~tun": "1"})),
]

# What the policy lets an operator's template add, each with the settings that allow it.
TEMPLATES = [
    ("a node selector, tolerations, affinity, a priority, DNS and resources", {}, {
        "spec/nodeSelector": {"vpn": "yes"},
        "spec/tolerations": [{"key": "vpn", "operator": "Exists"}],
        "spec/affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "vpn", "operator": "Exists"}]}]}}},
        "spec/dnsConfig": {"nameservers": ["9.9.9.9"]},
        "spec/imagePullSecrets": [{"name": "registry"}],
        "metadata/labels/team": "red",
        "metadata/annotations/example.com~note": "x",
        f"{C}/resources/limits/cpu": "1",
    }),
    ("another Gluetun setting", {"env": "TZ\nLOG_LEVEL"}, {f"{C}/env/+": {"name": "LOG_LEVEL", "value": "info"}}),
    ("a preshared key", {"secret-env": "+\nWIREGUARD_PRESHARED_KEY=psk/key", "env": "WIREGUARD_PRESHARED_KEY"},
     {f"{C}/env/+": secret_env("WIREGUARD_PRESHARED_KEY", "psk", "key")}),
    ("a read-only root", {}, {
        f"{C}/securityContext/readOnlyRootFilesystem": True,
        "spec/volumes/+": {"name": "tmp", "emptyDir": {}},
        f"{C}/volumeMounts/+": {"name": "tmp", "mountPath": "/tmp"},
    }),
    ("a sidecar", {"sidecar-images": "docker.io/library/busybox"}, {"spec/containers/+": SIDECAR}),
    ("a sidecar that starts first", {"sidecar-images": "docker.io/library/busybox:1.37"},
     {"spec/initContainers": [dict(SIDECAR, restartPolicy="Always")]}),
    ("a ConfigMap", {"config-maps": "extra"},
     {"spec/volumes/+": {"name": "x", "configMap": {"name": "extra"}}}),
    ("a disk in memory with a limit", {}, {
        "spec/volumes/+": {"name": "x", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        f"{C}/volumeMounts/+": {"name": "x", "mountPath": "/tmp"},
    }),
    ("a runtime class", {"runtime-classes": "kata"}, {"spec/runtimeClassName": "kata"}),
    ("an image by digest", {}, {f"{C}/image": "qmcgaw/gluetun@sha256:" + "0" * 64}),
    ("an image by tag and digest", {}, {f"{C}/image": "ghcr.io/qdm12/gluetun:v3@sha256:" + "0" * 64}),
    ("an image of a registry of one's own", {"images": "registry.example.com:5000/gluetun:v3"},
     {f"{C}/image": "registry.example.com:5000/gluetun:v3"}),
]

# A sidecar is no way around `restricted`, even with an image that is allowed.
SIDECARS = [
    ("a privileged sidecar", {"securityContext": {"privileged": True}}),
    ("a sidecar as root", {"securityContext": dict(RESTRICTED, runAsUser=0, runAsNonRoot=False)}),
    ("a sidecar with a capability",
     {"securityContext": dict(RESTRICTED, capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]})}),
    ("a sidecar without a security context", {"securityContext": None}),
    ("a sidecar with the VPN key", {"env": [secret_env("X", KEY, "wireguard-private-key")]}),
    ("a sidecar with the VPN key under its own name",
     {"env": [secret_env("WIREGUARD_PRIVATE_KEY", KEY, "wireguard-private-key")]}),
    ("a sidecar of a registry called like the repository", {"image": "docker.io/library/busybox:5000/evil"}),
    ("a sidecar with the VPN key as environment", {"envFrom": [{"secretRef": {"name": KEY}}]}),
    ("a sidecar with a port of the node", {"ports": [{"containerPort": 1, "hostPort": 1}]}),
]
