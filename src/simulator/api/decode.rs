//! From a request's body to an object in stored form: types checked against the API's own (by way of
//! `k8s_openapi`, which also drops unknown fields), quantities made canonical, events brought into
//! their core/v1 form. Used for whole bodies and for the results of patches.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret};
use k8s_openapi::api::events::v1::Event as EventV1;

use super::events;
use super::json::{at, child, list, metadata, object, text};
use super::quantity;
use super::resources::Kind;
use super::status::Failure;

/// What to do about fields that the API does not know: the `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// Reads the parameter.
    pub(super) fn parse(value: &str) -> Result<Self, Failure> {
        match value {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(Failure::bad_request(format!(
                "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Warn\", \
                 \"Strict\""
            ))),
        }
    }
}

/// An object and what its author should be warned of.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) object: Value,
    pub(super) warnings: Vec<String>,
}

/// Reads the body of a create or an update.
pub(super) fn body(kind: Kind, body: &[u8], validation: FieldValidation) -> Result<Decoded, Failure> {
    let name = kind.name();
    let parsed: Value = serde_json::from_slice(body).map_err(|error| {
        let shown = match String::from_utf8_lossy(body) {
            text if text.is_empty() => "<empty>".into(),
            text => text.chars().take(60).collect::<String>(),
        };
        Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {name}): couldn't get version/kind; json \
             parse error: {error} ({shown})"
        ))
    })?;
    if !parsed.is_object() {
        return Err(Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {name}): couldn't get version/kind; json \
             parse error: the body is no object"
        )));
    }
    let or = |field: &str, default: &str| match text(&parsed, &[field]) {
        "" => default.to_owned(),
        given => given.to_owned(),
    };
    let version = or("apiVersion", kind.api_version());
    let given = or("kind", name);
    let refuse = |why: &str| {
        let short = version.rsplit('/').next().unwrap_or(&version);
        Failure::bad_request(format!("{given} in version \"{short}\" cannot be handled as a {name}: {why}"))
    };
    if version != kind.api_version() {
        return Err(refuse(&format!("no kind \"{given}\" is registered for version \"{version}\"")));
    }
    if given != name {
        return Err(refuse(&format!("converting ({given}) to ({name}): unknown conversion")));
    }
    let decoded = value(kind, parsed).map_err(|why| refuse(&why))?;
    if validation == FieldValidation::Strict && !decoded.warnings.is_empty() {
        return Err(refuse(&format!("strict decoding error: {}", decoded.warnings.join(", "))));
    }
    let warnings = if validation == FieldValidation::Ignore { Vec::new() } else { decoded.warnings };
    Ok(Decoded { warnings, ..decoded })
}

/// Checks and normalises an object in the form that clients of `kind` see. Says what is wrong as Go's
/// decoder would, roughly.
pub(super) fn value(kind: Kind, mut value: Value) -> Result<Decoded, String> {
    let fields = object(&mut value);
    fields.insert("apiVersion".into(), json!(kind.api_version()));
    fields.insert("kind".into(), json!(kind.name()));
    let meta = metadata(&mut value);
    for dropped in ["managedFields", "selfLink"] {
        meta.shift_remove(dropped);
    }
    normalize(kind, &mut value)?;
    for path in micro_times(kind) {
        if let Some(Value::String(time)) = at(&value, path) {
            micro_time(time)?;
        }
    }
    let typed = match kind {
        Kind::Pod => through::<Pod>(&value),
        Kind::Secret => through::<Secret>(&value),
        Kind::ConfigMap => through::<ConfigMap>(&value),
        Kind::Event => through::<Event>(&value),
        Kind::Namespace => through::<Namespace>(&value),
        Kind::Node => through::<Node>(&value),
        Kind::Lease => through::<Lease>(&value),
        Kind::Job => through::<Job>(&value),
        Kind::EventV1 => through::<EventV1>(&value),
    }?;
    let mut warnings = Vec::new();
    unknown_fields(&value, &typed, "", &mut warnings);
    let typed = without_empty(typed);
    let object = match kind {
        Kind::EventV1 => events::to_core(typed),
        Kind::Event => events::complete(typed),
        Kind::Secret => merge_string_data(typed),
        Kind::Pod => pod_addresses(typed),
        Kind::ConfigMap | Kind::Namespace | Kind::Node | Kind::Lease | Kind::Job => typed,
    };
    Ok(Decoded { object, warnings })
}

/// The form in which clients of `kind` see a stored object.
pub(super) fn view(kind: Kind, stored: &Value) -> Value {
    match kind {
        Kind::EventV1 => events::to_v1(stored),
        Kind::Pod
        | Kind::Secret
        | Kind::ConfigMap
        | Kind::Event
        | Kind::Namespace
        | Kind::Node
        | Kind::Lease
        | Kind::Job => stored.clone(),
    }
}

