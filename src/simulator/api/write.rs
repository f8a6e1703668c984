//! Creates, updates, patches and bindings. Each reads an object, works out the new one and commits it
//! if the object is still the one that was read, else starts over: what etcd transactions are to the
//! real server. A write that changes nothing writes nothing.

use std::sync::Arc;

use serde_json::{Value, json};

use super::decode::{self, Decoded, FieldValidation};
use super::json::{child, list, map, metadata, object, text};
use super::patch::{self, Format};
use super::resources::{Kind, Subresource};
use super::router::Query;
use super::status::{Failure, FieldError};
use super::store::{Commit, Object, Store};
use super::{age, prepare, validate};

/// Names that are generated before a collision is reported.
const GENERATE_TRIES: usize = 8;

/// The parameters of a write.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteOptions {
    pub(super) dry_run: bool,
    pub(super) validation: FieldValidation,
    pub(super) has_manager: bool,
}

impl WriteOptions {
    /// Reads the query; `options` is the kind to name in a refusal, such as `CreateOptions`.
    pub(super) fn parse(query: &Query, options: &str) -> Result<Self, Failure> {
        let given: Vec<&str> = query.all("dryRun").filter(|value| !value.is_empty()).collect();
        if given.iter().any(|value| *value != "All") {
            let error = FieldError::unsupported("dryRun", json!(given), &["All"]);
            return Err(Failure::invalid_as("meta.k8s.io", options, "", &[error]));
        }
        Ok(Self {
            dry_run: !given.is_empty(),
            validation: FieldValidation::parse(query.get("fieldValidation"))?,
            has_manager: !query.get("fieldManager").is_empty(),
        })
    }
}

/// What a write left behind.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) object: Arc<Object>,
    pub(super) created: bool,
    pub(super) warnings: Vec<String>,
}

impl Written {
    fn new(object: Arc<Object>, created: bool) -> Self {
        Self { object, created, warnings: Vec::new() }
    }
}

/// Where an object is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) kind: Kind,
    /// Empty for a cluster-scoped kind.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

/// Creates an object in a namespace (empty for a cluster-scoped kind).
pub(super) fn create(
    store: &Store,
    kind: Kind,
    namespace: &str,
    decoded: Decoded,
    options: WriteOptions,
) -> Result<Written, Failure> {
    let Decoded { object: mut value, warnings } = decoded;
    check_namespace(namespace, &value)?;
    if !matches!(text(&value, &["metadata", "resourceVersion"]), "" | "0") {
        return Err(Failure::bare_internal("resourceVersion should not be set on objects to be created"));
    }
    let generated = text(&value, &["metadata", "name"]).is_empty();
    for attempt in 1.. {
        let mut fresh = if generated { value.clone() } else { std::mem::take(&mut value) };
        prepare::generate_name(&mut fresh);
        prepare::create(kind, (!namespace.is_empty()).then_some(namespace), &mut fresh);
        let name = text(&fresh, &["metadata", "name"]).to_owned();
        let errors = validate::create(kind, &fresh);
        if !errors.is_empty() {
            return Err(invalid(kind, &name, &errors));
        }
        if options.dry_run {
            if store.get(kind, namespace, &name).is_some() {
                return Err(taken(store, kind, namespace, &name));
            }
            return Ok(Written { warnings, ..Written::new(Arc::new(Object::draft(fresh)), true) });
        }
        ensure_namespace(store, namespace)?;
        match store.commit(kind, namespace, &name, None, Commit::Put(fresh)) {
            Ok(object) => return Ok(Written { warnings, ..Written::new(object, true) }),
            Err(_) if generated && attempt < GENERATE_TRIES => {}
            Err(_) => return Err(taken(store, kind, namespace, &name)),
        }
    }
    // The loop above ends by returning.
    Err(Failure::internal("no name could be generated"))
}

/// The refusal of a name that is in use.
fn taken(store: &Store, kind: Kind, namespace: &str, name: &str) -> Failure {
    match store.get(kind, namespace, name) {
        Some(object) if !object.value["metadata"]["deletionTimestamp"].is_null() => {
            Failure::still_exists(kind, name)
        }
        _ => Failure::already_exists(kind, name),
    }
}

/// Namespaces need not be made first: the first object in one makes it.
fn ensure_namespace(store: &Store, name: &str) -> Result<(), Failure> {
    if name.is_empty() || store.get(Kind::Namespace, "", name).is_some() {
        return Ok(());
    }
    if crate::kubernetes::names::label(name).is_some() {
        return Err(Failure::not_found(Kind::Namespace, name));
    }
    let mut namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    prepare::create(Kind::Namespace, None, &mut namespace);
    // Losing a race means that it exists.
    let _ = store.commit(Kind::Namespace, "", name, None, Commit::Put(namespace));
    Ok(())
}

