//! Watches: a cursor into the history of a collection, turned into a stream of frames as fast as the
//! client reads. Writers never wait for a watch; one that falls behind the history is told 410.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::faults::{WatchControl, WatchState};
use super::json::{metadata, text};
use super::read::ListOptions;
use super::resources::Kind;
use super::selectors::Selector;
use super::shape::{Shape, encode};
use super::status::Failure;
use super::store::{Change, Event, Object, Store};

/// Time between bookmarks. The real one sends them about every minute.
const BOOKMARKS: Duration = Duration::from_secs(30);
/// Shortest life of a watch that names no `timeoutSeconds`; the longest is twice that
/// (`--min-request-timeout` of the real one).
const MIN_TIMEOUT: u64 = 1800;
/// Changes that are encoded into one frame at most.
const BATCH: usize = 256;

/// An open watch.
pub(super) struct Watch {
    store: Arc<Store>,
    kind: Kind,
    namespace: Option<String>,
    selector: Selector,
    shape: Shape,
    bookmarks: bool,
    control: WatchControl,
    changed: watch::Receiver<u64>,
    /// Objects that are shown as added before the first change.
    initial: VecDeque<Arc<Object>>,
    /// Whether a bookmark is to tell that the initial objects are complete.
    mark_initial: bool,
    /// Everything up to this version has been delivered.
    cursor: u64,
    /// Whether the version asked for had expired when the watch was opened.
    expired: Option<u64>,
    first: bool,
    deadline: Instant,
    next_bookmark: Instant,
    finished: bool,
}

impl Watch {
    /// Opens a watch. Versions up to `expired` are not resumed from any more.
    pub(super) fn open(
        store: &Arc<Store>,
        kind: Kind,
        namespace: Option<String>,
        options: ListOptions,
        shape: Shape,
        control: WatchControl,
        expired: u64,
    ) -> Self {
        // From here on every write wakes the watch.
        let changed = store.changed(kind);
        let show_all = options.send_initial_events.unwrap_or(options.version == 0);
        let (mut initial, mut cursor) = (VecDeque::new(), options.version);
        if show_all {
            // The current state is always there.
            if let Ok(snapshot) = store.snapshot(kind, namespace.as_deref(), None) {
                let objects = snapshot.objects.into_iter();
                initial = objects.filter(|object| options.selector.matches(&object.value)).collect();
                cursor = snapshot.version;
            }
        } else if options.version == 0 {
            cursor = store.version();
        }
        let too_old = !show_all && options.version > 0 && options.version <= expired;
        let timeout = match options.timeout_seconds {
            0 => rand::random_range(MIN_TIMEOUT..=2 * MIN_TIMEOUT),
            seconds => seconds,
        };
        let now = Instant::now();
        Self {
            store: store.clone(),
            kind,
            namespace,
            selector: options.selector,
            shape,
            bookmarks: options.bookmarks,
            control,
            changed,
            initial,
            mark_initial: options.bookmarks && options.send_initial_events == Some(true),
            cursor,
            expired: too_old.then_some(options.version),
            first: true,
            deadline: now + Duration::from_secs(timeout),
            next_bookmark: now + BOOKMARKS,
            finished: false,
        }
    }