/// Leaves out what Go's encoder leaves out: empty lists, and empty maps where a map is meant and not a
/// structure whose mere presence says something.
fn without_empty(mut value: Value) -> Value {
    fn lists(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|_, value| !value.as_array().is_some_and(Vec::is_empty));
                map.values_mut().for_each(lists);
            }
            Value::Array(items) => items.iter_mut().for_each(lists),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    fn maps(fields: &mut Map<String, Value>, names: &[&str]) {
        fields.retain(|key, value| {
            !(names.contains(&key.as_str()) && value.as_object().is_some_and(Map::is_empty))
        });
    }
    lists(&mut value);
    maps(metadata(&mut value), &["labels", "annotations"]);
    maps(object(&mut value), &["data", "binaryData"]);
    value
}

fn through<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, String> {
    let typed = T::deserialize(value).map_err(|error| format!("json: cannot unmarshal: {error}"))?;
    serde_json::to_value(typed).map_err(|error| format!("json: {error}"))
}

fn normalize(kind: Kind, value: &mut Value) -> Result<(), String> {
    match kind {
        Kind::Pod => value.get_mut("spec").map_or(Ok(()), quantity::normalize_pod_spec),
        Kind::Job => value.pointer_mut("/spec/template/spec").map_or(Ok(()), quantity::normalize_pod_spec),
        Kind::Node => quantity::normalize_maps(value.get_mut("status"), &["capacity", "allocatable"]),
        Kind::Secret | Kind::ConfigMap | Kind::Event | Kind::Namespace | Kind::Lease | Kind::EventV1 => {
            Ok(())
        }
    }
}

fn micro_times(kind: Kind) -> &'static [&'static [&'static str]] {
    match kind {
        Kind::Lease => &[&["spec", "renewTime"], &["spec", "acquireTime"]],
        Kind::Event | Kind::EventV1 => &[&["eventTime"], &["series", "lastObservedTime"]],
        Kind::Pod | Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::Node | Kind::Job => &[],
    }
}

/// Go reads a `MicroTime` with exactly six decimals and nothing else: neither none, nor three, nor
/// nine. The most common mistake of clients that are not written in Go.
fn micro_time(time: &str) -> Result<(), String> {
    let refuse = |rest: &str, wanted: &str| {
        Err(format!(
            "parsing time \"{time}\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"{rest}\" as \
             \"{wanted}\""
        ))
    };
    // 19 bytes of date and time, then the fraction.
    let Some((whole, rest)) = time.split_at_checked(19).filter(|(whole, _)| whole.contains('T')) else {
        return refuse(time, "2006");
    };
    let Some(fraction) = rest.strip_prefix('.') else { return refuse(rest, ".000000") };
    let digits = fraction.chars().take_while(char::is_ascii_digit).count();
    if digits < 6 {
        return refuse(rest, ".000000");
    }
    if digits > 6 {
        return refuse(&fraction[6..], "Z07:00");
    }
    if time.parse::<k8s_openapi::jiff::Timestamp>().is_err() {
        return refuse(whole, "2006");
    }
    Ok(())
}

/// A pod's address is its first address: the older, single field rules where both are given.
fn pod_addresses(mut pod: Value) -> Value {
    let first = text(&pod, &["status", "podIP"]).to_owned();
    let listed = list(&pod, &["status", "podIPs"]).first().map(|entry| text(entry, &["ip"]).to_owned());
    if first.is_empty() {
        if let Some(listed) = listed {
            child(&mut pod, "status").insert("podIP".into(), Value::String(listed));
        }
    } else if listed.as_ref() != Some(&first) {
        child(&mut pod, "status").insert("podIPs".into(), json!([{"ip": first}]));
    }
    pod
}

/// `stringData` is written only: it goes into `data`, over what is there.
fn merge_string_data(mut secret: Value) -> Value {
    let fields = object(&mut secret);
    let Some(Value::Object(plain)) = fields.shift_remove("stringData") else { return secret };
    let data = object(fields.entry("data").or_insert_with(|| Value::Object(Map::new())));
    for (key, value) in plain {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        data.insert(key, Value::String(encoded));
    }
    secret
}

