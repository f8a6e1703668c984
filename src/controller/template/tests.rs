//! What each kind of field does to the pod, line by line, and what is refused, by its path.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

use super::*;
use crate::controller::manifest::{Credentials, pod};
use crate::controller::testing;
use crate::secret::Secret;

/// The pod as it is without a template.
fn plain() -> Pod {
    let claim = testing::claim(&testing::key("demo-country-se"), "5c0a8f2e-1d8e-4c5e-9c0a-6f1d2b3a4c5d");
    let credentials = Credentials {
        user: "pod.0123456789abcdefghij".to_owned(),
        password: Secret::from("0123456789abcdef0123456789ABCDEF"),
        control_key: Secret::from("FEDCBA9876543210fedcba9876543210"),
    };
    pod(&testing::config(), &claim, 0, &testing::catalogue(1).servers()[0], &credentials)
}

/// Every leaf of a value by its path, elements of lists by name where they have one.
fn leaves(value: &Value, path: &str, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(value, &path, into);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (index, value) in list.iter().enumerate() {
                let name = ["name", "mountPath", "key"].iter().find_map(|key| value.get(key)?.as_str());
                let name = name.map_or_else(|| index.to_string(), str::to_owned);
                leaves(value, &format!("{path}[{name}]"), into);
            }
        }
        Value::String(text) => _ = into.insert(path.to_owned(), text.clone()),
        other => _ = into.insert(path.to_owned(), other.to_string()),
    }
}

/// What the template changes: `+ path = value` and `- path = value`.
fn changes(template: &str) -> String {
    let template = Template::parse(template).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let plain = plain();
    let told = |pod: &Pod| {
        let mut told = BTreeMap::new();
        leaves(&serde_json::to_value(pod).unwrap(), "", &mut told);
        told
    };
    let (before, after) = (told(&plain), told(&template.apply(&plain).unwrap()));
    let gone = before.iter().filter(|(path, value)| after.get(*path) != Some(value));
    let come = after.iter().filter(|(path, value)| before.get(*path) != Some(value));
    let gone = gone.map(|(path, value)| format!("- {path} = {value}"));
    let come = come.map(|(path, value)| format!("+ {path} = {value}"));
    gone.chain(come).collect::<Vec<_>>().join("\n")
}

/// The golden test of a kind of field.
macro_rules! golden {
    ($($name:ident: $template:literal => $changes:literal;)*) => {$(
        #[test]
        fn $name() {
            assert_eq!(changes($template), $changes.trim());
        }
    )*};
}

golden! {
    node_selector: "spec: {nodeSelector: {disktype: ssd}}" => "+ spec.nodeSelector.disktype = ssd";
    affinity: "
spec:
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 10
        podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: gluetun-vpn}}}
" => "
+ spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector.matchLabels.app = gluetun-vpn
+ spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey = kubernetes.io/hostname
+ spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight = 10";
    tolerations: "spec: {tolerations: [{key: vpn, operator: Exists, effect: NoSchedule}]}" => "
+ spec.tolerations[vpn].effect = NoSchedule
+ spec.tolerations[vpn].key = vpn
+ spec.tolerations[vpn].operator = Exists";
    spread: "
spec: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]}" => "
+ spec.topologySpreadConstraints[0].maxSkew = 1
+ spec.topologySpreadConstraints[0].topologyKey = zone
+ spec.topologySpreadConstraints[0].whenUnsatisfiable = ScheduleAnyway";
    priority: "spec: {priorityClassName: low, preemptionPolicy: Never}" => "
+ spec.preemptionPolicy = Never
+ spec.priorityClassName = low";
    runtime_class: "spec: {runtimeClassName: kata, schedulerName: other}" => "
+ spec.runtimeClassName = kata
+ spec.schedulerName = other";
    other_nameservers: "spec: {dnsConfig: {nameservers: [9.9.9.9], options: [{name: ndots, value: '1'}]}}" => "
- spec.dnsConfig.nameservers[0] = 1.1.1.1
+ spec.dnsConfig.nameservers[0] = 9.9.9.9
+ spec.dnsConfig.options[ndots].name = ndots
+ spec.dnsConfig.options[ndots].value = 1";
    the_clusters_dns: "spec: {dnsPolicy: ClusterFirst}" => "
