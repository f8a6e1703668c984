//! Rules: which requests they are about, and what becomes of those.

use serde::{Deserialize, Serialize};

use super::super::status::Failure;

/// What a request wants, in the words of Kubernetes' authorisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Read one object (also a pod's log).
    Get,
    /// Read many.
    List,
    /// Follow changes.
    Watch,
    /// Make an object (also a binding, or an access review).
    Create,
    /// Replace an object.
    Update,
    /// Change a part of an object.
    Patch,
    /// Remove one object.
    Delete,
    /// Remove many.
    DeleteCollection,
}

impl Verb {
    /// The verb as RBAC rules spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// One request, as rules and the request log see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestInfo {
    /// What it wants.
    pub verb: Verb,
    /// The resource, with its subresource: `pods`, `pods/status`, `leases`.
    pub resource: String,
    /// The namespace, if it names one.
    pub namespace: Option<String>,
    /// The object, if it names one (for a create: the name in the body).
    pub name: Option<String>,
    /// Its `User-Agent`, empty if it has none.
    pub user_agent: String,
}

/// Which requests are meant; what is not given matches everything. `resource` and `name` may hold `*`
/// for any text: `gw-*`, `pods*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// The verb.
    pub verb: Option<Verb>,
    /// The resource: `pods` (which is not `pods/status`), `leases`, `pods*`.
    pub resource: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// A part of the `User-Agent`.
    pub user_agent: Option<String>,
}

impl Match {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests with a verb on a resource.
    pub fn on(verb: Verb, resource: &str) -> Self {
        Self { verb: Some(verb), resource: Some(resource.into()), ..Self::default() }
    }

    /// Those only that name this object (`*` for any text).
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Those only whose `User-Agent` contains this text.
    pub fn from_agent(self, part: &str) -> Self {
        Self { user_agent: Some(part.into()), ..self }
    }

    /// Whether a request is meant.
    pub fn matches(&self, request: &RequestInfo) -> bool {
        let glob = |pattern: &Option<String>, text: Option<&str>| {
            pattern.as_deref().is_none_or(|pattern| text.is_some_and(|text| matches_glob(pattern, text)))
        };
        self.verb.is_none_or(|verb| verb == request.verb)
            && glob(&self.resource, Some(&request.resource))
            && glob(&self.namespace, request.namespace.as_deref())
            && glob(&self.name, request.name.as_deref())
            && self.user_agent.as_deref().is_none_or(|part| request.user_agent.contains(part))
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// HTTP status code.
    pub status: u16,
    /// `reason` of the Status body.
    pub reason: String,
    /// `message` of the Status body.
    pub message: String,
    /// Seconds of a `Retry-After` header.
    #[serde(default)]
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// Any error.
    pub fn new(status: u16, reason: &str, message: &str) -> Self {
        Self { status, reason: reason.into(), message: message.into(), retry_after: None }
    }

    /// 500: etcd did not answer.
    pub fn internal() -> Self {
        Self::new(500, "InternalError", "Internal error occurred: etcdserver: request timed out")
    }

    /// 503: the server is overloaded or going down.
    pub fn unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "apiserver is shutting down")
    }

    /// 429 by API priority and fairness, with a `Retry-After` in seconds.
    pub fn too_many_requests(retry_after: u64) -> Self {
        let message = "Too many requests, please try again later.";
        Self { retry_after: Some(retry_after), ..Self::new(429, "TooManyRequests", message) }
    }

    /// 403: a ResourceQuota is used up.
    pub fn quota(pod: &str, quota: &str, limit: u32) -> Self {
        let message = format!(
            "pods \"{pod}\" is forbidden: exceeded quota: {quota}, requested: pods=1, used: pods={limit}, \
             limited: pods={limit}"
        );
        Self::new(403, "Forbidden", &message)
    }

    /// 403: the namespace enforces a Pod Security level.
    pub fn pod_security(pod: &str) -> Self {
        let message = format!(
            "pods \"{pod}\" is forbidden: violates PodSecurity \"baseline:latest\": non-default \
             capabilities (container \"gluetun\" must not include \"NET_ADMIN\" in \
             securityContext.capabilities.add), hostPath volumes (volume \"tun\")"
        );
        Self::new(403, "Forbidden", &message)
    }

    /// 403: the ServiceAccount lacks a right. `resource` is qualified by its group, as in
    /// `leases.coordination.k8s.io`.
    pub fn rbac(verb: Verb, resource: &str, group: &str, namespace: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let verb = verb.as_str();
        let message = format!(
            "{qualified} is forbidden: User \"system:serviceaccount:{namespace}:gluetun-gateway\" cannot \
             {verb} resource \"{resource}\" in API group \"{group}\" in the namespace \"{namespace}\""
        );
        Self::new(403, "Forbidden", &message)
    }

    pub(in super::super) fn failure(&self) -> Failure {
        Failure {
            code: self.status,
            reason: Some(self.reason.clone().into()),
            message: self.message.clone(),
            details: None,
            retry_after: self.retry_after,
        }
    }
}