fn unknown_fields(given: &Value, typed: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, typed) {
        (Value::Object(given), Value::Object(typed)) => {
            for (key, value) in given {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match typed.get(key) {
                    Some(typed) => unknown_fields(value, typed, &path, unknown),
                    None if value.is_null() => {}
                    None => unknown.push(format!("unknown field \"{path}\"")),
                }
            }
        }
        (Value::Array(given), Value::Array(typed)) => {
            for (index, (given, typed)) in given.iter().zip(typed).enumerate() {
                unknown_fields(given, typed, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(kind: Kind, given: &Value, validation: FieldValidation) -> Result<Decoded, Failure> {
        body(kind, given.to_string().as_bytes(), validation)
    }

    #[test]
    fn kind_and_version_may_be_left_out_but_not_be_others() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
        let decoded = decode(Kind::Pod, &pod, FieldValidation::Warn).unwrap();
        assert_eq!((&decoded.object["apiVersion"], &decoded.object["kind"]), (&json!("v1"), &json!("Pod")));
        assert!(decoded.warnings.is_empty());
        let wrong = json!({"apiVersion": "v2", "kind": "Pod"});
        let error = decode(Kind::Pod, &wrong, FieldValidation::Warn).unwrap_err();
        assert!(error.message.starts_with("Pod in version \"v2\" cannot be handled as a Pod: no kind"));
        let wrong = json!({"apiVersion": "v1", "kind": "Secret"});
        let error = decode(Kind::Pod, &wrong, FieldValidation::Warn).unwrap_err();
        assert!(error.message.starts_with("Secret in version \"v1\" cannot be handled as a Pod"));
    }

    #[test]
    fn bodies_that_are_no_objects() {
        for bad in ["", "{nope", "[]", "3"] {
            let error = body(Kind::Pod, bad.as_bytes(), FieldValidation::Warn).unwrap_err();
            assert_eq!(error.code, 400);
            assert!(error.message.contains("the object provided is unrecognized"), "{}", error.message);
        }
    }

    #[test]
    fn types_are_checked() {
        for (kind, bad) in [
            (Kind::Pod, json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": "x"}]}]}})),
            (Kind::Secret, json!({"data": {"a": "!!"}})),
            (Kind::Lease, json!({"metadata": {"labels": {"a": 1}}})),
            (
                Kind::Pod,
                json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "x"}}}]}}),
            ),
        ] {
            let error = decode(kind, &bad, FieldValidation::Ignore).unwrap_err();
            assert_eq!(error.code, 400, "{}", error.message);
        }
    }

    #[test]
    fn micro_times_have_six_decimals() {
        let lease = |time: &str| {
            let given = json!({"spec": {"renewTime": time}});
            decode(Kind::Lease, &given, FieldValidation::Warn).map(|decoded| decoded.object)
        };
        let stored = lease("2026-01-01T02:00:00.123456+02:00").unwrap();
        assert_eq!(stored["spec"]["renewTime"], "2026-01-01T00:00:00.123456Z");
        for (bad, rest) in [
            ("2026-01-01T00:00:00Z", "\"Z\" as \".000000\""),
            ("2026-01-01T00:00:00.123Z", "\".123Z\" as \".000000\""),
            ("2026-01-01T00:00:00.123456789Z", "\"789Z\" as \"Z07:00\""),
            ("junk", "\"junk\" as \"2006\""),
            ("2026-13-01T00:00:00.000000Z", "as \"2006\""),
            ("2026-01-01Tö0:00:00.000000Z", "cannot parse"),
        ] {
            let message = lease(bad).unwrap_err().message;
            assert!(message.contains(rest), "{message}");
        }
    }

    #[test]
    fn unknown_fields_are_dropped_and_told() {
        let pod = json!({"extra": 1, "spec": {"containers": [{"name": "c", "imag": "x", "image": null}]}});
        let warned = decode(Kind::Pod, &pod, FieldValidation::Warn).unwrap();
        assert_eq!(warned.warnings, ["unknown field \"extra\"", "unknown field \"spec.containers[0].imag\""]);
        assert!(warned.object.get("extra").is_none());
        assert!(decode(Kind::Pod, &pod, FieldValidation::Ignore).unwrap().warnings.is_empty());
        let error = decode(Kind::Pod, &pod, FieldValidation::Strict).unwrap_err();
        assert!(error.message.contains("strict decoding error: unknown field \"extra\", unknown field"));
        assert!(FieldValidation::parse("zz").is_err());
    }

    #[test]
    fn string_data_goes_into_data() {
        let secret = json!({"stringData": {"a": "b"}, "data": {"a": "eA==", "c": "ZA=="}});
        let stored = decode(Kind::Secret, &secret, FieldValidation::Warn).unwrap().object;
        assert_eq!(stored["data"], json!({"a": "Yg==", "c": "ZA=="}));
        assert!(stored.get("stringData").is_none());
    }

    #[test]
    fn a_pods_two_address_fields_agree() {
        let status = |status: Value| {
            let pod = json!({"spec": {"containers": []}, "status": status});
            value(Kind::Pod, pod).unwrap().object["status"].clone()
        };
        let both = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]});
        assert_eq!(status(json!({"podIP": "10.0.0.1"})), both);
        assert_eq!(status(json!({"podIPs": [{"ip": "10.0.0.1"}]})), both);
        assert_eq!(status(json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}]})), both);
        assert_eq!(status(json!({"phase": "Pending"})), json!({"phase": "Pending"}));
    }

    #[test]
    fn what_is_empty_is_left_out() {
        let given =
            json!({"metadata": {"labels": {}, "annotations": {"a": "b"}, "finalizers": []}, "data": {}});
        let stored = value(Kind::ConfigMap, given).unwrap().object;
        assert_eq!(stored["metadata"], json!({"annotations": {"a": "b"}}));
        assert!(stored.get("data").is_none());
        let pod = json!({"spec": {"containers": [{"name": "c", "args": []}], "securityContext": {},
                         "volumes": [{"name": "v", "emptyDir": {}}]}});
        let stored = value(Kind::Pod, pod).unwrap().object;
        assert_eq!(stored["spec"]["volumes"][0]["emptyDir"], json!({}));
        assert!(stored["spec"]["containers"][0].get("args").is_none());
    }
}
