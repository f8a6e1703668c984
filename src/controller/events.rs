//! Tells people what the leader does: a readable log line for each step of a pod's life, the same as an
//! Event of the cluster, so that `kubectl describe` tells the story, and the counters.
//!
//! Events are posted by a task of their own, one at a time, and dropped when it cannot keep up: nothing
//! ever depends on one. (Not through kube's `Recorder`, which drops a changed note within six minutes.)

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::TARGET;
use super::action::{ClaimEnd, PodRef, Story};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::session::api::{Verb, call};
use crate::session::claim::{Claim, micro_time};

/// For posting one Event.
const DEADLINE: Duration = Duration::from_secs(3);

/// Events that may wait to be posted.
const QUEUE: usize = 256;

/// Longest message of an Event in bytes: what the API server takes.
const MESSAGE: usize = 1024;

/// Name of the component in Events.
const COMPONENT: &str = "gluetun-gateway";

/// An Event to post.
struct Note {
    object: ObjectReference,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// Tells stories.
pub(super) struct Narrator {
    metrics: Arc<Metrics>,
    namespace: String,
    notes: mpsc::Sender<Note>,
}

/// Posts the Events; to be polled beside the leader's loop.
pub(super) struct Poster {
    events: Api<Event>,
    identity: String,
    namespace: String,
    metrics: Arc<Metrics>,
    notes: mpsc::Receiver<Note>,
}

/// A narrator, and what posts its Events.
pub(super) fn narrator(events: Api<Event>, config: &Config, metrics: Arc<Metrics>) -> (Narrator, Poster) {
    let (sender, notes) = mpsc::channel(QUEUE);
    let namespace = config.namespace.clone();
    let narrator = Narrator { metrics: Arc::clone(&metrics), namespace: namespace.clone(), notes: sender };
    (narrator, Poster { events, identity: config.identity.clone(), namespace, metrics, notes })
}

/// Posts a warning about the gateway itself: an Event on the Lease that its replicas elect their leader by,
/// which is there as long as they are. For what any replica finds, such as a file that it cannot take.
pub async fn announce(
    client: kube::Client,
    config: &Config,
    metrics: &Metrics,
    reason: &'static str,
    message: &str,
) {
    let namespace = config.namespace.as_str();
    let object = ObjectReference {
        api_version: Some("coordination.k8s.io/v1".to_owned()),
        kind: Some("Lease".to_owned()),
        name: Some(super::LEASE.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    };
    let message = format!("{}: {message}", config.identity);
    let note = Note { object, warning: true, reason, message };
    let events = Api::namespaced(client, namespace);
    post(&events, metrics, &event(note, namespace, &config.identity)).await;
}

async fn post(events: &Api<Event>, metrics: &Metrics, event: &Event) {
    let params = PostParams::default();
    if let Err(error) = call(metrics, Verb::Create, DEADLINE, events.create(&params, event)).await {
        debug!(target: TARGET, %error, "an Event could not be posted");
    }
}

fn event(note: Note, namespace: &str, identity: &str) -> Event {
    let mut message = note.message;
    let end = (0..=MESSAGE.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message.truncate(end.unwrap_or_default());
    let now = micro_time(SystemTime::now());
    let name = note.object.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{}", Uuid::new_v4().simple())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: note.object,
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(note.reason.to_owned()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now.0)),
        last_timestamp: Some(Time(now.0)),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(identity.to_owned()),
        ..Event::default()
    }
}

impl Poster {
    /// Posts until the narrator is gone.
    pub(super) async fn run(mut self) {
        while let Some(note) = self.notes.recv().await {
            let event = event(note, &self.namespace, &self.identity);
            post(&self.events, &self.metrics, &event).await;
        }
    }
}

impl Narrator {
    /// Tells a story.
    pub(super) fn tell(&self, story: &Story) {
        match story {
            Story::Created { pod, claim, server } => {
                info!(
                    target: TARGET,
                    pod = pod.name, server = server.hostname.as_str(), country = &*server.country,
                    city = &*server.city, account = claim.key.account.as_str(), claim = claim.name,
                    "pod created"
                );
                let text = format!("Created pod {} on {} ({})", pod.name, server.hostname, server.country);
                self.post(self.of_claim(claim), false, "PodCreated", text);
            }
            Story::Running { pod, claim, after } => {
                info!(
                    target: TARGET, pod = pod.name, claim = claim.name, seconds = seconds(*after),
                    "pod running; waiting for its VPN"
                );
            }
            Story::Ready { pod, claim, after } => {
                info!(
                    target: TARGET, pod = pod.name, claim = claim.name, account = claim.key.account.as_str(),
                    seconds = seconds(*after), "exit ready"
                );
                let text = format!("VPN up after {} s", seconds(*after));
                self.post(self.of_pod(pod), false, "ExitReady", text.clone());
                self.post(self.of_claim(claim), false, "ExitReady", format!("{}: {text}", pod.name));
            }
            Story::Failed { pod, claim, class, attempts, retry } => {
                self.metrics.exits_failed.with_label_values(&[class.as_str()]).inc();
                let next = if *retry { "another is tried" } else { "none is tried any more" };
                warn!(
                    target: TARGET, pod = pod.name, claim = claim.name, class = class.as_str(), attempts, next,
                    "start failed"
                );
                let text = format!("Start {attempts} failed: {}; {next}", class.as_str());
                self.post(self.of_pod(pod), true, "StartFailed", text.clone());
                self.post(self.of_claim(claim), true, "StartFailed", format!("{}: {text}", pod.name));
            }
            Story::Lost { pod, claim, why } => {
                self.metrics.exits_failed.with_label_values(&[why.as_str()]).inc();
                warn!(
                    target: TARGET, pod = pod.name, claim = claim.name, why = why.as_str(),
                    "exit lost or to be replaced"
                );
                let text = format!("Exit lost or to be replaced: {}", why.as_str());
                if !pod.uid.is_empty() {
                    self.post(self.of_pod(pod), true, "ExitLost", text.clone());
                }
                let text = format!("{}: {text}", pod.name);
                self.post(self.of_claim(claim), true, "ExitLost", text);
            }
            Story::Resting { claim, class, backoff } => {
                let (what, rows) = (if backoff.pool { "pool" } else { "location" }, backoff.failures);
                let until = humantime::format_rfc3339_seconds(backoff.until).to_string();
                warn!(
                    target: TARGET, claim = claim.name, selector = claim.key.selector_text(), class = class.as_str(),
                    what, rows, until, "starts rest"
                );
                let text = format!(
                    "Starts of this {what} rest until {until}: {rows} rows failed, {}",
                    class.as_str()
                );
                self.post(self.of_claim(claim), true, "StartBackoff", text);
            }
            Story::Told { claim, code, message, rejected } => {
                let (account, claim_name) = (claim.key.account.as_str(), claim.name.as_str());
                if *rejected {
                    warn!(target: TARGET, claim = claim_name, account, code, message, "session gets no exit");
                    self.post(self.of_claim(claim), true, "Rejected", message.clone());
                } else {
                    info!(target: TARGET, claim = claim_name, account, code, message, "session waits for an exit");
                    self.post(self.of_claim(claim), false, "Waiting", message.clone());
                }
            }
            Story::PodDeleted { pod, why } => {
                info!(target: TARGET, pod = pod.name, why = why.as_str(), "pod deleted");
                self.post(self.of_pod(pod), false, "Deleted", format!("Deleted: {}", why.as_str()));
            }
            Story::ClaimDeleted { claim, why } => {
                if *why == ClaimEnd::Idle {
                    self.metrics.claims_reaped.inc();
                }
                info!(
                    target: TARGET, claim = claim.name, account = claim.key.account.as_str(), why = why.as_str(),
                    "session ended"
                );
                self.post(self.of_claim(claim), false, "SessionEnded", format!("Deleted: {}", why.as_str()));
            }
            Story::Unreadable { error } => {
                warn!(target: TARGET, error, "a Lease with a claim's label is none, and is left alone");
            }
            Story::CallFailed { what, name, error } if error.is_ambiguous() => {
                warn!(target: TARGET, call = what, name, %error, "a call to the API failed");
            }
            Story::CallFailed { what, name, error } => {
                error!(target: TARGET, call = what, name, %error, "the API refused a call");
            }
        }
    }