    /// The next piece of the stream; nothing at its end; an error where the connection is to be cut.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        while !self.finished {
            let state = *self.control.state.borrow_and_update();
            match state {
                WatchState::Flowing => {}
                WatchState::Stalled => {
                    // The control lives as long as the watch, so that its sender is there.
                    let _ = self.control.state.changed().await;
                    continue;
                }
                WatchState::Dropped => {
                    self.finished = true;
                    return Some(Err(io::Error::other("the watch is dropped")));
                }
                WatchState::Expired => return Some(Ok(self.fail(self.cursor))),
            }
            if let Some(asked) = self.expired {
                return Some(Ok(self.fail(asked)));
            }
            if let Some(frame) = self.initial_frame() {
                return Some(Ok(frame));
            }
            // Marked as seen before the look, so that a write in between wakes the wait below.
            self.changed.borrow_and_update();
            match self.store.events(self.kind, self.cursor, BATCH) {
                Err(_) => return Some(Ok(self.fail(self.cursor))),
                Ok((events, upto)) => {
                    self.cursor = upto;
                    let frame = self.changes(&events);
                    if !frame.is_empty() {
                        return Some(Ok(frame));
                    }
                    if !events.is_empty() {
                        continue;
                    }
                }
            }
            let now = Instant::now();
            if now >= self.deadline {
                self.finished = true;
                if self.bookmarks {
                    return Some(Ok(self.bookmark(false)));
                }
                return None;
            }
            if self.bookmarks && now >= self.next_bookmark {
                self.next_bookmark = now + BOOKMARKS;
                return Some(Ok(self.bookmark(false)));
            }
            let alarm = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
            tokio::select! {
                _ = self.changed.changed() => {}
                _ = self.control.state.changed() => {}
                () = tokio::time::sleep_until(alarm) => {}
            }
        }
        None
    }

    fn initial_frame(&mut self) -> Option<Bytes> {
        let mut frame = BytesMut::new();
        for _ in 0..BATCH {
            let Some(object) = self.initial.pop_front() else { break };
            self.put(&mut frame, "ADDED", &object);
        }
        if self.initial.is_empty() && self.mark_initial {
            self.mark_initial = false;
            frame.put(self.bookmark(true));
        }
        (!frame.is_empty()).then(|| frame.freeze())
    }

    fn changes(&mut self, events: &[Event]) -> Bytes {
        let mut frame = BytesMut::new();
        for event in events {
            match self.translate(event) {
                None => {}
                Some((kind, None)) => self.put(&mut frame, kind, &event.object),
                Some((kind, Some(object))) => self.put(&mut frame, kind, &object),
            }
        }
        frame.freeze()
    }

    /// What an event means to this watch: an object that comes to be selected is added, one that no
    /// longer is is deleted, and is then shown as it last was.
    fn translate(&self, event: &Event) -> Option<(&'static str, Option<Object>)> {
        if let Some(namespace) = &self.namespace
            && text(&event.object.value, &["metadata", "namespace"]) != namespace
        {
            return None;
        }
        let matches = |object: &Arc<Object>| self.selector.matches(&object.value);
        let before = event.previous.as_ref().is_some_and(&matches);
        if event.change == Change::Deleted {
            return before.then_some(("DELETED", None));
        }
        match (before, matches(&event.object)) {
            (false, false) => None,
            (false, true) => Some(("ADDED", None)),
            (true, true) => Some(("MODIFIED", None)),
            (true, false) => {
                let mut last = event.previous.as_ref().map(|previous| previous.value.clone())?;
                metadata(&mut last).insert("resourceVersion".into(), json!(event.object.version.to_string()));
                Some(("DELETED", Some(Object::draft(last))))
            }
        }
    }

    fn put(&mut self, frame: &mut BytesMut, kind: &str, object: &Object) {
        let json = self.shape.watched(self.kind, object, self.first);
        self.first = false;
        write_event(frame, kind, &json);
    }

    fn bookmark(&self, initial_events_end: bool) -> Bytes {
        let mut frame = BytesMut::new();
        let object = self.shape.bookmark(self.kind, self.cursor, initial_events_end);
        write_event(&mut frame, "BOOKMARK", &encode(&object));
        frame.freeze()
    }

    /// Ends the watch with 410, because `asked` is too old.
    fn fail(&mut self, asked: u64) -> Bytes {
        self.finished = true;
        let status: Value = Failure::expired(asked, self.store.version()).status();
        let mut frame = BytesMut::new();
        write_event(&mut frame, "ERROR", &encode(&status));
        frame.freeze()
    }
}

