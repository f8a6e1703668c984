//! The operator's pod template (`POD_TEMPLATE_FILE`): read, checked and merged with the pod of an exit.
//! `config` reads it, `controller::manifest` applies it to every pod.
//!
//! A template may say where pods run and with what beside them; what makes the pod an exit stays ours.
//! `rules` says which fields are whose, the modules beside it what each may say. So nothing that is allowed contradicts what is ours, save where a
//! choice of ours is meant as a default (DNS, resources, tuning of Gluetun), and there the template wins.
//!
//! The common mistakes of which the API server would refuse every pod are refused here already (its finer rules are
//! left to the dry run at start), and so is what the admission policy (`k8s/09-admission-policy.yaml`) would whatever its settings
//! are: a gateway that starts and cannot start a pod is the worse of two.

mod containers;
mod labels;
mod merge;
mod resources;
mod rules;
mod sidecar;
mod volumes;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use serde::Deserialize as _;
use serde_json::{Map, Value};

/// Largest template that is read: a real one has some hundred lines.
const MAX_BYTES: usize = 256 << 10;

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}; {fix}")]
pub struct TemplateError {
    /// The field (`spec.containers[gluetun].image`).
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl TemplateError {
    fn new(path: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into(), fix: fix.into() }
    }
}

/// A pod template that is fit to be merged with an exit's pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// `metadata` and `spec`, as Kubernetes would understand them.
    fields: Map<String, Value>,
}

impl Template {
    /// Reads a template: YAML or JSON of a `PodTemplateSpec` (`metadata` and `spec`), or of a `Pod` or
    /// `PodTemplate` with one.
    ///
    /// # Errors
    ///
    /// Every mistake at once, each with its field's path; a text that is no YAML, or a value of a wrong type,
    /// alone, since nothing after it can be judged.
    pub fn parse(text: &str) -> Result<Self, Vec<TemplateError>> {
        if text.len() > MAX_BYTES {
            let problem = format!("it has {} bytes, more than {MAX_BYTES}", text.len());
            return Err(vec![TemplateError::new(
                "the template",
                problem,
                "leave out what is no pod template",
            )]);
        }
        let value: Value = serde_saphyr::from_str(text).map_err(|error| {
            vec![TemplateError::new(
                "the template",
                error.to_string(),
                "write YAML with `metadata` and `spec`",
            )]
        })?;
        let value = unwrap_kind(value)?;
        // What Kubernetes' types make of it: a wrong type is told by its path.
        let typed: PodTemplateSpec = serde_path_to_error::deserialize(&value).map_err(|error| {
            let path = error.path().to_string();
            let fix = "see `kubectl explain pod`; a text such as 'on', 'y' or '1' needs quotes";
            vec![TemplateError::new(path, error.inner().to_string(), fix)]
        })?;
        let known = serde_json::to_value(&typed).map_err(|error| {
            vec![TemplateError::new("the template", error.to_string(), "see `kubectl explain pod`")]
        })?;
        let mut mistakes = rules::unknown(&value, &known);
        mistakes.extend(rules::check(&known));
        match known {
            Value::Object(fields) if mistakes.is_empty() => Ok(Self { fields }),
            _ => Err(mistakes),
        }
    }

    /// The pod with the template's fields.
    ///
    /// # Errors
    ///
    /// None in practice: both sides are pods in Kubernetes' own types, and their merge is one.
    pub fn apply(&self, pod: &Pod) -> Result<Pod, serde_json::Error> {
        let mut value = serde_json::to_value(pod)?;
        merge::fields(&mut value, &self.fields);
        Pod::deserialize(value)
    }
}

/// The pod template within a `Pod` or a `PodTemplate`, or the value itself.
fn unwrap_kind(value: Value) -> Result<Value, Vec<TemplateError>> {
    let fix = "write `metadata` and `spec` of a pod";
    let Value::Object(mut fields) = value else {
        return Err(vec![TemplateError::new("the template", "it is no mapping", fix)]);
    };
    let kind = fields.remove("kind");
    let version = fields.remove("apiVersion");
    let text = |value: &Option<Value>| value.as_ref().map(|v| v.as_str().unwrap_or_default().to_owned());
    match text(&version).as_deref() {
        None | Some("v1") => {}
        Some(other) => {
            return Err(vec![TemplateError::new("apiVersion", format!("'{other}' is not v1"), fix)]);
        }
    }
    match text(&kind).as_deref() {
        None | Some("Pod") => Ok(Value::Object(fields)),
        Some("PodTemplate") => match fields.remove("template") {
            Some(template @ Value::Object(_)) => Ok(template),
            Some(_) | None => Err(vec![TemplateError::new("template", "a PodTemplate has none", fix)]),
        },
        Some(other) => Err(vec![TemplateError::new("kind", format!("'{other}' is no pod template"), fix)]),
    }
}

#[cfg(test)]
mod tests;
