//! Follows one kind of object in the API: a watch that survives outages and relists, and tells of
//! every object that is gone, also of those that went while nobody was watching. Used for pods, jobs
//! and leases.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// First wait after a failed watch; doubled with each further failure.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
/// Longest wait after failed watches.
const LAST_BACK_OFF: Duration = Duration::from_secs(5);
/// Seconds after which the server ends a watch: under every load balancer's idle limit.
const WATCH_SECONDS: u32 = 120;

/// One change of one object.
#[derive(Clone, Debug)]
pub(super) enum Change<K> {
    /// It is there, new or changed.
    Applied(Arc<K>),
    /// It is gone: deleted, or replaced by another one of the same name. Its last known state.
    Gone(Arc<K>),
}

/// Calls `changed` for every change of the objects of `api`, in order, until `stop`.
pub(super) async fn follow<K>(
    what: &'static str,
    api: Api<K>,
    stop: CancellationToken,
    mut changed: impl FnMut(Change<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut events = pin!(watcher(api, watcher::Config::default().timeout(WATCH_SECONDS)));
    let mut mirror = Mirror::new();
    let mut back_off = FIRST_BACK_OFF;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = stop.cancelled() => return,
        };
        match event {
            Some(Ok(event)) => {
                back_off = FIRST_BACK_OFF;
                mirror.take(event, &mut changed);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "the watch of {what} broke; resuming");
                tokio::select! {
                    () = tokio::time::sleep(back_off) => {}
                    () = stop.cancelled() => return,
                }
                back_off = (back_off * 2).min(LAST_BACK_OFF);
            }
            None => return,
        }
    }
}

/// The objects that are known to exist, by namespace and name.
struct Mirror<K> {
    objects: HashMap<(String, String), Arc<K>>,
    /// Those that the relist in progress has shown so far.
    listed: HashSet<(String, String)>,
}

impl<K: Resource> Mirror<K> {
    fn new() -> Self {
        Self { objects: HashMap::new(), listed: HashSet::new() }
    }

    fn take(&mut self, event: Event<K>, changed: &mut impl FnMut(Change<K>)) {
        match event {
            Event::Apply(object) => self.apply(object, changed),
            Event::Delete(object) => {
                self.objects.remove(&key(&object));
                changed(Change::Gone(Arc::new(object)));
            }
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(key(&object));
                self.apply(object, changed);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.objects.retain(|key, object| {
                    let there = listed.contains(key);
                    if !there {
                        changed(Change::Gone(Arc::clone(object)));
                    }
                    there
                });
            }
        }
    }

    fn apply(&mut self, object: K, changed: &mut impl FnMut(Change<K>)) {
        let object = Arc::new(object);
        let before = self.objects.insert(key(&*object), Arc::clone(&object));
        if let Some(before) = before
            && before.uid() != object.uid()
        {
            changed(Change::Gone(before));
        }
        changed(Change::Applied(object));
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str, uid: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(uid.into());
        pod
    }

    #[test]
    fn tells_of_objects_that_went_while_nobody_was_watching() {
        let mut mirror = Mirror::new();
        let mut seen = Vec::new();
        for event in [
            Event::Init,
            Event::InitApply(pod("a", "1")),
            Event::InitApply(pod("b", "2")),
            Event::InitDone,
            Event::Apply(pod("c", "3")),
            Event::Init,
            Event::InitApply(pod("b", "2")),
            Event::InitApply(pod("c", "4")),
            Event::InitDone,
            Event::Delete(pod("b", "2")),
        ] {
            mirror.take(event, &mut |change| {
                seen.push(match change {
                    Change::Applied(pod) => format!("+{}{}", pod.name_any(), pod.uid().unwrap()),
                    Change::Gone(pod) => format!("-{}{}", pod.name_any(), pod.uid().unwrap()),
                });
            });
        }
        assert_eq!(seen, ["+a1", "+b2", "+c3", "+b2", "-c3", "+c4", "-a1", "-b2"]);
    }
}