fn write_event(frame: &mut BytesMut, kind: &str, object: &[u8]) {
    frame.reserve(object.len() + 40);
    frame.put_slice(b"{\"type\":\"");
    frame.put_slice(kind.as_bytes());
    frame.put_slice(b"\",\"object\":");
    frame.put_slice(object);
    frame.put_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::super::faults::{Faults, WatchFilter};
    use super::super::listener::Gate;
    use super::super::router::Query;
    use super::super::store::Commit;
    use super::*;

    struct World {
        store: Arc<Store>,
        faults: Faults,
    }

    impl World {
        fn new() -> Self {
            let store = Arc::new(Store::new());
            let (gate, _) = Gate::open("127.0.0.1:0".parse().unwrap()).unwrap();
            Self { faults: Faults::new(store.clone(), Arc::new(gate)), store }
        }

        fn put(&self, name: &str, label: &str) -> u64 {
            let expected = self.store.get(Kind::Pod, "ns", name).map(|object| object.version);
            let value = json!({"metadata": {"namespace": "ns", "name": name, "labels": {"l": label}}});
            self.store.commit(Kind::Pod, "ns", name, expected, Commit::Put(value)).unwrap().version
        }

        fn remove(&self, name: &str) {
            let object = self.store.get(Kind::Pod, "ns", name).unwrap();
            let remove = Commit::Remove(object.value.clone());
            self.store.commit(Kind::Pod, "ns", name, Some(object.version), remove).unwrap();
        }

        fn watch(&self, query: &str) -> Watch {
            let options = ListOptions::parse(Kind::Pod, &Query::parse(query), true).unwrap();
            let control = self.faults.watch("pods", "agent".into());
            let expired = self.faults.expired("pods", "agent");
            let namespace = Some("ns".to_owned());
            Watch::open(&self.store, Kind::Pod, namespace, options, Shape::Whole, control, expired)
        }
    }

    async fn frame(watch: &mut Watch) -> Vec<String> {
        let Some(frame) = watch.next().await else { return vec!["END".into()] };
        let Ok(frame) = frame else { return vec!["CUT".into()] };
        String::from_utf8(frame.to_vec())
            .unwrap()
            .lines()
            .map(|line| {
                let event: Value = serde_json::from_str(line).unwrap();
                let object = &event["object"];
                let name = text(object, &["metadata", "name"]);
                let label = text(object, &["metadata", "labels", "l"]);
                let code = &object["code"];
                format!("{} {name}{label}{code}", text(&event, &["type"])).replace("null", "")
            })
            .collect()
    }

    #[tokio::test]
    async fn from_nothing_shows_what_is_there_and_goes_on() {
        let world = World::new();
        world.put("a", "1");
        world.put("b", "1");
        let mut watch = world.watch("");
        assert_eq!(frame(&mut watch).await, ["ADDED a1", "ADDED b1"]);
        world.put("a", "2");
        world.remove("b");
        assert_eq!(frame(&mut watch).await, ["MODIFIED a2", "DELETED b1"]);
    }

    #[tokio::test]
    async fn from_a_version_resumes_after_it() {
        let world = World::new();
        let version = world.put("a", "1");
        world.put("b", "1");
        let mut watch = world.watch(&format!("resourceVersion={version}"));
        assert_eq!(frame(&mut watch).await, ["ADDED b1"]);
        let mut old = world.watch("resourceVersion=1");
        assert_eq!(frame(&mut old).await, ["ERROR 410"]);
        assert_eq!(frame(&mut old).await, ["END"]);
    }

    #[tokio::test]
    async fn selection_translates_changes() {
        let world = World::new();
        let mut watch = world.watch("labelSelector=l%3D1");
        world.put("a", "1");
        world.put("a", "2");
        world.put("b", "2");
        world.put("a", "1");
        world.put("a", "1");
        world.remove("b");
        world.remove("a");
        assert_eq!(
            frame(&mut watch).await,
            ["ADDED a1", "DELETED a1", "ADDED a1", "MODIFIED a1", "DELETED a1"]
        );
        // What is not selected is passed over without an answer.
        world.put("b", "2");
        world.put("c", "1");
        assert_eq!(frame(&mut watch).await, ["ADDED c1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn bookmarks_and_the_end() {
        let world = World::new();
        world.put("a", "1");
        let start = Instant::now();
        let mut watch = world.watch(
            "allowWatchBookmarks=true&timeoutSeconds=70&sendInitialEvents=true&\
             resourceVersionMatch=NotOlderThan",
        );
        assert_eq!(frame(&mut watch).await, ["ADDED a1", "BOOKMARK "]);
        for seconds in [30, 60, 70] {
            assert_eq!(frame(&mut watch).await, ["BOOKMARK "]);
            assert_eq!(start.elapsed().as_secs(), seconds);
        }
        assert_eq!(frame(&mut watch).await, ["END"]);
        let mut plain = world.watch(&format!("timeoutSeconds=5&resourceVersion={}", world.store.version()));
        assert_eq!(frame(&mut plain).await, ["END"]);
        assert_eq!(start.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_watches_are_silent_until_released() {
        let world = World::new();
        world.faults.stall_watches(&WatchFilter::of("pods"));
        let mut watch = world.watch("allowWatchBookmarks=true&timeoutSeconds=10");
        world.put("a", "1");
        assert!(tokio::time::timeout(Duration::from_secs(100), watch.next()).await.is_err());
        world.faults.release_watches(&WatchFilter::of("leases"));
        assert!(tokio::time::timeout(Duration::from_secs(100), watch.next()).await.is_err());
        world.faults.release_watches(&WatchFilter::all());
        assert_eq!(frame(&mut watch).await, ["ADDED a1"]);
        world.faults.stall_watches(&WatchFilter::all().from_agent("other"));
        assert_eq!(frame(&mut watch).await, ["BOOKMARK "]);
    }

    #[tokio::test]
    async fn dropped_and_expired_watches() {
        let world = World::new();
        let version = world.put("a", "1");
        let resume = format!("resourceVersion={version}");
        let (mut one, mut two) = (world.watch(&resume), world.watch(&resume));
        assert_eq!(world.faults.open_watches(&WatchFilter::of("pods")), 2);
        world.faults.drop_watches(&WatchFilter::of("leases"));
        world.faults.drop_watches(&WatchFilter::of("pods"));
        assert_eq!(frame(&mut one).await, ["CUT"]);
        assert_eq!(frame(&mut two).await, ["CUT"]);
        drop((one, two));
        assert_eq!(world.faults.open_watches(&WatchFilter::all()), 0);
        let mut open = world.watch(&resume);
        world.faults.expire_watches(&WatchFilter::of("pods"));
        assert_eq!(frame(&mut open).await, ["ERROR 410"]);
        assert_eq!(frame(&mut world.watch(&resume)).await, ["ERROR 410"]);
        let fresh = format!("resourceVersion={}", world.store.version());
        let mut fresh = world.watch(&fresh);
        world.put("b", "1");
        assert_eq!(frame(&mut fresh).await, ["ADDED b1"]);
    }
}
