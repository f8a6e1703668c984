//! The leader's loop: feeds the [`Brain`] with what the watches, the health servers and the API's
//! answers tell, and carries out what it plans. It is one task, and it alone plans; only the calls to the
//! API overlap, so that a slow one delays nobody else's exit.

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::stream::{BoxStream, FuturesUnordered, Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, ResourceExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::act::{Actor, CALL};
use super::action::{Action, Now, Outcome};
use super::brain::{Brain, Settings};
use super::census::Census;
use super::classify::Patience;
use super::events::{Narrator, Poster, narrator};
use super::facts::{ClaimRecord, PodFacts, Record};
use super::leader::Until;
use super::probe::Probes;
use super::snapshot::Change;
use super::{ControllerError, Knowledge, TARGET};
use crate::accounts::Accounts;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::session::api::ApiError;
use crate::session::claim::CLAIM_SELECTOR;
use crate::session::pod::{POD_SELECTOR, PodState};
use crate::session::watch::{Pauses, WATCH_SECONDS};

/// Calls to the API at once.
const CALLS: usize = 16;

/// How long calls that are on their way may take to end when the gateway stops.
const FINISH: Duration = Duration::from_secs(2);

/// The two watches, as the metric names them.
const PODS: &str = "pods";
const LEASES: &str = "leases";

/// What a watch tells.
enum Told {
    Pod(Change<PodFacts>),
    Claim(Change<ClaimRecord>),
    Broken(&'static str, watcher::Error),
}

/// A call that is on its way.
type Call = Pin<Box<dyn Future<Output = (Action, Outcome)> + Send>>;

/// One term of leadership.
pub(super) struct Term {
    brain: Brain,
    actor: Actor,
    narrator: Narrator,
    poster: Poster,
    metrics: Arc<Metrics>,
    feed: BoxStream<'static, Told>,
    start: Instant,
}

/// Sets the gauges of a leader for as long as it lives.
struct Gauges(Arc<Metrics>);

impl Gauges {
    fn set(&self, pods: &Census, backoffs: usize) {
        self.0.start_backoffs.set(i64::try_from(backoffs).unwrap_or(i64::MAX));
        for state in PodState::ALL {
            self.0.pods.with_label_values(&[state.as_str()]).set(pods.of(state));
        }
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.0.leader.set(0);
        self.set(&Census::default(), 0);
    }
}

impl Term {
    /// A term that begins: its watches list anew, so that it knows the cluster as it is now.
    pub(super) fn new(client: &Client, config: &Arc<Config>, metrics: &Arc<Metrics>) -> Self {
        let settings = Settings {
            limit: config.instance_limit,
            patience: Patience { attempt: config.start_attempt_timeout, start: config.start_timeout },
            drain: config.drain_timeout,
            account_drain: config.account_drain_timeout,
        };
        let rng = StdRng::from_rng(&mut rand::rng());
        let namespace = config.namespace.as_str();
        let events: Api<Event> = Api::namespaced(client.clone(), namespace);
        let (narrator, poster) = narrator(events, config, Arc::clone(metrics));
        let pods =
            told(Api::<Pod>::namespaced(client.clone(), namespace), POD_SELECTOR, PODS, Told::Pod, |p| {
                PodFacts::read(p)
            });
        let claims = told(
            Api::<Lease>::namespaced(client.clone(), namespace),
            CLAIM_SELECTOR,
            LEASES,
            Told::Claim,
            ClaimRecord::read,
        );
        Self {
            brain: Brain::new(settings, Arc::default(), rng),
            actor: Actor::new(client, Arc::clone(config), Arc::clone(metrics)),
            narrator,
            poster,
            metrics: Arc::clone(metrics),
            feed: futures::stream::select(pods, claims).boxed(),
            start: Instant::now(),
        }
    }

    /// Controls until `stop`, and then until what it has begun has ended: `true` if all of it has, so that
    /// leadership may be given up. Dropped when leadership is lost: every call was begun so early that it
    /// has ended by then.
    pub(super) async fn run(
        self,
        mut until: watch::Receiver<Until>,
        knowledge: Knowledge,
        stop: &CancellationToken,
    ) -> Result<bool, ControllerError> {
        let Self { mut brain, actor, narrator, poster, metrics, mut feed, start } = self;
        let Knowledge { mut catalogue, mut accounts } = knowledge;
        let now = || Now { mono: start.elapsed(), wall: SystemTime::now() };
        let gauges = Gauges(Arc::clone(&metrics));
        metrics.leader.set(1);
        let (mut probes, mut answers) = Probes::new();
        let mut calls: FuturesUnordered<Call> = FuturesUnordered::new();
        let permits = Arc::new(Semaphore::new(CALLS));
        let mut broken = BTreeSet::new();
        let mut wake = None;
        let mut poster = pin!(poster.run().fuse());
        brain.on_catalogue(Arc::clone(&catalogue.borrow_and_update()));
        take_accounts(&mut brain, &mut accounts, now());
        loop {
            let sleep = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                told = feed.next() => match told {
                    Some(told) => fold(&mut brain, &metrics, &mut broken, told, now()),
                    None => return Err(ControllerError::WatchEnded),
                },
                Some((action, outcome)) = calls.next() => brain.on_result(&action, &outcome, now()),
                Some((uid, health)) = answers.recv() => brain.on_health(&uid, health, now()),
                Ok(()) = catalogue.changed() => {
                    brain.on_catalogue(Arc::clone(&catalogue.borrow_and_update()));
                }
                Ok(()) = accounts.changed() => take_accounts(&mut brain, &mut accounts, now()),
                // Time to act again, if there was too little left.
                Ok(()) = until.changed() => {}
                () = &mut poster => {}
                () = sleep => {}
            }
            // All that has come together is planned for together.
            while let Some(Some(told)) = feed.next().now_or_never() {
                fold(&mut brain, &metrics, &mut broken, told, now());
            }
            while let Some(Some((action, outcome))) = calls.next().now_or_never() {
                brain.on_result(&action, &outcome, now());
            }
            while let Ok((uid, health)) = answers.try_recv() {
                brain.on_health(&uid, health, now());
            }
            wake = None;
            if has_time(*until.borrow_and_update()) {
                let plan = brain.plan(now());
                wake = plan.wake.map(|at| start + at);
                for action in plan.actions {
                    calls.push(begin(actor.clone(), Arc::clone(&permits), until.clone(), action));
                }
            }
            for story in brain.take_stories() {
                narrator.tell(&story);
            }
            probes.keep(brain.pods_to_ask());
            gauges.set(brain.census(), brain.backoffs.count(start.elapsed()));
        }
        // Nothing new is begun. Whoever leads next must not meet what is still on its way.
        let finished = timeout(FINISH, async { while calls.next().await.is_some() {} }).await.is_ok();
        if !finished {
            info!(target: TARGET, calls = calls.len(), "calls to the API did not end in time");
        }
        Ok(finished)
    }
}

fn take_accounts(brain: &mut Brain, accounts: &mut watch::Receiver<Arc<Accounts>>, now: Now) {
    let accounts = Arc::clone(&accounts.borrow_and_update());
    brain.on_accounts(Arc::clone(accounts.owners()), accounts.gone(), now);
}

/// Whether a call that begins now ends while leadership lasts.
fn has_time(until: Until) -> bool {
    Instant::now() + CALL <= until
}

/// The call for an action; at most [`CALLS`] at once.
fn begin(actor: Actor, permits: Arc<Semaphore>, until: watch::Receiver<Until>, action: Action) -> Call {
    Box::pin(async move {
        let permit = permits.acquire().await;
        let outcome = if has_time(*until.borrow()) {
            actor.perform(&action).await
        } else {
            // Not sent; to be treated like one whose fate is not known does no harm.
            Err(ApiError::Unavailable("leadership ends before the call could".to_owned()))
        };
        drop(permit);
        (action, outcome)
    })
}

fn fold(brain: &mut Brain, metrics: &Metrics, broken: &mut BTreeSet<&'static str>, told: Told, now: Now) {
    match told {
        Told::Pod(change) => {
            // A restart is only an attempt: what follows shows whether it works.
            if !matches!(change, Change::Restarted) {
                broken.remove(PODS);
            }
            brain.on_pod(change, now);
        }
        Told::Claim(change) => {
            if !matches!(change, Change::Restarted) {
                broken.remove(LEASES);
            }
            brain.on_claim(change, now);
        }
        Told::Broken(resource, error) => {
            metrics.watch_restarts.with_label_values(&[resource]).inc();
            if broken.insert(resource) {
                warn!(target: TARGET, resource, %error, "a watch broke and is taken up again");
            } else {
                debug!(target: TARGET, resource, %error, "a watch is still broken");
            }
            brain.on_broken_watch(now);
        }
    }
}

/// A watch, digested. Its list is a quorum read (`ListSemantic::MostRecent` sends no resource version), so
/// a new leader knows all that the last one has done.
fn told<K, T>(
    api: Api<K>,
    selector: &str,
    resource: &'static str,
    wrap: fn(Change<T>) -> Told,
    read: fn(&K) -> T,
) -> impl Stream<Item = Told> + Send + 'static
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    T: Record + 'static,
{
    let config = watcher::Config::default().labels(selector).timeout(WATCH_SECONDS);
    watcher(api, config).backoff(Pauses::default()).map(move |event| match event {
        Ok(watcher::Event::Init) => wrap(Change::Restarted),
        Ok(watcher::Event::InitApply(object)) => wrap(Change::Listed(Arc::new(read(&object)))),
        Ok(watcher::Event::InitDone) => wrap(Change::Complete),
        Ok(watcher::Event::Apply(object)) => wrap(Change::Applied(Arc::new(read(&object)))),
        Ok(watcher::Event::Delete(object)) => {
            wrap(Change::Deleted { name: object.name_any(), uid: object.uid().unwrap_or_default() })
        }
        Err(error) => Told::Broken(resource, error),
    })
}