fn check_namespace(namespace: &str, value: &Value) -> Result<(), Failure> {
    let given = text(value, &["metadata", "namespace"]);
    if !given.is_empty() && given != namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Failure::bad_request(why));
    }
    Ok(())
}

fn check_name(name: &str, value: &Value) -> Result<(), Failure> {
    let given = text(value, &["metadata", "name"]);
    if !given.is_empty() && given != name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

/// The `resourceVersion` that a request insists on.
fn wanted_version(value: &Value) -> Result<Option<u64>, Failure> {
    match text(value, &["metadata", "resourceVersion"]) {
        "" => Ok(None),
        given => match given.parse() {
            Ok(0) => Ok(None),
            Ok(version) => Ok(Some(version)),
            Err(_) => {
                Err(Failure::bare_internal(format!("strconv.ParseUint: parsing \"{given}\": invalid syntax")))
            }
        },
    }
}

/// The `uid` that a request insists on is not that of the object (`found`, empty if there is none).
fn check_uid(place: Place<'_>, value: &Value, found: &str) -> Result<(), Failure> {
    let wanted = text(value, &["metadata", "uid"]);
    if wanted.is_empty() || wanted == found {
        return Ok(());
    }
    let Place { kind, namespace, name } = place;
    let key = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}/{key}, ResourceVersion: 0, \
         AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}",
        kind.plural()
    );
    Err(Failure::conflict(kind, name, &why))
}

/// Replaces an object, or its status.
pub(super) fn update(
    store: &Store,
    place: Place<'_>,
    part: Option<Subresource>,
    decoded: Decoded,
    options: WriteOptions,
) -> Result<Written, Failure> {
    let Place { kind, namespace, name } = place;
    let Decoded { object: value, warnings } = decoded;
    check_name(name, &value)?;
    check_namespace(namespace, &value)?;
    let wanted = wanted_version(&value)?;
    loop {
        let Some(current) = store.get(kind, namespace, name) else {
            if !kind.create_on_update() || part.is_some() {
                return Err(Failure::not_found(kind, name));
            }
            check_uid(place, &value, "")?;
            let mut fresh = value.clone();
            metadata(&mut fresh).insert("name".into(), json!(name));
            metadata(&mut fresh).shift_remove("resourceVersion");
            let decoded = Decoded { object: fresh, warnings: warnings.clone() };
            match create(store, kind, namespace, decoded, options) {
                // Somebody else was faster: then it is an update.
                Err(failure) if failure.reason.as_deref() == Some("AlreadyExists") => continue,
                result => return result,
            }
        };
        check_uid(place, &value, text(&current.value, &["metadata", "uid"]))?;
        match wanted {
            Some(version) if version != current.version => return Err(Failure::stale(kind, name)),
            Some(_) => {}
            None if kind.unconditional_update() => {}
            None => return Err(version_required(kind, name)),
        }
        let new = prepare::update(kind, &current.value, value.clone(), part);
        if let Some(object) = commit(store, place, &current, new, options)? {
            return Ok(Written { warnings, ..Written::new(object, false) });
        }
    }
}

/// Both forms of an event are named as the core one.
fn invalid(kind: Kind, name: &str, errors: &[FieldError]) -> Failure {
    Failure::invalid(if kind == Kind::EventV1 { Kind::Event } else { kind }, name, errors)
}

fn version_required(kind: Kind, name: &str) -> Failure {
    let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
    Failure::invalid_as(kind.group(), kind.plural(), name, &[error])
}

/// Validates and writes a changed object. Nothing if somebody else has written it meanwhile.
fn commit(
    store: &Store,
    place: Place<'_>,
    current: &Arc<Object>,
    new: Value,
    options: WriteOptions,
) -> Result<Option<Arc<Object>>, Failure> {
    let Place { kind, namespace, name } = place;
    let errors = validate::update(kind, &current.value, &new);
    if !errors.is_empty() {
        return Err(invalid(kind, name, &errors));
    }
    if new == current.value {
        return Ok(Some(current.clone()));
    }
    if options.dry_run {
        return Ok(Some(Arc::new(Object::draft(new))));
    }
    let change = if prepare::is_finished(&new) { Commit::Remove(new) } else { Commit::Put(new) };
    Ok(store.commit(kind, namespace, name, Some(current.version), change).ok())
}

