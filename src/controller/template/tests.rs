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
  containers: [{name: gluetun, volumeMounts: [{name: blocklist, mountPath: /lists, readOnly: true}]}]" => "
+ spec.containers[gluetun].volumeMounts[blocklist].mountPath = /lists
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
        ("volumeMounts: [{name: x, mountPath: /dev}]", "volumeMounts[/dev]"),
        ("volumeMounts: [{name: x, mountPath: /dev/net/tun}]", "volumeMounts[/dev/net/tun]"),
    ] {
        let template = format!("spec: {{containers: [{{name: gluetun, {field}}}]}}");
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
    let greedy = refused(
        "spec: {initContainers: [{name: x, image: i, securityContext: {privileged: true, runAsNonRoot: true,
         allowPrivilegeEscalation: false, seccompProfile: {type: RuntimeDefault},
         capabilities: {drop: [ALL], add: [SYS_ADMIN]}}}]}",
    );
    let expected = ["privileged", "capabilities.add"];
    assert_eq!(greedy, expected.map(|field| format!("spec.initContainers[x].securityContext.{field}")));
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

proptest! {
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