- spec.dnsConfig.nameservers[0] = 1.1.1.1
- spec.dnsPolicy = None
+ spec.dnsPolicy = ClusterFirst";
    host_aliases: "spec: {hostAliases: [{ip: 10.0.0.9, hostnames: [vpn.internal]}]}" => "
+ spec.hostAliases[0].hostnames[0] = vpn.internal
+ spec.hostAliases[0].ip = 10.0.0.9";
    grace_period: "spec: {terminationGracePeriodSeconds: 3}" => "
- spec.terminationGracePeriodSeconds = 5
+ spec.terminationGracePeriodSeconds = 3";
    image_pull_secrets: "spec: {imagePullSecrets: [{name: mirror}]}" => "+ spec.imagePullSecrets[mirror].name = mirror";
    labels_and_annotations: "metadata: {labels: {team: scraping}, annotations: {example.com/owner: Malmö}}" => "
+ metadata.annotations.example.com/owner = Malmö
+ metadata.labels.team = scraping";
    a_variable_more: "spec: {containers: [{name: gluetun, env: [{name: TZ, value: UTC}]}]}" => "
+ spec.containers[gluetun].env[TZ].name = TZ
+ spec.containers[gluetun].env[TZ].value = UTC";
    a_variable_otherwise: "spec: {containers: [{name: gluetun, env: [{name: DNS_UPSTREAM_RESOLVER_TYPE, value: dot}]}]}" => "
- spec.containers[gluetun].env[DNS_UPSTREAM_RESOLVER_TYPE].value = plain
+ spec.containers[gluetun].env[DNS_UPSTREAM_RESOLVER_TYPE].value = dot";
    a_variable_from_elsewhere: "
spec: {containers: [{name: gluetun, env: [{name: WIREGUARD_MTU, valueFrom: {configMapKeyRef: {name: net, key: mtu}}}]}]}" => "
- spec.containers[gluetun].env[WIREGUARD_MTU].value = 1320
+ spec.containers[gluetun].env[WIREGUARD_MTU].valueFrom.configMapKeyRef.key = mtu
+ spec.containers[gluetun].env[WIREGUARD_MTU].valueFrom.configMapKeyRef.name = net";
    resources: "spec: {containers: [{name: gluetun, resources: {limits: {cpu: '1'}, requests: {cpu: 50m}}}]}" => "
- spec.containers[gluetun].resources.limits.cpu = 500m
- spec.containers[gluetun].resources.requests.cpu = 100m
+ spec.containers[gluetun].resources.limits.cpu = 1
+ spec.containers[gluetun].resources.requests.cpu = 50m";
    pull_policy: "spec: {containers: [{name: gluetun, imagePullPolicy: Always}]}" => "
- spec.containers[gluetun].imagePullPolicy = IfNotPresent
+ spec.containers[gluetun].imagePullPolicy = Always";
    a_file_for_gluetun: "
spec:
  volumes: [{name: blocklist, configMap: {name: blocklist}}]
  containers: [{name: gluetun, volumeMounts: [{name: blocklist, mountPath: /mnt/lists, readOnly: true}]}]" => "
+ spec.containers[gluetun].volumeMounts[blocklist].mountPath = /mnt/lists
+ spec.containers[gluetun].volumeMounts[blocklist].name = blocklist
+ spec.containers[gluetun].volumeMounts[blocklist].readOnly = true
+ spec.volumes[blocklist].configMap.name = blocklist
+ spec.volumes[blocklist].name = blocklist";
    a_sidecar: "
spec:
  containers:
  - name: exporter
    image: exporter:1
    ports: [{containerPort: 9100}]
    securityContext:
      runAsNonRoot: true
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}" => "
+ spec.containers[exporter].image = exporter:1
+ spec.containers[exporter].name = exporter
+ spec.containers[exporter].ports[0].containerPort = 9100
+ spec.containers[exporter].securityContext.allowPrivilegeEscalation = false
+ spec.containers[exporter].securityContext.capabilities.drop[0] = ALL
+ spec.containers[exporter].securityContext.runAsNonRoot = true
+ spec.containers[exporter].securityContext.seccompProfile.type = RuntimeDefault";
    a_pod_as_a_cluster_tells_it: "
