//! What can be known before the first request: whether the gateway has its rights, whether its pods would be
//! admitted, and whether their image is pinned. `app` runs it at start and logs what is wrong, without waiting
//! for it; `check --cluster` runs it for the operator, with the Secret as well, which the gateway itself may
//! not and need not read, and says whom it has judged.

mod judged;

use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::config::Config;
use crate::controller::LEASE as LEADER_LEASE;
use crate::controller::manifest::{ADDRESSES, PRIVATE_KEY, SECRET};
use crate::metrics::Metrics;
use crate::servers::CONFIG_MAP;
use crate::session::api::{ApiError, ForbiddenKind, Verb, call};

pub use judged::Judged;

/// For each question to the API server.
const DEADLINE: Duration = Duration::from_secs(5);

/// Questions at once: they are many, and nobody waits for them.
const AT_ONCE: usize = 4;

/// A right that the gateway uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// API group; the core group is empty.
    pub group: &'static str,
    /// Resource, with its subresource behind a slash (`pods/log`).
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// The one object, where the right is for that alone.
    pub name: Option<&'static str>,
    /// Without it the gateway works, worse.
    pub optional: bool,
}

/// Every right that the gateway uses: those of the Role in `k8s/`.
pub const RIGHTS: &[Right] = &[
    Right {
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        name: None,
        optional: false,
    },
    Right {
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["update"],
        name: Some(LEADER_LEASE),
        optional: false,
    },
    Right {
        group: "",
        resource: "pods",
        verbs: &["get", "list", "watch", "create", "delete"],
        name: None,
        optional: false,
    },
    Right { group: "", resource: "pods/log", verbs: &["get"], name: None, optional: true },
    Right { group: "", resource: "events", verbs: &["create", "list"], name: None, optional: true },
];

/// Name of the ConfigMap that keeps the server list, and of the Job that fetches it.
const SERVERS: Option<&str> = Some(CONFIG_MAP);

/// Further rights, used where the server list is neither a variable nor a file: without them it is the built-in
/// one, or fetched anew after each restart.
pub const SERVERS_RIGHTS: &[Right] = &[
    // A create cannot be restricted to a name.
    Right { group: "batch", resource: "jobs", verbs: &["create"], name: None, optional: true },
    Right { group: "batch", resource: "jobs", verbs: &["get", "delete"], name: SERVERS, optional: true },
    Right { group: "", resource: "configmaps", verbs: &["get", "update"], name: SERVERS, optional: true },
];

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub what: String,
    /// What came of it.
    pub verdict: Verdict,
}

/// Whether something will work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It will.
    Good,
    /// It will, but should be otherwise: what, and what to do.
    Warning(String),
    /// It will not: why, and what to do.
    Bad(String),
    /// The API server did not answer the question.
    Unknown(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, verdict } = self;
        match verdict {
            Verdict::Good => write!(f, "ok       {what}"),
            Verdict::Warning(why) => write!(f, "warning  {what}: {why}"),
            Verdict::Bad(why) => write!(f, "BAD      {what}: {why}"),
            Verdict::Unknown(why) => write!(f, "unknown  {what}: {why}"),
        }
    }
}

/// Asks the API server whether the gateway can do its work.
#[derive(Clone)]
pub struct Preflight<'a> {
    /// The settings.
    pub config: &'a Config,
    /// As whom to ask.
    pub client: Client,
    /// Where calls are counted.
    pub metrics: &'a Metrics,
}

impl fmt::Debug for Preflight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preflight").finish_non_exhaustive()
    }
}

