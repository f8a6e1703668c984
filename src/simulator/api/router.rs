//! From a method, path and query to what is asked for. Knows the shape of Kubernetes' paths; decides
//! nothing about objects.

use http::Method;

use super::faults::Verb;
use super::resources::{Kind, Subresource};
use super::status::Failure;

/// The query's parameters, decoded.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query. Empty pairs, as in kube's `?&a=b`, are skipped.
    pub(super) fn parse(query: &str) -> Self {
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
        };
        Self(query.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    /// The first value of a parameter, empty if it is not given.
    pub(super) fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// The first value of a parameter.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A flag, as Kubernetes reads it: given and neither `false` nor `0`.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.find(name).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }
}

/// Undoes percent-encoding; malformed escapes are left as they are.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A resource, an object or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<Subresource>,
}

impl Target {
    /// The resource with its subresource, as rules and logs name it.
    pub(super) fn resource(&self) -> String {
        match self.subresource {
            Some(part) => format!("{}/{}", self.kind.plural(), part.name()),
            None => self.kind.plural().to_owned(),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Something with objects.
    Resource(Verb, Target),
    /// A SelfSubjectAccessReview.
    AccessReview,
    /// A SelfSubjectReview.
    SubjectReview,
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1` or `/apis/GROUP/VERSION`: group and version.
    Resources(String, String),
    /// `/openapi/v3`.
    OpenApi,
    /// `/openapi/v3/PATH`.
    OpenApiOf(String),
    /// `/simulator/PATH`: the path's parts.
    Simulator(Vec<String>),
    /// Nothing that is served: plain text, as from the real one's mux.
    Nothing,
}

/// Reads a request's line. `Err` is a `Status` answer.
pub(super) fn route(method: &Method, path: &str, query: &Query) -> Result<Route, Failure> {
    let segments: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    Ok(match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["openapi", "v3"] => Route::OpenApi,
        ["openapi", "v3", rest @ ..] => Route::OpenApiOf(rest.join("/")),
        ["simulator", path @ ..] => Route::Simulator(path.iter().map(ToString::to_string).collect()),
        ["apis", group] if known_group(group) => Route::Group((*group).to_owned()),
        ["api", version] => Route::Resources(String::new(), (*version).to_owned()),
        ["apis", group, version] if known_group(group) => {
            Route::Resources((*group).to_owned(), (*version).to_owned())
        }
        ["api", version, rest @ ..] => resource(method, "", version, rest, query)?,
        ["apis", group, version, rest @ ..] if known_group(group) => {
            resource(method, group, version, rest, query)?
        }
        _ => Route::Nothing,
    })
}

/// The group of SelfSubjectAccessReview, which has no objects.
pub(super) const AUTHORIZATION: &str = "authorization.k8s.io";
/// The group of SelfSubjectReview, which has none either.
pub(super) const AUTHENTICATION: &str = "authentication.k8s.io";

/// Resources that are asked and not kept: group, kind, plural, and their route.
pub(super) const REVIEWS: [(&str, &str, &str, Route); 2] = [
    (AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", Route::AccessReview),
    (AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", Route::SubjectReview),
];

fn known_group(group: &str) -> bool {
    [AUTHORIZATION, AUTHENTICATION].contains(&group)
        || Kind::ALL.iter().any(|kind| !group.is_empty() && kind.group() == group)
}

fn resource(
    method: &Method,
    group: &str,
    version: &str,
    rest: &[&str],
    query: &Query,
) -> Result<Route, Failure> {
    let review = REVIEWS.into_iter().find(|(of, _, plural, _)| *of == group && rest == [*plural]);
    if let Some((.., route)) = review.filter(|_| version == "v1") {
        return if method == Method::POST { Ok(route) } else { Err(Failure::method_not_allowed()) };
    }
    let (namespace, rest) = match rest {
        // A namespace itself, or a part of it.
        ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, name, part) = match rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some((*name).to_owned()), None),
        [plural, name, part] => (plural, Some((*name).to_owned()), Some(*part)),
        _ => return Err(Failure::no_such_resource()),
    };
    let kind = Kind::find(group, version, plural).ok_or_else(Failure::no_such_resource)?;
    // Objects of a namespace are named within it; lists may span all.
    if kind.namespaced() != namespace.is_some() && (namespace.is_some() || name.is_some()) {
        return Err(Failure::no_such_resource());
    }
    let subresource = match part {
        None => None,
        Some(part) => Some(
            kind.subresources()
                .iter()
                .copied()
                .find(|known| known.name() == part)
                .ok_or_else(Failure::no_such_resource)?,
        ),
    };
    let target = Target { kind, namespace, name, subresource };
    let verb = verb(method, &target, query).ok_or_else(Failure::method_not_allowed)?;
    Ok(Route::Resource(verb, target))
}

fn verb(method: &Method, target: &Target, query: &Query) -> Option<Verb> {
    let all_namespaces = target.kind.namespaced() && target.namespace.is_none();
    match (method.as_str(), target.name.is_some(), target.subresource) {
        ("GET", true, Some(Subresource::Binding)) => None,
        ("GET" | "HEAD", true, _) => Some(Verb::Get),
        ("GET" | "HEAD", false, _) if query.flag("watch") => Some(Verb::Watch),
        ("GET" | "HEAD", false, _) => Some(Verb::List),
        ("POST", true, Some(Subresource::Binding)) => Some(Verb::Create),
        ("POST", false, None) if !all_namespaces => Some(Verb::Create),
        ("PUT", true, None | Some(Subresource::Status)) => Some(Verb::Update),
        ("PATCH", true, None | Some(Subresource::Status)) => Some(Verb::Patch),
        ("DELETE", true, None) => Some(Verb::Delete),
        ("DELETE", false, None) if !all_namespaces => Some(Verb::DeleteCollection),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, uri: &str) -> Result<Route, u16> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        route(&method.parse().unwrap(), path, &Query::parse(query)).map_err(|failure| failure.code)
    }

    fn target(kind: Kind, namespace: &str, name: &str, subresource: Option<Subresource>) -> Target {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Target { kind, namespace: given(namespace), name: given(name), subresource }
    }

    #[test]
    fn paths_of_objects() {
        let pods = "/api/v1/namespaces/ns/pods";
        for (method, uri, verb, expected) in [
            ("GET", pods.to_owned(), Verb::List, target(Kind::Pod, "ns", "", None)),
            ("GET", format!("{pods}?&watch=true"), Verb::Watch, target(Kind::Pod, "ns", "", None)),
            ("GET", format!("{pods}?watch=0"), Verb::List, target(Kind::Pod, "ns", "", None)),
            ("POST", pods.to_owned(), Verb::Create, target(Kind::Pod, "ns", "", None)),
            ("DELETE", pods.to_owned(), Verb::DeleteCollection, target(Kind::Pod, "ns", "", None)),
            ("GET", format!("{pods}/p"), Verb::Get, target(Kind::Pod, "ns", "p", None)),
            ("PUT", format!("{pods}/p?"), Verb::Update, target(Kind::Pod, "ns", "p", None)),
            ("DELETE", format!("{pods}/p"), Verb::Delete, target(Kind::Pod, "ns", "p", None)),
            (
                "PATCH",
                format!("{pods}/p/status"),
                Verb::Patch,
                target(Kind::Pod, "ns", "p", Some(Subresource::Status)),
            ),
            ("GET", format!("{pods}/p/log"), Verb::Get, target(Kind::Pod, "ns", "p", Some(Subresource::Log))),
            (
                "POST",
                format!("{pods}/p/binding"),
                Verb::Create,
                target(Kind::Pod, "ns", "p", Some(Subresource::Binding)),
            ),
            ("GET", "/api/v1/pods".into(), Verb::List, target(Kind::Pod, "", "", None)),
            ("GET", "/api/v1/namespaces".into(), Verb::List, target(Kind::Namespace, "", "", None)),
            ("GET", "/api/v1/namespaces/ns".into(), Verb::Get, target(Kind::Namespace, "", "ns", None)),
            ("GET", "/api/v1/nodes/n%2E1".into(), Verb::Get, target(Kind::Node, "", "n.1", None)),
            (
                "GET",
                "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l".into(),
                Verb::Get,
                target(Kind::Lease, "ns", "l", None),
            ),
            ("GET", "/apis/events.k8s.io/v1/events".into(), Verb::List, target(Kind::EventV1, "", "", None)),
        ] {
            assert_eq!(ask(method, &uri), Ok(Route::Resource(verb, expected)), "{method} {uri}");
        }
    }

    #[test]
    fn what_is_not_served() {
        for (method, uri, code) in [
            ("POST", "/api/v1/namespaces/ns/pods/p", 405),
            ("PUT", "/api/v1/namespaces/ns/pods", 405),
            ("POST", "/api/v1/pods", 405),
            ("DELETE", "/api/v1/pods", 405),
            ("DELETE", "/api/v1/namespaces/ns/pods/p/status", 405),
            ("PUT", "/api/v1/namespaces/ns/pods/p/log", 405),
            ("GET", "/api/v1/namespaces/ns/pods/p/zz", 404),
            ("GET", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l/status", 404),
            ("GET", "/api/v1/namespaces/ns/zz", 404),
            ("GET", "/api/v1/namespaces/ns/nodes", 404),
            ("GET", "/api/v1/pods/p", 404),
            ("GET", "/apis/batch/v9/jobs", 404),
            ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405),
        ] {
            assert_eq!(ask(method, uri), Err(code), "{method} {uri}");
        }
        for uri in ["/", "/zz", "/apis/zz/v1/zz", "/apis/zz", "/openapi/v2"] {
            assert_eq!(ask("GET", uri), Ok(Route::Nothing), "{uri}");
        }
    }

    #[test]
    fn the_rest() {
        assert_eq!(ask("GET", "/readyz/ping"), Ok(Route::Health));
        let path = ["pods", "rules", "1"].map(str::to_owned).to_vec();
        assert_eq!(ask("DELETE", "/simulator/pods/rules/1"), Ok(Route::Simulator(path)));
        assert_eq!(ask("GET", "/api/v1"), Ok(Route::Resources(String::new(), "v1".into())));
        assert_eq!(ask("GET", "/apis/batch/v1/"), Ok(Route::Resources("batch".into(), "v1".into())));
        assert_eq!(ask("GET", "/apis/batch"), Ok(Route::Group("batch".into())));
        assert_eq!(
            ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
            Ok(Route::AccessReview)
        );
        assert_eq!(
            ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews"),
            Ok(Route::SubjectReview)
        );
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("&labelSelector=a%3Db%2Cc+in+%28d%29&dryRun=All&watch&limit=5%");
        assert_eq!(query.get("labelSelector"), "a=b,c in (d)");
        assert_eq!(query.all("dryRun").collect::<Vec<_>>(), ["All"]);
        assert!(query.flag("watch") && !query.flag("pretty"));
        assert_eq!(query.get("limit"), "5%");
    }
}