apiVersion: v1
kind: Pod
metadata: {creationTimestamp: null, labels: {a: b}}
spec: {containers: []}" => "+ metadata.labels.a = b";
    a_pod_template_object: "{apiVersion: v1, kind: PodTemplate, template: {metadata: {labels: {a: b}}}}" =>
        "+ metadata.labels.a = b";
    nothing: "spec: {}" => "";
}

/// The mistakes of a template, one a line.
fn refused(template: &str) -> Vec<String> {
    let mistakes = Template::parse(template).expect_err(template);
    mistakes.iter().map(|mistake| mistake.path.clone()).collect()
}

#[test]
fn what_makes_the_pod_an_exit_is_refused_by_its_path() {
    for (template, path) in [
        ("metadata: {name: x}", "metadata.name"),
        (
            "metadata: {ownerReferences: [{apiVersion: v1, kind: X, name: x, uid: u}]}",
            "metadata.ownerReferences",
        ),
        ("metadata: {labels: {app: x}}", "metadata.labels[app]"),
        ("metadata: {labels: {app.kubernetes.io/name: x}}", "metadata.labels[app.kubernetes.io/name]"),
        ("metadata: {labels: {gluetun-gateway/admin: allowed}}", "metadata.labels[gluetun-gateway/admin]"),
        (
            "metadata: {annotations: {gluetun-gateway/claim: x}}",
            "metadata.annotations[gluetun-gateway/claim]",
        ),
        ("spec: {restartPolicy: Always}", "spec.restartPolicy"),
        ("spec: {hostNetwork: true}", "spec.hostNetwork"),
        ("spec: {serviceAccountName: admin}", "spec.serviceAccountName"),
        ("spec: {activeDeadlineSeconds: 60}", "spec.activeDeadlineSeconds"),
        ("spec: {securityContext: {runAsUser: 0}}", "spec.securityContext"),
        ("spec: {terminationGracePeriodSeconds: 0}", "spec.terminationGracePeriodSeconds"),
        ("spec: {volumes: [{name: tun, emptyDir: {}}]}", "spec.volumes[tun]"),
        ("spec: {volumes: [{name: root, hostPath: {path: /}}]}", "spec.volumes[root].hostPath"),
        ("spec: {volumes: [{name: t, projected: {sources: []}}]}", "spec.volumes[t].projected"),
        ("spec: {volumes: [{name: x, csi: {driver: d}}]}", "spec.volumes[x].csi"),
        (
            "spec: {volumes: [{name: x, persistentVolumeClaim: {claimName: d}}]}",
            "spec.volumes[x].persistentVolumeClaim",
        ),
        ("spec: {volumes: [{name: x, ephemeral: {}}]}", "spec.volumes[x].ephemeral"),
        ("spec: {volumes: [{name: x}]}", "spec.volumes[x]"),
        ("spec: {volumes: [{name: X, emptyDir: {}}]}", "spec.volumes[X]"),
        ("spec: {volumes: [{name: x, emptyDir: {}, configMap: {name: c}}]}", "spec.volumes[x]"),
        ("spec: {volumes: [{name: x, emptyDir: {}}, {name: x, emptyDir: {}}]}", "spec.volumes[x]"),
        ("spec: {volumes: [{name: x, configMap: {}}]}", "spec.volumes[x].configMap.name"),
        ("spec: {volumes: [{name: x, emptyDir: {medium: HugePages}}]}", "spec.volumes[x].emptyDir.medium"),
        ("spec: {volumes: [{name: x, emptyDir: {medium: Memory}}]}", "spec.volumes[x].emptyDir.sizeLimit"),
        ("spec: {volumes: [{name: x, emptyDir: {sizeLimit: much}}]}", "spec.volumes[x].emptyDir.sizeLimit"),
        (
            "spec: {volumes: [{name: x, secret: {secretName: gluetun-wireguard-credentials}}]}",
            "spec.volumes[x].secret.secretName",
        ),
        ("metadata: {labels: {team: 'Malmö'}}", "metadata.labels[team]"),
        ("metadata: {labels: {'my team': x}}", "metadata.labels[my team]"),
        ("metadata: {labels: {Example.com/team: x}}", "metadata.labels[Example.com/team]"),
        ("metadata: {annotations: {a/b/c: x}}", "metadata.annotations[a/b/c]"),
        (
            "metadata: {annotations: {container.apparmor.security.beta.kubernetes.io/gluetun: unconfined}}",
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/gluetun]",
        ),
        (
            "metadata: {annotations: {k8s.v1.cni.cncf.io/networks: host}}",
            "metadata.annotations[k8s.v1.cni.cncf.io/networks]",
        ),
        (
            "metadata: {annotations: {sidecar.istio.io/inject: 'true'}}",
            "metadata.annotations[sidecar.istio.io/inject]",
        ),
        ("spec: {nodeSelector: {disk: a b}}", "spec.nodeSelector[disk]"),
        (
            "spec: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway,
              labelSelector: {matchLabels: {a: '-'}}}]}",
            "spec.topologySpreadConstraints[0].labelSelector.matchLabels[a]",
        ),
        ("spec: {tolerations: [{key: x, operator: Is}]}", "spec.tolerations[0].operator"),
        ("spec: {dnsPolicy: Mine}", "spec.dnsPolicy"),
        ("spec: {priorityClassName: system-node-critical}", "spec.priorityClassName"),
        ("spec: {overhead: {cpu: 1m}}", "spec.overhead"),
        ("spec: {schedulingGates: [{name: x}]}", "spec.schedulingGates"),
        ("spec: {containers: [{name: gluetun}, {name: gluetun}]}", "spec.containers[gluetun]"),
        ("spec: {initContainers: [{name: gluetun, image: x}]}", "spec.initContainers[gluetun]"),
    ] {
        assert_eq!(refused(template), [path], "{template}");
    }
    for (field, path) in [
        ("image: x", "image"),
        ("command: [sh]", "command"),
        ("ports: [{containerPort: 1}]", "ports"),
        ("securityContext: {privileged: true}", "securityContext"),
        ("readinessProbe: {periodSeconds: 9}", "readinessProbe"),
        ("lifecycle: {preStop: {exec: {command: [a]}}}", "lifecycle"),
        ("envFrom: [{secretRef: {name: s}}]", "envFrom"),
        ("env: [{name: SERVER_HOSTNAMES, value: x}]", "env[SERVER_HOSTNAMES]"),
        ("env: [{name: SERVER_COUNTRIES, value: x}]", "env[SERVER_COUNTRIES]"),
        ("env: [{name: COUNTRY, value: x}]", "env[COUNTRY]"),
        ("env: [{name: MULTIHOP_ONLY, value: x}]", "env[MULTIHOP_ONLY]"),
        ("env: [{name: VPN_ENDPOINT_IP, value: x}]", "env[VPN_ENDPOINT_IP]"),
        ("env: [{name: TINYPROXY_PASSWORD, value: x}]", "env[TINYPROXY_PASSWORD]"),
        ("env: [{name: FIREWALL_OUTBOUND_SUBNETS, value: 0.0.0.0/1}]", "env[FIREWALL_OUTBOUND_SUBNETS]"),
        ("env: [{name: HTTPPROXY_USER, value: x}]", "env[HTTPPROXY_USER]"),
        ("env: [{name: WIREGUARD_PRIVATE_KEY, value: x}]", "env[WIREGUARD_PRIVATE_KEY]"),
        ("env: [{name: DNS_ADDRESS, value: x}]", "env[DNS_ADDRESS]"),
        ("env: [{name: DNS_UPSTREAM_PLAIN_ADDRESSES, value: x}]", "env[DNS_UPSTREAM_PLAIN_ADDRESSES]"),
        ("env: [{name: DOT, value: 'off'}]", "env[DOT]"),
        ("env: [{name: FIREWALL, value: 'off'}]", "env[FIREWALL]"),
        ("env: [{name: VPNSP, value: nordvpn}]", "env[VPNSP]"),
        ("env: [{name: WIREGUARD_ADDRESS, value: 10.1.1.1/32}]", "env[WIREGUARD_ADDRESS]"),
        ("env: [{name: WIREGUARD_ALLOWED_IPS, value: 10.0.0.0/8}]", "env[WIREGUARD_ALLOWED_IPS]"),
        ("volumeMounts: [{name: x, mountPath: /dev}]", "volumeMounts[/dev]"),
        ("volumeMounts: [{name: x, mountPath: /dev/net/tun}]", "volumeMounts[/dev/net/tun]"),
        ("volumeMounts: [{name: x, mountPath: /gluetun-entrypoint}]", "volumeMounts[/gluetun-entrypoint]"),
        ("volumeMounts: [{name: x, mountPath: /}]", "volumeMounts[/]"),
        ("volumeMounts: [{name: x, mountPath: /tmpfiles}]", "volumeMounts[/tmpfiles]"),
        ("volumeMounts: [{name: x, mountPath: /mnt/../sbin}]", "volumeMounts[/mnt/../sbin]"),
        ("volumeMounts: [{name: tun, mountPath: /mnt}]", "volumeMounts[/mnt]"),
        ("volumeMounts: [{name: z, mountPath: /mnt}]", "volumeMounts[/mnt]"),
        ("volumeMounts: [{name: x, mountPath: /mnt}, {name: x, mountPath: /mnt}]", "volumeMounts[/mnt]"),
        ("volumeMounts: [{name: x, mountPath: /mnt, subPath: a}]", "volumeMounts[/mnt].subPath"),
        ("volumeMounts: [{name: x, mountPath: /mnt, subPathExpr: a}]", "volumeMounts[/mnt].subPathExpr"),
        (
            "volumeMounts: [{name: x, mountPath: /mnt, mountPropagation: HostToContainer}]",
            "volumeMounts[/mnt].mountPropagation",
        ),
        ("env: [{name: TZ, value: UTC}, {name: TZ, value: CET}]", "env[TZ]"),
        ("env: [{name: 'T=Z', value: UTC}]", "env[T=Z]"),
        ("env: [{name: TZ, value: $(HTTPPROXY_PASSWORD)}]", "env[TZ].value"),
        ("env: [{name: TZ, valueFrom: {}}]", "env[TZ].valueFrom"),
        (
            "env: [{name: TZ, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
            "env[TZ].valueFrom",
        ),
        ("env: [{name: TZ, valueFrom: {configMapKeyRef: {key: tz}}}]", "env[TZ].valueFrom.configMapKeyRef"),
        (
            "env: [{name: TZ, valueFrom: {secretKeyRef: {name: gluetun-wireguard-credentials,
              key: wireguard-private-key}}}]",
            "env[TZ]",
        ),
        ("env: [{name: GOMEMLIMIT, value: 160MB}]", "env[GOMEMLIMIT]"),
        ("env: [{name: GOMEMLIMIT, value: 256MiB}]", "env[GOMEMLIMIT]"),
        ("imagePullPolicy: Sometimes", "imagePullPolicy"),
        ("resources: {limits: {cpu: banana}}", "resources.limits[cpu]"),
        ("resources: {requests: {memory: 1GB}}", "resources.requests[memory]"),
        ("resources: {requests: {cpu: '-1'}}", "resources.requests[cpu]"),
        ("resources: {limits: {example.com/gpu: '1'}}", "resources.limits[example.com/gpu]"),
        ("resources: {claims: [{name: x}]}", "resources.claims"),
        ("resources: {requests: {cpu: '2'}, limits: {cpu: '1'}}", "resources.requests[cpu]"),
        // Beside what the gateway writes.
        ("resources: {requests: {cpu: 501m}}", "resources.requests[cpu]"),
        ("resources: {limits: {cpu: 99m}}", "resources.limits[cpu]"),
        ("resources: {requests: {memory: 0.3Gi}}", "resources.requests[memory]"),
        ("resources: {limits: {memory: 160Mi}}", "resources.limits[memory]"),
    ] {
        let template = format!(
            "spec: {{volumes: [{{name: x, emptyDir: {{}}}}], containers: [{{name: gluetun, {field}}}]}}"
        );
        assert_eq!(refused(&template), [format!("spec.containers[gluetun].{path}")], "{template}");
    }
}

