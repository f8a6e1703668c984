//! Which volumes a template may add: those that the admission policy lets in. Called by [`super::rules`].

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::TemplateError;
use super::rules::{elements, text};
use crate::controller::manifest::SECRET;
use crate::kubernetes::names;
use crate::kubernetes::quantity::Quantity;

/// The gateway's own, with the tunnel's device.
pub(super) const TUN: &str = "tun";

/// Kinds that a template may add. A hostPath would open the node, a projected token the API; others the policy
/// does not know.
const KINDS: &[&str] = &["configMap", "downwardAPI", "emptyDir", "secret"];

/// Checks the volumes, and returns their names.
pub(super) fn check<'a>(
    spec: &'a Map<String, Value>,
    mistakes: &mut Vec<TemplateError>,
) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for volume in elements(spec, "volumes") {
        let name = text(volume, "name");
        let path = format!("spec.volumes[{name}]");
        if name == TUN {
            mistakes.push(TemplateError::new(
                path.clone(),
                "the gateway's own volume has this name",
                "take another name",
            ));
        } else if names::label(name).is_some() {
            mistakes.push(TemplateError::new(
                path.clone(),
                "it is no volume's name",
                "write up to 63 small letters, digits and '-', a letter or a digit at both ends",
            ));
        }
        if !names.insert(name) {
            mistakes.push(TemplateError::new(path.clone(), "another volume has this name", "write it once"));
        }
        kind(volume, &path, mistakes);
    }
    names
}

fn kind(volume: &Map<String, Value>, path: &str, mistakes: &mut Vec<TemplateError>) {
    const FIX: &str = "take a configMap, secret, emptyDir or downwardAPI";
    let kinds: Vec<_> = volume.iter().filter(|(kind, _)| *kind != "name").collect();
    match kinds.as_slice() {
        // The API server would make it an emptyDir, which nobody has written.
        [] => mistakes.push(TemplateError::new(path, "it has no kind", FIX)),
        [_] => {}
        _ => mistakes.push(TemplateError::new(path, "it has more than one kind", FIX)),
    }
    let empty = Map::new();
    for (kind, source) in kinds {
        let path = format!("{path}.{kind}");
        let source = source.as_object().unwrap_or(&empty);
        match kind.as_str() {
            "emptyDir" => empty_dir(source, &path, mistakes),
            "secret" if text(source, "secretName") == SECRET => mistakes.push(TemplateError::new(
                format!("{path}.secretName"),
                "it would show the VPN's key",
                "put what you need into a Secret of your own",
            )),
            "secret" => named(source, "secretName", &path, mistakes),
            "configMap" => named(source, "name", &path, mistakes),
            kind if KINDS.contains(&kind) => {}
            _ => mistakes.push(TemplateError::new(path, "a template may not add this kind of volume", FIX)),
        }
    }
}

fn named(source: &Map<String, Value>, field: &str, path: &str, mistakes: &mut Vec<TemplateError>) {
    if names::subdomain(text(source, field)).is_some() {
        let path = format!("{path}.{field}");
        mistakes.push(TemplateError::new(path, "it names no object", "write the object's name"));
    }
}

fn empty_dir(source: &Map<String, Value>, path: &str, mistakes: &mut Vec<TemplateError>) {
    let limit = text(source, "sizeLimit");
    let medium = text(source, "medium");
    match medium {
        "" => {}
        "Memory" if limit.is_empty() => mistakes.push(TemplateError::new(
            format!("{path}.sizeLimit"),
            "without one it could take the node's memory",
            "write one, such as 16Mi",
        )),
        "Memory" => {}
        _ => mistakes.push(TemplateError::new(
            format!("{path}.medium"),
            format!("'{medium}' is nothing that an exit may have"),
            "leave it out, or write Memory with a sizeLimit",
        )),
    }
    if !limit.is_empty() && Quantity::parse(limit).is_none_or(Quantity::is_negative) {
        mistakes.push(TemplateError::new(
            format!("{path}.sizeLimit"),
            format!("'{limit}' is no quantity"),
            "write a number of bytes, such as 16Mi",
        ));
    }
}