impl Preflight<'_> {
    /// Rights, admission of `pod`, and the image; of the client, whom the findings name where `judged` does.
    pub async fn run(&self, pod: &Pod, judged: Option<&Judged>) -> Vec<Finding> {
        let mut questions = Vec::new();
        let servers = if self.config.servers.is_none() { SERVERS_RIGHTS } else { &[] };
        for right in RIGHTS.iter().chain(servers) {
            questions.extend(right.verbs.iter().map(|verb| self.right(right, verb, judged)));
        }
        let mut findings: Vec<Finding> = futures::stream::iter(questions).buffered(AT_ONCE).collect().await;
        findings.push(self.admission(pod, judged).await);
        findings.push(image(&self.config.gluetun_image));
        findings
    }

    async fn right(&self, right: &Right, verb: &'static str, judged: Option<&Judged>) -> Finding {
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, part)) => (resource, Some(part)),
            None => (right.resource, None),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(right.group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.map(str::to_owned),
                    verb: Some(verb.to_owned()),
                    name: right.name.map(str::to_owned),
                    namespace: Some(self.config.namespace.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let named = right.name.map(|name| format!(" {name}")).unwrap_or_default();
        let what = format!("may {verb} {}{named}", right.resource);
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let asked = call(self.metrics, Verb::Create, DEADLINE, async {
            reviews.create(&PostParams::default(), &review).await
        });
        let verdict = match asked.await.map(|review| review.status) {
            Ok(Some(status)) if status.allowed => Verdict::Good,
            Ok(_) => {
                let other = judged.filter(|judged| judged.instead.is_some());
                let whose = other.map_or_else(|| "the Role".to_owned(), |other| other.user.clone());
                let why = format!(
                    "{whose} lacks verb {verb} of {} in namespace {}; apply k8s/02-rbac.yaml",
                    right.resource, self.config.namespace
                );
                if right.optional { Verdict::Warning(why) } else { Verdict::Bad(why) }
            }
            Err(error) => Verdict::Unknown(error.to_string()),
        };
        Finding { what, verdict }
    }

    /// Whether such a pod would be made: quota, Pod Security, admission policies and webhooks, and the API
    /// server's own validation of the operator's template.
    async fn admission(&self, pod: &Pod, judged: Option<&Judged>) -> Finding {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.config.namespace);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let asked = call(self.metrics, Verb::Create, DEADLINE, async { pods.create(&dry, pod).await }).await;
        let verdict = match asked {
            // A pod of that name there could not be: its id is random.
            Ok(_) | Err(ApiError::AlreadyExists) => Verdict::Good,
            Err(ApiError::Forbidden(ForbiddenKind::Quota, text)) => {
                Verdict::Warning(format!("{text}; no exit can start until there is room"))
            }
            Err(ApiError::Forbidden(ForbiddenKind::PodSecurity, text)) => Verdict::Bad(format!(
                "{text}; label the namespace pod-security.kubernetes.io/enforce=privileged (k8s/00-namespace.yaml)"
            )),
            Err(ApiError::Forbidden(ForbiddenKind::Rights, text)) => Verdict::Bad(text),
            Err(ApiError::Forbidden(ForbiddenKind::Admission, text) | ApiError::Invalid(text)) => {
                let template = match self.config.pod_template {
                    Some(_) => "; look at POD_TEMPLATE_FILE and the admission policy",
                    None => "; look at the cluster's admission policies",
                };
                Verdict::Bad(format!("{text}{template}"))
            }
            Err(ApiError::NotFound) => {
                Verdict::Bad(format!("there is no namespace {}; make it", self.config.namespace))
            }
            Err(error @ (ApiError::Conflict | ApiError::Timeout | ApiError::Unavailable(_))) => {
                Verdict::Unknown(error.to_string())
            }
        };
        let by = judged.map(|judged| format!(", made by {}", judged.user)).unwrap_or_default();
        Finding { what: format!("a VPN pod would be admitted{by}"), verdict }
    }

    /// Whether the Secret with the VPN's key is there, with both keys: with the operator's own rights, since
    /// the gateway has none to it.
    pub async fn secret(&self) -> Finding {
        let what = format!("Secret {SECRET} has {PRIVATE_KEY} and {ADDRESSES}");
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.config.namespace);
        let asked = call(self.metrics, Verb::Get, DEADLINE, async { secrets.get(SECRET).await }).await;
        let verdict = match asked {
            Ok(secret) => {
                let data = secret.data.unwrap_or_default();
                let missing: Vec<_> = [PRIVATE_KEY, ADDRESSES]
                    .into_iter()
                    .filter(|key| data.get(*key).is_none_or(|value| value.0.is_empty()))
                    .collect();
                match missing.is_empty() {
                    true => Verdict::Good,
                    false => Verdict::Bad(format!("it lacks {}", missing.join(" and "))),
                }
            }
            Err(ApiError::NotFound) => Verdict::Bad(format!(
                "it is not there; kubectl -n {} create secret generic {SECRET} --from-literal={PRIVATE_KEY}=… \
                 --from-literal={ADDRESSES}=…",
                self.config.namespace
            )),
            Err(error) => Verdict::Unknown(format!("{error}; ask as someone who may read Secrets")),
        };
        Finding { what, verdict }
    }
}

/// Whether the image will be the same tomorrow.
fn image(image: &str) -> Finding {
    let what = format!("image {image} is pinned");
    let tag = image.rsplit('/').next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag);
    let verdict = match (image.contains('@'), tag) {
        (true, _) => Verdict::Good,
        (false, None | Some("latest")) => Verdict::Warning(
            "the tag moves, and another version may need other settings; name a version or a digest in GLUETUN_IMAGE"
                .to_owned(),
        ),
        (false, Some(_)) => Verdict::Good,
    };
    Finding { what, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_moves_is_told() {
        let pinned = |name: &str| image(name).verdict == Verdict::Good;
        assert!(pinned("qmcgaw/gluetun:v3.41.3"));
        assert!(pinned("mirror.example:5000/qmcgaw/gluetun:v3.41.3"));
        assert!(pinned("qmcgaw/gluetun@sha256:0123"));
        assert!(pinned("qmcgaw/gluetun:latest@sha256:0123"));
        assert!(!pinned("qmcgaw/gluetun"));
        assert!(!pinned("qmcgaw/gluetun:latest"));
        assert!(!pinned("mirror.example:5000/qmcgaw/gluetun"));
    }
}
