//! Core v1 Events, as `kubectl describe` shows them: written in the background, repeated ones counted
//! instead of written again, and no more of them for one object than a real kubelet lets through.
//! Used by everything in the kubelet that has something to tell.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::machine::Calls;

/// Events waiting to be written; further ones are dropped, as a real kubelet does.
const QUEUE: usize = 4096;
/// Events that one object may have in a burst, and the time in which it earns a further one: the
/// spam filter of client-go (`tools/record/events_cache.go`).
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
/// Objects whose events are remembered for counting.
const REMEMBERED: usize = 4096;

/// Whether an event is good or bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One thing that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Happening {
    pub(super) severity: Severity,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Happening {
    pub(super) fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, message: message.into() }
    }

    pub(super) fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, message: message.into() }
    }
}

/// Takes events of one component; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    component: &'static str,
    queue: mpsc::Sender<Entry>,
}

#[derive(Debug)]
struct Entry {
    component: &'static str,
    object: ObjectReference,
    happening: Happening,
    at: Timestamp,
}

impl Recorder {
    /// The same queue for another component's events.
    pub(super) fn component(&self, component: &'static str) -> Self {
        Self { component, queue: self.queue.clone() }
    }

    /// Records that something happens to `object` now. Never waits.
    pub(super) fn record(&self, object: &ObjectReference, happening: Happening) {
        self.record_at(object, happening, Timestamp::now());
    }

    /// Records that something happened to `object` at a time. Never waits.
    pub(super) fn record_at(&self, object: &ObjectReference, happening: Happening, at: Timestamp) {
        let (component, object) = (self.component, object.clone());
        let entry = Entry { component, object, happening, at };
        if self.queue.try_send(entry).is_err() {
            tracing::debug!("events come faster than they can be written: one dropped");
        }
    }
}

/// A recorder for `component`, and the task that writes what it takes.
pub(super) fn recorder(
    component: &'static str,
    node: String,
    client: kube::Client,
    calls: Calls,
    stop: CancellationToken,
) -> (Recorder, impl Future<Output = ()> + Send + 'static) {
    let (queue, mut entries) = mpsc::channel(QUEUE);
    let writing = async move {
        let mut book = Book::default();
        loop {
            let entry = tokio::select! {
                entry = entries.recv() => entry,
                () = stop.cancelled() => return,
            };
            let Some(entry) = entry else { return };
            if let Some(count) = book.count(&entry, Instant::now()) {
                write(&client, &calls, &node, &entry, count, &mut book).await;
            }
        }
    };
    (Recorder { component, queue }, writing)
}

async fn write(client: &kube::Client, calls: &Calls, node: &str, entry: &Entry, count: i32, book: &mut Book) {
    let namespace = entry.object.namespace.as_deref().unwrap_or("default");
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    if count > 1
        && let Some(name) = book.name(entry)
    {
        let patch = json!({ "count": count, "lastTimestamp": Time(entry.at) });
        match calls.run(api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(_) => return,
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                tracing::debug!(%error, "an event could not be counted");
                return;
            }
        }
    }
    let event = event(node, namespace, entry, count);
    match calls.run(api.create(&PostParams::default(), &event)).await {
        Ok(_) => book.written(entry, event.metadata.name.unwrap_or_default()),
        Err(error) => tracing::debug!(%error, "an event could not be written"),
    }
}

fn event(node: &str, namespace: &str, entry: &Entry, count: i32) -> Event {
    let mut event = Event::default();
    let object = entry.object.name.as_deref().unwrap_or_default();
    event.metadata.name = Some(format!("{object}.{:016x}", entry.at.as_nanosecond()));
    event.metadata.namespace = Some(namespace.to_owned());
    event.involved_object = entry.object.clone();
    event.reason = Some(entry.happening.reason.to_owned());
    event.message = Some(entry.happening.message.clone());
    event.type_ = Some(entry.happening.severity.as_str().to_owned());
    event.source =
        Some(EventSource { component: Some(entry.component.to_owned()), host: Some(node.to_owned()) });
    event.reporting_component = Some(entry.component.to_owned());
    event.reporting_instance = Some(node.to_owned());
    event.first_timestamp = Some(Time(entry.at));
    event.last_timestamp = Some(Time(entry.at));
    event.count = Some(count);
    event
}