#[test]
fn a_sidecar_must_be_restricted() {
    let bare = refused("spec: {containers: [{name: x, ports: [{containerPort: 8888, hostPort: 8888}]}]}");
    let expected = [
        "image",
        "ports[8888]",
        "ports[8888].hostPort",
        "securityContext.allowPrivilegeEscalation",
        "securityContext.runAsNonRoot",
        "securityContext.capabilities.drop",
        "securityContext.seccompProfile.type",
    ];
    assert_eq!(bare, expected.map(|field| format!("spec.containers[x].{field}")));
    let context =
        "runAsNonRoot: true, allowPrivilegeEscalation: false, seccompProfile: {type: RuntimeDefault}";
    for (more, path) in [
        ("privileged: true", "privileged"),
        ("runAsUser: 0", "runAsUser"),
        ("capabilities: {drop: [ALL], add: [SYS_ADMIN]}", "capabilities.add"),
        ("capabilities: {drop: [ALL, NET_RAW]}", "capabilities.drop"),
        ("procMount: Unmasked", "procMount"),
        ("appArmorProfile: {type: Unconfined}", "appArmorProfile.type"),
        ("seLinuxOptions: {type: spc_t}", "seLinuxOptions"),
        ("windowsOptions: {runAsUserName: x}", "windowsOptions"),
    ] {
        let drop = if more.starts_with("capabilities") { "" } else { ", capabilities: {drop: [ALL]}" };
        let template = format!(
            "spec: {{initContainers: [{{name: x, image: i, securityContext: {{{context}{drop}, {more}}}}}]}}"
        );
        assert_eq!(
            refused(&template),
            [format!("spec.initContainers[x].securityContext.{path}")],
            "{template}"
        );
    }
    let context = format!("securityContext: {{{context}, capabilities: {{drop: [ALL]}}}}");
    for changed in
        ["runAsNonRoot: false", "allowPrivilegeEscalation: true", "seccompProfile: {type: Localhost}"]
    {
        let (field, _) = changed.split_once(':').unwrap();
        let plain = match field {
            "runAsNonRoot" => "runAsNonRoot: true",
            "allowPrivilegeEscalation" => "allowPrivilegeEscalation: false",
            _ => "seccompProfile: {type: RuntimeDefault}",
        };
        let template =
            format!("spec: {{containers: [{{name: x, image: i, {}}}]}}", context.replace(plain, changed));
        let [path] = refused(&template).try_into().unwrap();
        assert!(path.starts_with(&format!("spec.containers[x].securityContext.{field}")), "{path}");
    }
    let secret = "{name: gluetun-wireguard-credentials";
    for (field, path) in [
        (format!("env: [{{name: X, valueFrom: {{secretKeyRef: {secret}, key: k}}}}}}]"), "env[X]"),
        (format!("envFrom: [{{secretRef: {secret}}}}}]"), "envFrom"),
        ("volumeDevices: [{name: x, devicePath: /dev/x}]".to_owned(), "volumeDevices"),
        ("terminationMessagePath: /bin/sh".to_owned(), "terminationMessagePath"),
        ("command: [sh, -c, echo $(X)]".to_owned(), "command"),
        ("args: [$(X)]".to_owned(), "args"),
        ("ports: [{containerPort: 0}]".to_owned(), "ports[0]"),
        ("ports: [{containerPort: 1, hostIP: 10.0.0.1}]".to_owned(), "ports[1].hostIP"),
        ("volumeMounts: [{name: nowhere, mountPath: /x}]".to_owned(), "volumeMounts[/x]"),
        ("volumeMounts: [{name: tun, mountPath: /x}]".to_owned(), "volumeMounts[/x]"),
        (
            "resources: {requests: {memory: 2Mi}, limits: {memory: 1Mi}}".to_owned(),
            "resources.requests[memory]",
        ),
        ("imagePullPolicy: Mostly".to_owned(), "imagePullPolicy"),
    ] {
        let template = format!("spec: {{containers: [{{name: x, image: i, {context}, {field}}}]}}");
        assert_eq!(refused(&template), [format!("spec.containers[x].{path}")], "{template}");
    }
    let twice = format!("{{name: x, image: i, {context}}}");
    let twice = format!("spec: {{initContainers: [{twice}], containers: [{twice}]}}");
    assert_eq!(refused(&twice), ["spec.containers[x]"]);
    let name = format!("spec: {{containers: [{{name: X, image: i, {context}}}]}}");
    assert_eq!(refused(&name), ["spec.containers[X].name"]);
    assert_eq!(refused("spec: {containers: [{image: i}]}")[0], "spec.containers[].name");
}

