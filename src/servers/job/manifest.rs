//! The Job, as it is sent to the API: a pure function. The times and rights behind each line were
//! measured with Gluetun v3.41 in a real cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Image;

/// Name of the Job. Always the same, so that replicas meet in it.
pub(super) const NAME: &str = "gluetun-gateway-servers";
/// Name of its container.
pub(super) const CONTAINER: &str = "format-servers";
/// Seconds that it may take, from its start to the end of its pod. A Job that reaches it loses its pod,
/// and with that its log.
pub(super) const DEADLINE: i64 = 60;
/// Seconds after its end that it goes, and its pod with it.
const TTL: i32 = 30;
/// Memory limit. Gluetun holds its whole list in memory: 32Mi is too little, 128Mi enough (measured).
pub(super) const MEMORY: &str = "128Mi";
/// `nobody` of distroless images: any user but root will do.
const USER: i64 = 65532;
/// The label by which a Job is known to be ours, and its value.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "gluetun-gateway");

/// The Job that prints the list of the provider's servers that the pods' image has.
pub(super) fn job(image: &Image) -> Job {
    Job {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(image.namespace.clone()),
            labels: Some(labels()),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // What fails once fails again; the gateway tries anew by itself, later.
            backoff_limit: Some(0),
            active_deadline_seconds: Some(DEADLINE),
            ttl_seconds_after_finished: Some(TTL),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels()),
                    annotations: Some(map(&[("linkerd.io/inject", "disabled")])),
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    containers: vec![container(image)],
                    restart_policy: Some("Never".to_owned()),
                    automount_service_account_token: Some(false),
                    enable_service_links: Some(false),
                    termination_grace_period_seconds: Some(1),
                    ..PodSpec::default()
                }),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// Without `app: gluetun-vpn`: its pod is no exit, and neither counts nor shows as one.
fn labels() -> BTreeMap<String, String> {
    map(&[
        ("app.kubernetes.io/name", "gluetun"),
        ("app.kubernetes.io/component", "server-list"),
        ("app.kubernetes.io/part-of", "gluetun-gateway"),
        MANAGED_BY,
        // A mesh's sidecar would keep the pod from ending.
        ("sidecar.istio.io/inject", "false"),
    ])
}

fn container(image: &Image) -> Container {
    let flag = format!("-{}", image.provider.replace(' ', "-"));
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image.image.clone()),
        command: Some(vec!["/gluetun-entrypoint".to_owned()]),
        args: Some(["format-servers", &flag, "-format", "json"].map(str::to_owned).into()),
        // The list that the image was built with, and nothing written: the root is read-only.
        env: Some(vec![EnvVar {
            name: "STORAGE_FILEPATH".to_owned(),
            value: Some(String::new()),
            value_from: None,
        }]),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "100m"), ("memory", MEMORY)])),
            limits: Some(quantities(&[("cpu", "500m"), ("memory", MEMORY)])),
            ..ResourceRequirements::default()
        }),
        // What Pod Security's level `restricted` asks for, and more.
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn image(provider: &str) -> Image {
        Image { namespace: "ns".into(), image: "gluetun:1".into(), provider: provider.into() }
    }

    #[test]
    fn the_job_is_what_was_measured() {
        let job = serde_json::to_value(job(&image("mullvad"))).unwrap();
        let spec = &job["spec"];
        assert_eq!(job["metadata"]["name"], NAME);
        assert_eq!(
            (&spec["backoffLimit"], &spec["activeDeadlineSeconds"], &spec["ttlSecondsAfterFinished"]),
            (&json!(0), &json!(60), &json!(30))
        );
        let pod = &spec["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(container["command"], json!(["/gluetun-entrypoint"]));
        assert_eq!(container["args"], json!(["format-servers", "-mullvad", "-format", "json"]));
        assert_eq!(
            container["securityContext"],
            json!({
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "privileged": false,
                "readOnlyRootFilesystem": true, "runAsGroup": 65532, "runAsNonRoot": true, "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            })
        );
        assert_eq!(container["resources"]["limits"]["memory"], "128Mi");
        assert_eq!(
            (&pod["automountServiceAccountToken"], &pod["restartPolicy"]),
            (&json!(false), &json!("Never"))
        );
        assert_eq!(pod["volumes"], Value::Null);
        assert!(spec["template"]["metadata"]["labels"]["app"].is_null(), "it is no exit");
        let text = job.to_string().to_lowercase();
        assert!(!text.contains("secret") && !text.contains("wireguard"), "no VPN credentials: {text}");
    }

    #[test]
    fn a_provider_of_two_words_is_one_flag() {
        let args = job(&image("perfect privacy"))
            .spec
            .unwrap()
            .template
            .spec
            .unwrap()
            .containers
            .remove(0)
            .args
            .unwrap();
        assert_eq!(args[1], "-perfect-privacy");
    }
}