/// What happens to a request that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is refused; nothing is done.
    Fail(Refusal),
    /// It is done, and then refused: the ambiguous error.
    ApplyThenFail(Refusal),
    /// The connection is closed; nothing is done.
    Cut,
    /// It is done, and then the connection is closed.
    ApplyThenCut,
    /// Nothing is done and nothing is answered: the connection stays open and silent.
    Hang,
    /// It is done, and nothing is answered.
    ApplyThenHang,
    /// It is done later. Further rules apply after the delay.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
}

/// An effect on some requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which requests.
    #[serde(default, rename = "match")]
    pub matching: Match,
    /// What happens to them.
    pub effect: Effect,
    /// How many of them it happens to; all of them if not given.
    #[serde(default)]
    pub times: Option<u64>,
}

impl Rule {
    /// An effect on every matching request, until the rule is removed.
    pub fn new(matching: Match, effect: Effect) -> Self {
        Self { matching, effect, times: None }
    }

    /// The same for the next `times` matching requests only.
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn globs() {
        for (pattern, text) in [
            ("gw-*", "gw-a"),
            ("*", ""),
            ("*", "x"),
            ("pods*", "pods/status"),
            ("a*b*c", "a-b-b-c"),
            ("a", "a"),
            ("*-a", "gw-a"),
            ("a*a", "aba"),
            ("a**b", "ab"),
        ] {
            assert!(matches_glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("gw-*", "gx-a"),
            ("pods", "pods/status"),
            ("a*b*c", "acb"),
            ("*-a", "gw-ab"),
            ("a*a", "a"),
            ("", "x"),
        ] {
            assert!(!matches_glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn every_part_of_a_match_counts() {
        let request = RequestInfo {
            verb: Verb::Patch,
            resource: "leases".into(),
            namespace: Some("ns".into()),
            name: Some("gw-a".into()),
            user_agent: "gateway-0/1".into(),
        };
        let right = Match { namespace: Some("ns".into()), ..Match::on(Verb::Patch, "leases") };
        let right = right.named("gw-*").from_agent("gateway-0");
        assert!(right.matches(&request) && Match::any().matches(&request));
        for wrong in [
            Match { verb: Some(Verb::Get), ..right.clone() },
            Match { resource: Some("pods".into()), ..right.clone() },
            Match { namespace: Some("other".into()), ..right.clone() },
            Match { name: Some("pod".into()), ..right.clone() },
            Match { user_agent: Some("gateway-1".into()), ..right.clone() },
        ] {
            assert!(!wrong.matches(&request), "{wrong:?}");
        }
        // A rule about a name is not about requests that name nothing.
        assert!(!right.matches(&RequestInfo { name: None, ..request }));
    }

    #[test]
    fn rules_are_written_as_documented() {
        let rule: Rule = serde_json::from_value(json!({
            "match": {"verb": "deletecollection", "resource": "pods"},
            "effect": {"apply_then_fail": {"status": 504, "reason": "Timeout", "message": "m"}},
        }))
        .unwrap();
        assert_eq!(rule.matching.verb, Some(Verb::DeleteCollection));
        assert_eq!(rule.effect, Effect::ApplyThenFail(Refusal::new(504, "Timeout", "m")));
        let cut: Rule = serde_json::from_value(json!({"effect": "apply_then_cut", "times": 2})).unwrap();
        assert_eq!(cut, Rule::new(Match::any(), Effect::ApplyThenCut).times(2));
    }
}