#[test]
fn what_is_no_template_is_told() {
    for (text, path) in [
        ("[1]", "the template"),
        ("a: b: c", "the template"),
        ("", "the template"),
        ("kind: Deployment", "kind"),
        ("apiVersion: apps/v1", "apiVersion"),
        ("kind: PodTemplate", "template"),
        ("spec: {nodeSelektor: {a: b}}", "spec.nodeSelektor"),
        (
            "spec: {containers: [{name: gluetun, resources: {limit: {cpu: '1'}}}]}",
            "spec.containers[gluetun].resources.limit",
        ),
        ("spec: {tolerations: {key: x}}", "spec.tolerations"),
        ("spec: {terminationGracePeriodSeconds: soon}", "spec.terminationGracePeriodSeconds"),
    ] {
        assert_eq!(refused(text), [path], "{text}");
    }
    assert_eq!(refused(&" ".repeat(MAX_BYTES + 1)), ["the template"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let told = refused(
        "{metadata: {name: x}, spec: {hostPID: true, nope: 1, containers: [{name: gluetun, image: x}]}}",
    );
    assert_eq!(told, ["spec.nope", "metadata.name", "spec.hostPID", "spec.containers[gluetun].image"]);
}

/// What is near to a mistake and none.
#[test]
fn what_the_cluster_takes_is_taken() {
    for template in [
        "spec: {containers: [{name: gluetun, resources: {requests: {cpu: '0.5', memory: 268435456},
          limits: {ephemeral-storage: 1e9}}}]}",
        "spec: {containers: [{name: gluetun, resources: {limits: {memory: 128Mi}},
          env: [{name: GOMEMLIMIT, value: 100MiB}]}]}",
        "spec: {containers: [{name: gluetun, resources: {limits: {memory: 200Mi}},
          env: [{name: GOMEMLIMIT, value: 'off'}]}]}",
        "spec: {volumes: [{name: x, emptyDir: {medium: Memory, sizeLimit: 16Mi}}],
          containers: [{name: gluetun, volumeMounts: [{name: x, mountPath: /tmp, mountPropagation: None}]}]}",
        "spec: {volumes: [{name: x, downwardAPI: {items: []}}],
          containers: [{name: gluetun, volumeMounts: [{name: x, mountPath: /mnt/a}, {name: x, mountPath: /mnt/b}]}]}",
        "spec: {runtimeClassName: kata, overhead: {cpu: 1m}}",
        "metadata: {labels: {team: ''}, annotations: {Example.com/Team: 'Malmö'}}",
        "spec: {containers: [{name: gluetun, env: [{name: WIREGUARD_PRESHARED_KEY,
          valueFrom: {secretKeyRef: {name: gluetun-wireguard-credentials, key: preshared}}}]}]}",
    ] {
        assert!(Template::parse(template).is_ok(), "{template}: {:?}", Template::parse(template));
    }
}

