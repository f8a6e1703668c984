//! Requests and limits of a template's containers: Gluetun's beside those that the gateway writes, since it is
//! their sum that the API server sees. Called by [`super::containers`].

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::TemplateError;
use super::rules::{elements, text};
use crate::controller::manifest::{GO_MEMORY_LIMIT, LIMITS, REQUESTS};
use crate::kubernetes::quantity::Quantity;
use crate::session::pod::CONTAINER;

/// Resources that the admission policy lets in. A device plugin's comes by `TUN_DEVICE`.
const KINDS: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// Amounts by resource, each also as it is written.
type Amounts<'a> = BTreeMap<&'a str, (Quantity, &'a str)>;

/// Checks a container's resources.
pub(super) fn check(container: &Map<String, Value>, path: &str, mistakes: &mut Vec<TemplateError>) {
    let empty = Map::new();
    let resources = container.get("resources").and_then(Value::as_object).unwrap_or(&empty);
    let within = format!("{path}.resources");
    if resources.contains_key("claims") {
        mistakes.push(TemplateError::new(
            format!("{within}.claims"),
            "an exit has no device but its tunnel's",
            "leave it out; TUN_DEVICE chooses how the pod gets its device",
        ));
    }
    let requests = amounts(resources, "requests", &within, mistakes);
    let limits = amounts(resources, "limits", &within, mistakes);
    let ours = text(container, "name") == CONTAINER;
    let all_requests = if ours { beside(&REQUESTS, &requests) } else { requests.clone() };
    let all_limits = if ours { beside(&LIMITS, &limits) } else { limits.clone() };
    for (name, (request, requested)) in &all_requests {
        let Some((limit, limited)) = all_limits.get(name) else { continue };
        if request > limit {
            let field = if requests.contains_key(name) { "requests" } else { "limits" };
            mistakes.push(TemplateError::new(
                format!("{within}.{field}[{name}]"),
                format!("the request of {requested} is above the limit of {limited}"),
                "write both, the limit not below the request",
            ));
        }
    }
    if ours {
        let limit =
            all_limits.get("memory").map(|(limit, text)| (*limit, *text, limits.contains_key("memory")));
        collector(container, path, limit, mistakes);
    }
}

/// What the template writes.
fn amounts<'a>(
    resources: &'a Map<String, Value>,
    field: &str,
    path: &str,
    mistakes: &mut Vec<TemplateError>,
) -> Amounts<'a> {
    let mut amounts = Amounts::new();
    for (name, value) in resources.get(field).and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{field}[{name}]");
        let value = value.as_str().unwrap_or_default();
        if !KINDS.contains(&name.as_str()) {
            mistakes.push(TemplateError::new(
                path.clone(),
                "an exit has no device but its tunnel's",
                "take cpu, memory or ephemeral-storage; TUN_DEVICE names a device plugin's resource",
            ));
        }
        match Quantity::parse(value).filter(|quantity| !quantity.is_negative()) {
            Some(quantity) => _ = amounts.insert(name, (quantity, value)),
            None => mistakes.push(TemplateError::new(
                path,
                format!("'{value}' is no quantity"),
                "write a number from 0 up, such as 500m for cpu and 256Mi for memory",
            )),
        }
    }
    amounts
}

/// Ours, and over them the template's.
fn beside<'a>(ours: &[(&'a str, &'a str)], theirs: &Amounts<'a>) -> Amounts<'a> {
    let ours = ours.iter().filter_map(|(name, text)| Some((*name, (Quantity::parse(text)?, *text))));
    ours.chain(theirs.iter().map(|(name, amount)| (*name, *amount))).collect()
}

/// Gluetun's collector keeps its memory under `GOMEMLIMIT`; under a smaller limit the kernel kills it first.
fn collector(
    container: &Map<String, Value>,
    path: &str,
    limit: Option<(Quantity, &str, bool)>,
    mistakes: &mut Vec<TemplateError>,
) {
    const NAME: &str = "GOMEMLIMIT";
    let variable = elements(container, "env").find(|variable| text(variable, "name") == NAME);
    let go = match variable {
        Some(variable) if variable.contains_key("valueFrom") => return,
        Some(variable) => text(variable, "value"),
        None => GO_MEMORY_LIMIT,
    };
    if ["", "off"].contains(&go) {
        return;
    }
    let Some(kept) = go_memory(go) else {
        mistakes.push(TemplateError::new(
            format!("{path}.env[{NAME}]"),
            format!("Gluetun would not start with '{go}'"),
            "write it as Go does, such as 160MiB, or off",
        ));
        return;
    };
    if let Some((limit, limited, theirs)) = limit
        && limit <= kept
    {
        let field = if theirs { "resources.limits[memory]".to_owned() } else { format!("env[{NAME}]") };
        mistakes.push(TemplateError::new(
            format!("{path}.{field}"),
            format!(
                "the memory limit of {limited} is not above Gluetun's {NAME} of {go}: it would be killed"
            ),
            format!("write a larger limit, or a smaller {NAME} into env"),
        ));
    }
}

/// Bytes as Go's runtime reads them: a whole number with `B`, `KiB`, `MiB`, `GiB`, `TiB`, or nothing behind it.
fn go_memory(text: &str) -> Option<Quantity> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let suffix = match text.strip_prefix(digits)? {
        "" | "B" => "",
        "KiB" => "Ki",
        "MiB" => "Mi",
        "GiB" => "Gi",
        "TiB" => "Ti",
        _ => return None,
    };
    let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    whole.then(|| Quantity::parse(&format!("{digits}{suffix}"))).flatten()
}
