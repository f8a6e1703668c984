//! A container of the operator's: it shares the exit's network, so that it must have no rights in it, and the
//! admission policy lets no other in. Called by [`super::rules`].

use serde_json::{Map, Value};

use super::TemplateError;
use super::containers::expansion;
use super::rules::{elements, text};
use crate::controller::manifest::SECRET;
use crate::kubernetes::names;
use crate::session::pod::{HEALTH_PORT, PROXY_PORT};

/// Fields that no container beside an exit has, why, and what to do.
const NONE: &[(&str, &str, &str)] = &[
    ("envFrom", "all of an object would be in its environment", "write each variable into env"),
    ("volumeDevices", "an exit has no device but its tunnel's", "leave it out"),
];

/// Checks a container that is not Gluetun's.
pub(super) fn check(container: &Map<String, Value>, path: &str, mistakes: &mut Vec<TemplateError>) {
    let name = text(container, "name");
    if name.is_empty() {
        mistakes.push(TemplateError::new(
            format!("{path}.name"),
            "it is missing",
            "write the container's name",
        ));
    } else if names::label(name).is_some() {
        mistakes.push(TemplateError::new(
            format!("{path}.name"),
            "it is no container's name",
            "write up to 63 small letters, digits and '-', a letter or a digit at both ends",
        ));
    }
    if text(container, "image").is_empty() {
        mistakes.push(TemplateError::new(format!("{path}.image"), "it is missing", "write the image"));
    }
    for (field, problem, fix) in NONE.iter().filter(|(field, ..)| container.contains_key(*field)) {
        mistakes.push(TemplateError::new(format!("{path}.{field}"), *problem, *fix));
    }
    if !["", "/dev/termination-log"].contains(&text(container, "terminationMessagePath")) {
        mistakes.push(TemplateError::new(
            format!("{path}.terminationMessagePath"),
            "the admission policy lets in no file of its own",
            "leave it out",
        ));
    }
    for field in ["command", "args"] {
        for word in container.get(field).and_then(Value::as_array).into_iter().flatten() {
            expansion(word.as_str().unwrap_or_default(), &format!("{path}.{field}"), mistakes);
        }
    }
    for variable in elements(container, "env") {
        let secret =
            variable.get("valueFrom").and_then(|from| from.get("secretKeyRef")?.get("name")?.as_str());
        if secret == Some(SECRET) {
            mistakes.push(TemplateError::new(
                format!("{path}.env[{}]", text(variable, "name")),
                "it would show the VPN's key",
                "put what you need into a Secret of your own",
            ));
        }
    }
    ports(container, path, mistakes);
    security(container, path, mistakes);
}

fn ports(container: &Map<String, Value>, path: &str, mistakes: &mut Vec<TemplateError>) {
    for port in elements(container, "ports") {
        let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or_default();
        let path = format!("{path}.ports[{number}]");
        if [i64::from(PROXY_PORT), i64::from(HEALTH_PORT)].contains(&number) {
            mistakes.push(TemplateError::new(path.clone(), "the exit's own port", "take another port"));
        } else if !(1..=i64::from(u16::MAX)).contains(&number) {
            mistakes.push(TemplateError::new(path.clone(), "it is no port", "write 1 to 65535"));
        }
        for field in ["hostPort", "hostIP"] {
            if port.contains_key(field) {
                mistakes.push(TemplateError::new(
                    format!("{path}.{field}"),
                    "two exits on a node would collide",
                    "leave it out",
                ));
            }
        }
    }
}

/// As the Pod Security level `restricted`, and the admission policy, have it.
fn security(container: &Map<String, Value>, path: &str, mistakes: &mut Vec<TemplateError>) {
    let empty = Map::new();
    let context = container.get("securityContext").and_then(Value::as_object).unwrap_or(&empty);
    let mut restricted = |field: &str, holds: bool, fix: &str| {
        if !holds {
            let path = format!("{path}.securityContext.{field}");
            mistakes.push(TemplateError::new(path, "a container beside an exit must be restricted", fix));
        }
    };
    let flag = |field: &str| context.get(field).and_then(Value::as_bool);
    let profile =
        |field: &str| context.get(field).and_then(|profile| profile.get("type")).and_then(Value::as_str);
    let capabilities = context.get("capabilities").and_then(Value::as_object).unwrap_or(&empty);
    let drops = capabilities.get("drop").and_then(Value::as_array);
    restricted("privileged", flag("privileged") != Some(true), "leave it out");
    restricted("allowPrivilegeEscalation", flag("allowPrivilegeEscalation") == Some(false), "write false");
    restricted("runAsNonRoot", flag("runAsNonRoot") == Some(true), "write true");
    restricted(
        "runAsUser",
        context.get("runAsUser").and_then(Value::as_i64) != Some(0),
        "write another user than 0",
    );
    restricted(
        "capabilities.drop",
        drops.is_some_and(|drops| drops.iter().map(Value::as_str).eq([Some("ALL")])),
        "write [ALL]",
    );
    restricted("capabilities.add", !capabilities.contains_key("add"), "leave it out");
    restricted(
        "seccompProfile.type",
        profile("seccompProfile") == Some("RuntimeDefault"),
        "write RuntimeDefault",
    );
    restricted(
        "appArmorProfile.type",
        matches!(profile("appArmorProfile"), None | Some("RuntimeDefault")),
        "leave it out, or write RuntimeDefault",
    );
    restricted("procMount", ["", "Default"].contains(&text(context, "procMount")), "leave it out");
    restricted("seLinuxOptions", !context.contains_key("seLinuxOptions"), "leave it out");
    restricted("windowsOptions", !context.contains_key("windowsOptions"), "leave it out");
}