proptest! {
    /// Of any two amounts the request is taken exactly if it is not above the limit, however they are spelt.
    #[test]
    fn requests_are_within_limits(request in 0_u64..4000, limit in 0_u64..4000, decimal in any::<bool>()) {
        let spelt = |n: u64| if decimal { format!("{}.{:03}", n / 1000, n % 1000) } else { format!("{n}m") };
        let template = format!(
            "spec: {{containers: [{{name: gluetun, resources: {{requests: {{cpu: '{}'}}, limits: {{cpu: '{limit}m'}}}}}}]}}",
            spelt(request)
        );
        prop_assert_eq!(Template::parse(&template).is_ok(), request <= limit, "{}", template);
    }

    /// Whatever is taken can be merged, and what makes the pod an exit stays.
    #[test]
    fn what_is_taken_leaves_an_exit(text in "(metadata|spec)?: ?[{\\[a-zA-Z0-9:,'\"}\\] \n-]{0,80}") {
        if let Ok(template) = Template::parse(&text) {
            let plain = plain();
            let merged = template.apply(&plain).unwrap();
            prop_assert_eq!(&merged.metadata.name, &plain.metadata.name);
            prop_assert_eq!(&merged.metadata.owner_references, &plain.metadata.owner_references);
            let (ours, merged) = (plain.spec.unwrap(), merged.spec.unwrap());
            prop_assert_eq!(&ours.containers[0].image, &merged.containers[0].image);
            prop_assert_eq!(&ours.containers[0].security_context, &merged.containers[0].security_context);
        }
    }
}