/// What has been recorded of which object.
#[derive(Default)]
struct Book {
    objects: HashMap<String, Page>,
    /// Oldest first, to forget them in that order.
    order: VecDeque<String>,
}

struct Page {
    allowance: f64,
    since: Instant,
    lines: HashMap<(Option<String>, Happening), Line>,
}

#[derive(Default)]
struct Line {
    count: i32,
    name: Option<String>,
}

impl Book {
    /// How often this has happened to the object, this time included; `None` if the object has had
    /// more events of late than are written.
    fn count(&mut self, entry: &Entry, now: Instant) -> Option<i32> {
        let uid = entry.object.uid.clone().unwrap_or_default();
        if !self.objects.contains_key(&uid) {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.objects.remove(&oldest);
            }
            self.order.push_back(uid.clone());
        }
        let page = self.objects.entry(uid).or_insert_with(|| Page {
            allowance: f64::from(BURST),
            since: now,
            lines: HashMap::new(),
        });
        let earned = now.duration_since(page.since).as_secs_f64() / REFILL.as_secs_f64();
        page.allowance = (page.allowance + earned).min(f64::from(BURST));
        page.since = now;
        let line = page.lines.entry(key(entry)).or_default();
        line.count += 1;
        if page.allowance < 1.0 {
            return None;
        }
        page.allowance -= 1.0;
        Some(line.count)
    }

    fn line(&mut self, entry: &Entry) -> Option<&mut Line> {
        self.objects.get_mut(entry.object.uid.as_deref().unwrap_or_default())?.lines.get_mut(&key(entry))
    }

    fn name(&mut self, entry: &Entry) -> Option<String> {
        self.line(entry)?.name.clone()
    }

    fn written(&mut self, entry: &Entry, name: String) {
        if let Some(line) = self.line(entry) {
            line.name = Some(name);
        }
    }
}

fn key(entry: &Entry) -> (Option<String>, Happening) {
    (entry.object.field_path.clone(), entry.happening.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(uid: &str, message: &str) -> Entry {
        let object =
            ObjectReference { uid: Some(uid.into()), name: Some("p".into()), ..ObjectReference::default() };
        let happening = Happening::warning("Unhealthy", message);
        Entry { component: "kubelet", object, happening, at: Timestamp::UNIX_EPOCH }
    }

    #[tokio::test(start_paused = true)]
    async fn counts_repetitions_and_holds_a_flood_back() {
        let mut book = Book::default();
        let now = Instant::now();
        for n in 1..=25 {
            assert_eq!(book.count(&entry("a", "refused"), now), Some(n));
        }
        assert_eq!(book.count(&entry("a", "refused"), now), None);
        assert_eq!(book.count(&entry("a", "other"), now), None);
        assert_eq!(book.count(&entry("b", "refused"), now), Some(1), "another object has its own allowance");
        assert_eq!(book.count(&entry("a", "refused"), now + REFILL), Some(27), "none is lost from the count");
    }

    #[test]
    fn forgets_the_oldest_objects() {
        let mut book = Book::default();
        for n in 0..=REMEMBERED {
            assert!(book.count(&entry(&n.to_string(), "x"), Instant::now()).is_some());
        }
        assert_eq!((book.objects.len(), book.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!book.objects.contains_key("0"));
    }

    #[test]
    fn an_event_names_its_object_and_source() {
        let event = event("node", "ns", &entry("a", "refused"), 3);
        assert_eq!(event.metadata.name.as_deref(), Some("p.0000000000000000"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!((event.count, event.involved_object.uid.as_deref()), (Some(3), Some("a")));
        assert_eq!(event.source.unwrap().host.as_deref(), Some("node"));
    }
}
