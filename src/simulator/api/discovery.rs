//! What kubectl asks first: versions, groups and resources.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::resources::{Kind, Subresource};
use super::router::REVIEWS;

/// The Kubernetes minor version whose API this is: that of the types that bodies are checked against.
const MINOR: &str = "33";

/// `/version`.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+gluetun-gateway-simulator"),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// `/api`.
pub(super) fn core_versions(address: SocketAddr) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address.to_string()}],
    })
}

fn group_names() -> Vec<&'static str> {
    let mut groups: Vec<&str> = Kind::ALL.iter().map(|kind| kind.group()).collect();
    groups.extend(REVIEWS.iter().map(|(group, ..)| *group));
    groups.retain(|group| !group.is_empty());
    groups.dedup();
    groups
}

fn describe(group: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

/// `/apis`.
pub(super) fn groups() -> Value {
    let groups: Vec<Value> = group_names().into_iter().map(describe).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(super) fn group(name: &str) -> Option<Value> {
    let name = group_names().into_iter().find(|group| *group == name)?;
    let mut group = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Value::Object(group), Value::Object(rest)) = (&mut group, describe(name)) {
        group.extend(rest);
    }
    Some(group)
}

/// `/api/v1` and `/apis/GROUP/v1`.
pub(super) fn resources(group: &str, version: &str) -> Option<Value> {
    if version != "v1" {
        return None;
    }
    let mut resources: Vec<Value> = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.group() == group) {
        resources.push(resource(kind));
        resources.extend(kind.subresources().iter().map(|part| subresource(kind, *part)));
    }
    for (_, kind, plural, _) in REVIEWS.iter().filter(|(of, ..)| *of == group) {
        resources.push(json!({
            "name": plural, "singularName": kind.to_ascii_lowercase(), "namespaced": false, "kind": kind,
            "verbs": ["create"],
        }));
    }
    let group_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    (!resources.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
            "resources": resources,
        })
    })
}

fn resource(kind: Kind) -> Value {
    let mut resource = json!({
        "name": kind.plural(), "singularName": kind.singular(), "namespaced": kind.namespaced(),
        "kind": kind.name(),
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    });
    if !kind.short_names().is_empty() {
        resource["shortNames"] = json!(kind.short_names());
    }
    if !kind.categories().is_empty() {
        resource["categories"] = json!(kind.categories());
    }
    resource
}

fn subresource(kind: Kind, part: Subresource) -> Value {
    let (shown, verbs): (&str, &[&str]) = match part {
        Subresource::Status => (kind.name(), &["get", "patch", "update"]),
        Subresource::Log => ("Pod", &["get"]),
        Subresource::Binding => ("Binding", &["create"]),
    };
    json!({
        "name": format!("{}/{}", kind.plural(), part.name()), "singularName": "",
        "namespaced": kind.namespaced(), "kind": shown, "verbs": verbs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_routed_is_discovered() {
        for kind in Kind::ALL {
            let list = resources(kind.group(), "v1").unwrap();
            let names: Vec<&str> =
                list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
            assert!(names.contains(&kind.plural()), "{names:?}");
            for part in kind.subresources() {
                assert!(names.contains(&format!("{}/{}", kind.plural(), part.name()).as_str()));
            }
        }
        assert!(resources("", "v2").is_none() && resources("zz", "v1").is_none());
    }

    #[test]
    fn groups_are_listed_once() {
        let groups = groups();
        let names: Vec<&str> =
            groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "coordination.k8s.io",
                "batch",
                "events.k8s.io",
                "authorization.k8s.io",
                "authentication.k8s.io"
            ]
        );
        assert_eq!(group("batch").unwrap()["preferredVersion"]["groupVersion"], "batch/v1");
        assert!(group("zz").is_none());
        assert_eq!(core_versions("127.0.0.1:1".parse().unwrap())["versions"], json!(["v1"]));
        assert_eq!(version()["minor"], "33");
    }
}
