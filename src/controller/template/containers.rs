//! What holds for any container of a template, Gluetun's and those beside it: variables, mounts, resources.
//! Called by [`super::rules`].

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::rules::{choice, elements, text};
use super::{TemplateError, resources, volumes};
use crate::kubernetes::names;

/// Sources of a variable that the admission policy lets in.
const SOURCES: &[&str] = &["configMapKeyRef", "fieldRef", "resourceFieldRef", "secretKeyRef"];

/// Checks a container, where the template's volumes have these names.
pub(super) fn check(
    container: &Map<String, Value>,
    path: &str,
    volumes: &BTreeSet<&str>,
    mistakes: &mut Vec<TemplateError>,
) {
    choice(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"], mistakes);
    let mut names = BTreeSet::new();
    for variable in elements(container, "env") {
        let name = text(variable, "name");
        let path = format!("{path}.env[{name}]");
        if !names.insert(name) {
            mistakes.push(TemplateError::new(path.clone(), "the variable is there twice", "write it once"));
        }
        self::variable(variable, &path, mistakes);
    }
    mounts(container, path, volumes, mistakes);
    resources::check(container, path, mistakes);
}

fn variable(variable: &Map<String, Value>, path: &str, mistakes: &mut Vec<TemplateError>) {
    let name = text(variable, "name");
    if name.is_empty() || names::env_name(name).is_some() {
        mistakes.push(TemplateError::new(
            path,
            "it is no variable's name",
            "write printable ASCII without '='",
        ));
    }
    expansion(text(variable, "value"), &format!("{path}.value"), mistakes);
    let Some(from) = variable.get("valueFrom").and_then(Value::as_object) else { return };
    let path = format!("{path}.valueFrom");
    let sources: Vec<&str> = from.keys().map(String::as_str).collect();
    let fix = format!("write a value, or one of {}", SOURCES.join(", "));
    match sources.as_slice() {
        _ if !text(variable, "value").is_empty() => {
            mistakes.push(TemplateError::new(path, "there is a value beside it", fix));
        }
        [source] if SOURCES.contains(source) => {
            let reference = from.get(*source).and_then(Value::as_object);
            if source.ends_with("KeyRef")
                && reference
                    .is_none_or(|r| names::subdomain(text(r, "name")).is_some() || text(r, "key").is_empty())
            {
                mistakes.push(TemplateError::new(
                    format!("{path}.{source}"),
                    "it names no key of an object",
                    "write the object's name and the key",
                ));
            }
        }
        _ => mistakes.push(TemplateError::new(path, "it is not one source", fix)),
    }
}

/// The admission policy lets in no `$(VARIABLE)`: it would copy a key into what a program prints.
pub(super) fn expansion(value: &str, path: &str, mistakes: &mut Vec<TemplateError>) {
    if value.contains("$(") {
        mistakes.push(TemplateError::new(
            path,
            "by $(VARIABLE) a key could be copied",
            "write the value itself, or take it by valueFrom",
        ));
    }
}

fn mounts(
    container: &Map<String, Value>,
    path: &str,
    volumes: &BTreeSet<&str>,
    mistakes: &mut Vec<TemplateError>,
) {
    let mut places = BTreeSet::new();
    for mount in elements(container, "volumeMounts") {
        let (place, name) = (text(mount, "mountPath"), text(mount, "name"));
        let path = format!("{path}.volumeMounts[{place}]");
        let mut mistake = |path: String, problem: &str, fix: &str| {
            mistakes.push(TemplateError::new(path, problem, fix));
        };
        if place.is_empty() {
            mistake(path.clone(), "it is mounted nowhere", "write its mountPath");
        } else if !places.insert(place) {
            mistake(path.clone(), "two volumes are mounted here", "mount one of them elsewhere");
        }
        if name == volumes::TUN {
            mistake(path.clone(), "the volume is the gateway's own", "mount a volume of the template's");
        } else if !volumes.contains(name) {
            let problem = format!("there is no volume '{name}' in the template");
            mistake(path.clone(), &problem, "write it into spec.volumes");
        }
        for field in ["subPath", "subPathExpr"] {
            if mount.contains_key(field) {
                mistake(
                    format!("{path}.{field}"),
                    "the admission policy lets in no part of a volume",
                    "mount all of it; `items` of the volume choose its files",
                );
            }
        }
        if !["", "None"].contains(&text(mount, "mountPropagation")) {
            mistake(format!("{path}.mountPropagation"), "an exit's mounts are its own", "leave it out");
        }
    }
}