/// Changes a part of an object, or of its status.
pub(super) fn patch(
    store: &Store,
    place: Place<'_>,
    part: Option<Subresource>,
    format: Format,
    body: &[u8],
    options: WriteOptions,
) -> Result<Written, Failure> {
    let Place { kind, namespace, name } = place;
    let changes = patch::parse(format, body)?;
    if format == Format::Apply {
        if !options.has_manager {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(Failure::invalid_as("meta.k8s.io", "PatchOptions", "", &[error]));
        }
        let of = |field: &str| text(&changes, &[field]);
        if of("apiVersion").is_empty() || of("kind").is_empty() {
            let why = format!("invalid object type: {}, Kind={}", of("apiVersion"), of("kind"));
            return Err(Failure::bad_request(why));
        }
    }
    loop {
        let Some(current) = store.get(kind, namespace, name) else {
            if format != Format::Apply || part.is_some() {
                return Err(Failure::not_found(kind, name));
            }
            let uid = text(&changes, &["metadata", "uid"]);
            if !uid.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                return Err(Failure::conflict(kind, name, &why));
            }
            check_name(name, &changes)?;
            let mut decoded = decode::body(kind, body, options.validation)?;
            let meta = metadata(&mut decoded.object);
            meta.insert("name".into(), json!(name));
            meta.shift_remove("resourceVersion");
            match create(store, kind, namespace, decoded, options) {
                Err(failure) if failure.reason.as_deref() == Some("AlreadyExists") => continue,
                result => return result,
            }
        };
        let seen = decode::view(kind, &current.value);
        let patched = patch::apply(format, &seen, &changes)?;
        check_name(name, &patched)?;
        check_namespace(namespace, &patched)?;
        let Decoded { object: value, warnings } = decode_patched(kind, patched, options.validation)?;
        match wanted_version(&value)? {
            Some(version) if version != current.version => return Err(Failure::stale(kind, name)),
            Some(_) => {}
            None if kind.unconditional_update() => {}
            None => return Err(version_required(kind, name)),
        }
        let new = prepare::update(kind, &current.value, value, part);
        if let Some(object) = commit(store, place, &current, new, options)? {
            let warnings = if options.validation == FieldValidation::Ignore { Vec::new() } else { warnings };
            return Ok(Written { warnings, ..Written::new(object, false) });
        }
    }
}

/// Reads the result of a patch. What is wrong with it is told without kind and name, as the real one
/// does, and with all of the object.
fn decode_patched(kind: Kind, patched: Value, validation: FieldValidation) -> Result<Decoded, Failure> {
    let refuse = |why: &str| {
        let error = FieldError::invalid("patch", patched.to_string(), why);
        Failure::invalid_as("", "", "", &[error])
    };
    for (field, right) in [("apiVersion", kind.api_version()), ("kind", kind.name())] {
        let given = text(&patched, &[field]);
        if given != right {
            return Err(refuse(&format!("{field} \"{given}\" is not \"{right}\"")));
        }
    }
    let decoded = decode::value(kind, patched.clone()).map_err(|why| refuse(&why))?;
    if validation == FieldValidation::Strict && !decoded.warnings.is_empty() {
        return Err(refuse(&format!("strict decoding error: {}", decoded.warnings.join(", "))));
    }
    Ok(decoded)
}

/// Binds a pod to a node: what a scheduler does.
pub(super) fn bind(
    store: &Store,
    namespace: &str,
    name: &str,
    body: &[u8],
    options: WriteOptions,
) -> Result<(), Failure> {
    let kind = Kind::Pod;
    let binding: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the Binding cannot be read: {error}")))?;
    check_name(name, &binding)?;
    let node = text(&binding, &["target", "name"]);
    if node.is_empty() {
        let error = FieldError::required("target.name", "");
        return Err(Failure::invalid_as("", "Binding", name, &[error]));
    }
    let refuse = |why: &str| Failure::conflict_as("", "pods/binding", name, why);
    loop {
        let current = store.get(kind, namespace, name).ok_or_else(|| Failure::not_found(kind, name))?;
        let pod = &current.value;
        check_uid(Place { kind, namespace, name }, &binding, text(pod, &["metadata", "uid"]))?;
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return Err(refuse(&format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        let bound = text(pod, &["spec", "nodeName"]);
        if !bound.is_empty() {
            return Err(refuse(&format!("pod {name} is already assigned to node \"{bound}\"")));
        }
        let mut pod = pod.clone();
        child(&mut pod, "spec").insert("nodeName".into(), json!(node));
        for field in ["labels", "annotations"] {
            for (key, value) in map(&binding, &["metadata", field]).into_iter().flatten() {
                let meta = metadata(&mut pod);
                object(meta.entry(field).or_insert(Value::Null)).insert(key.clone(), value.clone());
            }
        }
        let others = list(&pod, &["status", "conditions"]).iter();
        let mut conditions: Vec<Value> =
            others.filter(|condition| condition["type"] != "PodScheduled").cloned().collect();
        conditions.push(json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": age::now(),
        }));
        child(&mut pod, "status").insert("conditions".into(), Value::Array(conditions));
        let put = Commit::Put(pod);
        if options.dry_run || store.commit(kind, namespace, name, Some(current.version), put).is_ok() {
            return Ok(());
        }
    }
}

/// The namespaces that a cluster has from the start.
pub(super) fn seed(store: &Store) -> Result<(), Failure> {
    ["default", "gluetun-system"].into_iter().try_for_each(|namespace| ensure_namespace(store, namespace))
}

#[cfg(test)]
mod tests;