    fn post(&self, object: ObjectReference, warning: bool, reason: &'static str, message: String) {
        if self.notes.try_send(Note { object, warning, reason, message }).is_err() {
            debug!(target: TARGET, reason, "an Event was dropped: too many wait to be posted");
        }
    }

    fn of_pod(&self, pod: &PodRef) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            namespace: Some(self.namespace.clone()),
            uid: Some(pod.uid.clone()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }
    }

    fn of_claim(&self, claim: &Claim) -> ObjectReference {
        ObjectReference {
            api_version: Some("coordination.k8s.io/v1".to_owned()),
            kind: Some("Lease".to_owned()),
            name: Some(claim.name.clone()),
            namespace: Some(self.namespace.clone()),
            uid: Some(claim.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// Seconds with three decimals, for people.
fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_to_what_the_api_server_takes() {
        let message = |text: String| {
            let note =
                Note { object: ObjectReference::default(), warning: false, reason: "Told", message: text };
            event(note, "ns", "me").message.unwrap()
        };
        assert_eq!(message("short".to_owned()), "short");
        assert_eq!(message("x".repeat(MESSAGE)).len(), MESSAGE);
        assert_eq!(message("x".repeat(2000)).len(), MESSAGE);
        let cut = message(format!("x{}", "\u{e4}".repeat(1000)));
        assert_eq!((cut.len(), cut.chars().count()), (MESSAGE - 1, 512));
    }
}
