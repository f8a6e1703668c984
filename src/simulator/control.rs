//! The faults of pods over HTTP, for a cluster that is a process of its own: the kubelet's rules and
//! blows and the look-alike's faults, mounted on the API server's port. [`super::cluster`] mounts them;
//! what they do is the kubelet's and the look-alike's. `docs/simulator.md` shows each.

use std::sync::{Arc, Weak};

use http::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{ApiServer, ControlError, ControlRequest};
use super::gluetun::{FaultRules, Gluetun};
use super::kubelet::{Blow, Kubelet, Pods, Rule, RuleId};

/// Mounts `/simulator/pods` and `/simulator/gluetun`. `gluetun` is none where pods run something else.
pub(super) fn mount(api: &ApiServer, kubelet: &Arc<Kubelet>, gluetun: Option<&Arc<Gluetun>>) {
    // The API server outlives the kubelet, which must end when its owner lets go of it.
    let kubelet = Arc::downgrade(kubelet);
    api.mount("pods", move |request| pods(&kubelet, request));
    let gluetun = gluetun.cloned();
    api.mount("gluetun", move |request| look_alike(gluetun.as_deref(), request));
}

/// A blow as `POST /simulator/pods/strike` takes it.
#[derive(Debug, Serialize, Deserialize)]
struct Strike {
    /// Which pods; all by default.
    #[serde(default)]
    pods: Pods,
    #[serde(flatten)]
    blow: Blow,
}

fn pods(kubelet: &Weak<Kubelet>, request: &ControlRequest<'_>) -> Result<Value, ControlError> {
    let kubelet =
        kubelet.upgrade().ok_or_else(|| ControlError::Conflict("the kubelet has ended".to_owned()))?;
    let faults = kubelet.faults();
    match (request.path, request.method) {
        (["rules"], &Method::GET) => {
            let listed = faults.list().into_iter();
            let rules: Vec<Value> =
                listed.map(|(id, rule)| json!({"id": id, "rule": rule, "hits": faults.caught(id)})).collect();
            Ok(json!({ "rules": rules }))
        }
        (["rules"], &Method::POST) => Ok(json!({ "id": faults.add(strict::<Rule>(request)?) })),
        (["rules"], &Method::DELETE) => {
            faults.clear();
            Ok(json!({}))
        }
        (["rules", id], &Method::DELETE) => {
            let parsed: RuleId = id.parse().map_err(ControlError::Invalid)?;
            if !faults.remove(parsed) {
                return Err(ControlError::NotFound(format!("there is no rule {id}")));
            }
            Ok(json!({}))
        }
        (["strike"], &Method::POST) => {
            let Strike { pods, blow } = strict(request)?;
            Ok(json!({ "struck": kubelet.strike(&pods, &blow) }))
        }
        (["rules"] | ["rules", _] | ["strike"], _) => Err(ControlError::Method),
        _ => Err(ControlError::NoSuchPath),
    }
}

/// The body as a `T` that has flattened parts, for which serde cannot refuse unknown fields by itself: a
/// fault whose `pods` is misspelt would be one for all pods. Every field that was given has to be one
/// that the value writes, which leaves none out.
fn strict<T: DeserializeOwned + Serialize>(request: &ControlRequest<'_>) -> Result<T, ControlError> {
    let invalid = |error: serde_json::Error| ControlError::Invalid(error.to_string());
    let given: Value = request.json()?;
    let value: T = serde_json::from_value(given.clone()).map_err(invalid)?;
    let known = serde_json::to_value(&value).map_err(invalid)?;
    let names = |value: &Value| -> Vec<String> {
        value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
    };
    let known = names(&known);
    match names(&given).into_iter().find(|name| !known.contains(name)) {
        Some(name) => {
            Err(ControlError::Invalid(format!("unknown field `{name}`: here are known {}", known.join(", "))))
        }
        None => Ok(value),
    }
}

fn look_alike(gluetun: Option<&Gluetun>, request: &ControlRequest<'_>) -> Result<Value, ControlError> {
    let faults = gluetun.map(Gluetun::faults).ok_or_else(|| {
        let why = "pods run the command of --pod-command: there is no look-alike to break";
        ControlError::Conflict(why.to_owned())
    })?;
    match (request.path, request.method) {
        (["faults"], &Method::GET) => Ok(json!(faults.get())),
        (["faults"], &Method::PUT) => {
            faults.set(request.json::<FaultRules>()?);
            Ok(json!(faults.get()))
        }
        (["faults"], &Method::DELETE) => {
            faults.clear();
            Ok(json!({}))
        }
        (["faults", name], &Method::PUT) => {
            faults.set_for(name, request.json()?);
            Ok(json!(faults.get()))
        }
        (["faults", name], &Method::DELETE) => {
            if !faults.get().only.contains_key(*name) {
                return Err(ControlError::NotFound(format!("nothing is set for {name}")));
            }
            faults.clear_for(name);
            Ok(json!({}))
        }
        (["faults"] | ["faults", _], _) => Err(ControlError::Method),
        _ => Err(ControlError::NoSuchPath),
    }
}

#[cfg(test)]
mod tests;
