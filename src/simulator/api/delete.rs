//! Deletion: preconditions, the grace period of pods, finalizers. A pod that a kubelet may be running
//! stays, marked, until that kubelet deletes it with no grace; everything else goes at once.
//!
//! There is no garbage collector, as there is none in an API server: of the values of `propagationPolicy`
//! only `Orphan` has an effect here, which is to cut a job's pods off from it. It is what a job's deletion
//! means when it names no policy (`DefaultGarbageCollectionPolicy` of the job strategy).

use std::sync::Arc;

use serde_json::{Value, json};

use super::age;
use super::json::{list, metadata, text};
use super::prepare::{bump_generation, has_finalizers, is_finished};
use super::resources::Kind;
use super::router::Query;
use super::selectors::Selector;
use super::status::{Failure, FieldError};
use super::store::{Commit, Object, Store};
use super::write::{Place, WriteOptions};

/// The parameters of a deletion, from its body or its query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeleteOptions {
    pub(super) dry_run: bool,
    grace: Option<i64>,
    uid: Option<String>,
    version: Option<String>,
    policy: String,
}

impl DeleteOptions {
    /// Reads the body, or the query where there is no body.
    pub(super) fn parse(query: &Query, body: &[u8]) -> Result<Self, Failure> {
        let dry_run = WriteOptions::parse(query, "DeleteOptions")?.dry_run;
        let mut options = Self { dry_run, ..Self::default() };
        let mut policy = query.get("propagationPolicy").to_owned();
        if body.is_empty() {
            if let Some(grace) = query.find("gracePeriodSeconds") {
                let why = format!("strconv.ParseInt: parsing \"{grace}\": invalid syntax");
                options.grace = Some(grace.parse().map_err(|_| Failure::bad_request(why))?);
            }
        } else {
            let body: Value = serde_json::from_slice(body).map_err(|error| {
                Failure::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
            })?;
            let kind = text(&body, &["kind"]);
            if !matches!(kind, "" | "DeleteOptions") {
                let version = text(&body, &["apiVersion"]);
                return Err(Failure::bad_request(format!(
                    "no kind \"{kind}\" is registered for version \"{version}\""
                )));
            }
            options.grace = body["gracePeriodSeconds"].as_i64();
            let given = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
            options.uid = given("uid");
            options.version = given("resourceVersion");
            if let Some(in_body) = body["propagationPolicy"].as_str() {
                policy = in_body.to_owned();
            }
            options.dry_run |= body["dryRun"].as_array().is_some_and(|list| list.contains(&json!("All")));
        }
        let policies = ["Foreground", "Background", "Orphan"];
        if !policy.is_empty() && !policies.contains(&policy.as_str()) {
            let valid = ["Foreground", "Background", "Orphan", "nil"];
            let error = FieldError::unsupported("propagationPolicy", policy, &valid);
            return Err(Failure::invalid_as("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        options.policy = policy;
        Ok(options)
    }

    /// Whether the pods of a job stay when it goes.
    fn orphans(&self) -> bool {
        matches!(self.policy.as_str(), "Orphan" | "")
    }

    fn check(&self, kind: Kind, name: &str, object: &Object) -> Result<(), Failure> {
        let refuse = |why: &str| Err(Failure::conflict_as(kind.group(), kind.name(), name, why));
        let uid = text(&object.value, &["metadata", "uid"]);
        if let Some(wanted) = self.uid.as_deref().filter(|wanted| *wanted != uid) {
            return refuse(&format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object \
                 might have been deleted and then recreated"
            ));
        }
        let version = object.version.to_string();
        if let Some(wanted) = self.version.as_deref().filter(|wanted| *wanted != version) {
            return refuse(&format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in \
                 record ({version}). The object might have been modified"
            ));
        }
        Ok(())
    }
}

/// What a deletion left behind.
#[derive(Debug)]
pub(super) enum Deleted {
    /// The object is gone, or will be: its last state, which is the answer.
    Object(Arc<Object>),
    /// It is gone, and the answer is a Status with its uid.
    Gone(Arc<Object>),
}

impl Deleted {
    fn into_object(self) -> Arc<Object> {
        match self {
            Self::Object(object) | Self::Gone(object) => object,
        }
    }
}

/// What the first step of a deletion is.
enum Step {
    /// Store this, and the object remains for now.
    Mark(Value),
    /// Store this, then remove it.
    MarkAndRemove(Value),
    /// Remove it.
    Remove,
    /// It is being deleted already, and this request does not make it faster.
    Nothing,
}

/// Deletes an object.
pub(super) fn delete(store: &Store, place: Place<'_>, options: &DeleteOptions) -> Result<Deleted, Failure> {
    let Place { kind, namespace, name } = place;
    if kind == Kind::Namespace && name == "default" {
        return Err(Failure {
            code: 403,
            reason: Some("Forbidden".into()),
            message: format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted"),
            details: None,
            retry_after: None,
        });
    }
    loop {
        let current = store.get(kind, namespace, name).ok_or_else(|| Failure::not_found(kind, name))?;
        options.check(kind, name, &current)?;
        let step = if kind == Kind::Pod { pod_step(&current.value, options) } else { step(&current.value) };
        let commit = |expected: u64, commit| store.commit(kind, namespace, name, Some(expected), commit);
        match step {
            Step::Nothing => return Ok(Deleted::Object(current)),
            Step::Mark(value) | Step::MarkAndRemove(value) if options.dry_run => {
                return Ok(Deleted::Object(Arc::new(Object::draft(value))));
            }
            Step::Remove if options.dry_run => return Ok(Deleted::Gone(current)),
            Step::Mark(value) => {
                if let Ok(object) = commit(current.version, Commit::Put(value)) {
                    return Ok(Deleted::Object(object));
                }
            }
            Step::Remove => {
                if let Ok(object) = commit(current.version, Commit::Remove(current.value.clone())) {
                    match kind {
                        Kind::Namespace => empty(store, name)?,
                        Kind::Job if options.orphans() => orphan(store, namespace, &object),
                        _ => {}
                    }
                    return Ok(Deleted::Gone(object));
                }
            }
            Step::MarkAndRemove(value) => {
                if let Ok(marked) = commit(current.version, Commit::Put(value)) {
                    return Ok(Deleted::Object(remove_marked(store, place, marked)));
                }
            }
        }
    }
}

/// The second step of a deletion without grace. Whatever happens to the object in between, it goes;
/// unless a finalizer keeps it.
fn remove_marked(store: &Store, place: Place<'_>, marked: Arc<Object>) -> Arc<Object> {
    let Place { kind, namespace, name } = place;
    let mut current = marked;
    while is_finished(&current.value) {
        let remove = Commit::Remove(current.value.clone());
        if let Ok(removed) = store.commit(kind, namespace, name, Some(current.version), remove) {
            return removed;
        }
        match store.get(kind, namespace, name) {
            Some(again) if again.value["metadata"]["uid"] == current.value["metadata"]["uid"] => {
                current = again;
            }
            _ => return current,
        }
    }
    current
}

fn mark(value: &Value, grace: i64) -> Value {
    let mut marked = value.clone();
    bump_generation(&mut marked);
    let meta = metadata(&mut marked);
    let until = age::moved(k8s_openapi::jiff::Timestamp::now(), grace);
    meta.insert("deletionTimestamp".into(), json!(until));
    meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
    marked
}

fn step(value: &Value) -> Step {
    if !has_finalizers(value) {
        Step::Remove
    } else if value["metadata"]["deletionTimestamp"].is_null() {
        Step::Mark(mark(value, 0))
    } else {
        Step::Nothing
    }
}

/// `CheckGracefulDelete` of the pod strategy and `BeforeDelete` of the generic registry.
fn pod_step(pod: &Value, options: &DeleteOptions) -> Step {
    let meta = &pod["metadata"];
    let wanted = options.grace.map(|grace| if grace < 0 { 1 } else { grace });
    if let Some(deadline) = age::parse(&meta["deletionTimestamp"]) {
        let current = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        // A grace period can only be shortened.
        let Some(grace) = wanted.filter(|grace| *grace < current) else { return Step::Nothing };
        let mut marked = pod.clone();
        let meta = metadata(&mut marked);
        meta.insert("deletionTimestamp".into(), json!(age::moved(deadline, grace - current)));
        meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
        return if grace == 0 { Step::MarkAndRemove(marked) } else { Step::Mark(marked) };
    }
    let running = !text(pod, &["spec", "nodeName"]).is_empty()
        && !matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded");
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let grace = if running { wanted.unwrap_or(own) } else { 0 };
    let marked = mark(pod, grace);
    if grace == 0 { Step::MarkAndRemove(marked) } else { Step::Mark(marked) }
}

/// Cuts the pods of a job that is gone off from it, as the garbage collector does for a policy of `Orphan`:
/// they stay until somebody deletes them.
fn orphan(store: &Store, namespace: &str, job: &Object) {
    let uid = &job.value["metadata"]["uid"];
    let owned = |pod: &Value| list(pod, &["metadata", "ownerReferences"]).iter().any(|o| o["uid"] == *uid);
    let Ok(snapshot) = store.snapshot(Kind::Pod, Some(namespace), None) else { return };
    for pod in snapshot.objects.iter().filter(|pod| owned(&pod.value)) {
        let name = text(&pod.value, &["metadata", "name"]);
        while let Some(current) = store.get(Kind::Pod, namespace, name).filter(|now| owned(&now.value)) {
            let mut freed = current.value.clone();
            if let Some(owners) =
                metadata(&mut freed).get_mut("ownerReferences").and_then(Value::as_array_mut)
            {
                owners.retain(|owner| owner["uid"] != *uid);
            }
            if store.commit(Kind::Pod, namespace, name, Some(current.version), Commit::Put(freed)).is_ok() {
                break;
            }
        }
    }
}

/// Deletes what a namespace held: the part of a namespace controller.
fn empty(store: &Store, namespace: &str) -> Result<(), Failure> {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.namespaced() && *kind != Kind::EventV1) {
        collection(store, kind, namespace, &Selector::default(), &DeleteOptions::default())?;
    }
    Ok(())
}

/// Deletes the selected objects of a namespace (empty for a cluster-scoped kind); returns them.
pub(super) fn collection(
    store: &Store,
    kind: Kind,
    namespace: &str,
    selector: &Selector,
    options: &DeleteOptions,
) -> Result<Vec<Arc<Object>>, Failure> {
    let within = (!namespace.is_empty()).then_some(namespace);
    let Ok(snapshot) = store.snapshot(kind, within, None) else { return Ok(Vec::new()) };
    let mut deleted = Vec::new();
    for object in snapshot.objects.iter().filter(|object| selector.matches(&object.value)) {
        let name = text(&object.value, &["metadata", "name"]);
        match delete(store, Place { kind, namespace, name }, options) {
            Ok(done) => deleted.push(done.into_object()),
            // Somebody else was faster.
            Err(failure) if failure.code == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests;
