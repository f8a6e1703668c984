//! Keeps the list in use current: from the sources in their order, on a schedule and when asked to. One
//! task of every replica, run by `app`; it alone publishes lists that were fetched, and any replica may
//! fetch one. The old list stays in use until a better one is there.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::cache::{Cache, CacheError, Look, Stored};
use super::job::{Image, Runner};
use super::origin::{Origin, SourceKind};
use super::refresh::{Answer, Ask, RefreshError, Refresher};
use super::{Catalogue, CatalogueError, Source, builtin, sources};
use crate::config::Config;
use crate::metrics::Metrics;

/// How long the automatic refresh waits after its first failure; doubled with each further one.
const FIRST_BACK_OFF: Duration = Duration::from_secs(60);
/// Longest wait after failures.
const LAST_BACK_OFF: Duration = Duration::from_secs(3600);
/// How often a log that is no whole JSON is read again, and after how long: some runtimes write the
/// last of a log after the container's end shows.
const READ_AGAIN: u32 = 2;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Whose servers the built-in list has.
const BUILT_IN_PROVIDER: &str = "mullvad";

/// When the list is looked after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How old the list may become before it is fetched anew (`SERVERS_REFRESH`); zero for never.
    pub(super) refresh: Duration,
    /// How often the ConfigMap is looked at: a list that one replica has fetched is the others' then.
    pub(super) look: Duration,
}

/// Where fetched lists come from and are kept. A trait so that the schedule can be tested on a paused
/// clock, without a cluster.
pub(super) trait Supply: Send + Sync {
    /// Looks at the list that is kept.
    fn look(&self, known: Option<&str>) -> impl Future<Output = Look> + Send;
    /// Keeps a list; the version that it has there.
    fn keep(&self, list: &Arc<Catalogue>) -> impl Future<Output = Result<Option<String>, CacheError>> + Send;
    /// Fetches a list.
    fn fetch(&self) -> impl Future<Output = Result<Catalogue, RefreshError>> + Send;
}

/// The keeper of a replica's list: run it until the end.
#[derive(Debug)]
pub struct Keeper {
    config: Arc<Config>,
    published: watch::Sender<Arc<Catalogue>>,
    metrics: Arc<Metrics>,
    asks: mpsc::Receiver<Ask>,
}

impl Keeper {
    /// The keeper of the list that `published` publishes, and the handle to ask it by.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        published: watch::Sender<Arc<Catalogue>>,
        metrics: Arc<Metrics>,
    ) -> (Self, Refresher) {
        let (refresher, asks) = Refresher::new();
        (Self { config, published, metrics, asks }, refresher)
    }

    /// Keeps the list, for ever. The file is looked at for changes every `reload`, the ConfigMap every
    /// `look`.
    pub async fn run(self, client: Client, reload: Duration, look: Duration) {
        let Self { config, published, metrics, mut asks } = self;
        match &config.servers {
            Some(Source::Text(_)) => {
                told(&published.borrow());
                while let Some(ask) = asks.recv().await {
                    // Who asked may have gone.
                    ask.send(Ok(Arc::clone(&published.borrow()))).ok();
                }
                std::future::pending().await
            }
            Some(Source::File(path)) => {
                told(&published.borrow());
                let errors = metrics.reload_errors.with_label_values(&["servers"]);
                let following =
                    sources::watch_file(path.clone(), published.clone(), reload, move || errors.inc());
                let answering = async {
                    while let Some(ask) = asks.recv().await {
                        let read = sources::read_again(path, &published).await.map_err(RefreshError::File);
                        count(&metrics, read.as_ref().err());
                        ask.send(read).ok();
                    }
                };
                tokio::join!(following, answering);
            }
            None => {
                let (image, provider) = (&config.gluetun_image, &config.vpn_provider);
                let job = Image {
                    namespace: config.namespace.clone(),
                    image: image.clone(),
                    provider: provider.clone(),
                };
                let cluster = Cluster {
                    cache: Cache::new(&client, &config.namespace, image, provider, Arc::clone(&metrics)),
                    runner: Runner::new(&client, job, Arc::clone(&metrics)),
                };
                let pace = Pace { refresh: config.servers_refresh, look };
                let stand_in = provider == BUILT_IN_PROVIDER;
                keep(Keeping::new(cluster, published, metrics, pace), asks, stand_in).await;
            }
        }
    }
}

/// The cluster as supply: a Job fetches, a ConfigMap keeps.
#[derive(Debug)]
struct Cluster {
    cache: Cache,
    runner: Runner,
}

impl Supply for Cluster {
    async fn look(&self, known: Option<&str>) -> Look {
        self.cache.look(known).await
    }

    async fn keep(&self, list: &Arc<Catalogue>) -> Result<Option<String>, CacheError> {
        self.cache.keep(list).await
    }

    async fn fetch(&self) -> Result<Catalogue, RefreshError> {
        let (mut text, pod) = self.runner.run().await?;
        let mut again = 0;
        loop {
            // Off the runtime: ten thousand servers take their time.
            let parsed = tokio::task::spawn_blocking(move || Catalogue::parse(&text)).await;
            match parsed.unwrap_or_else(|panicked| Err(CatalogueError::Json(panicked.to_string()))) {
                Ok(list) => return Ok(list.from_origin(Origin::now(SourceKind::Job))),
                Err(CatalogueError::Json(_)) if again < READ_AGAIN => {
                    again += 1;
                    sleep(READ_AGAIN_AFTER).await;
                    text = self.runner.printed(&pod).await?;
                }
                Err(refused) => return Err(refused.into()),
            }
        }
    }
}

/// What the keeper knows between two steps.
struct Keeping<S> {
    supply: S,
    published: watch::Sender<Arc<Catalogue>>,
    metrics: Arc<Metrics>,
    pace: Pace,
    /// The ConfigMap's version that was read last.
    known: Option<String>,
    /// When to fetch by itself.
    due: Option<Instant>,
    next_look: Instant,
    failures: u32,
    /// What was last said about the ConfigMap: each complaint is logged once.
    complaint: Option<String>,
}

/// Keeps a list that comes from a supply.
async fn keep<S: Supply>(mut keeping: Keeping<S>, mut asks: mpsc::Receiver<Ask>, stand_in: bool) {
    keeping.begin(stand_in).await;
    loop {
        let mut waiters = Vec::new();
        tokio::select! {
            biased;
            Some(ask) = asks.recv() => waiters.push(ask),
            () = at(keeping.due) => {
                // Perhaps another replica has fetched it meanwhile.
                keeping.look().await;
                if keeping.due.is_none_or(|due| due > Instant::now()) {
                    continue;
                }
            }
            () = sleep_until(keeping.next_look) => {
                keeping.look().await;
                continue;
            }
        }
        let fetched = {
            let mut fetching = std::pin::pin!(keeping.supply.fetch());
            loop {
                tokio::select! {
                    biased;
                    Some(ask) = asks.recv() => waiters.push(ask),
                    fetched = &mut fetching => break fetched,
                }
            }
        };
        let answer = keeping.fetched(fetched);
        for waiter in waiters {
            // Who asked may have gone.
            waiter.send(answer.clone()).ok();
        }
        if let Ok(list) = answer {
            keeping.store(&list).await;
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl<S: Supply> Keeping<S> {
    fn new(supply: S, published: watch::Sender<Arc<Catalogue>>, metrics: Arc<Metrics>, pace: Pace) -> Self {
        Self {
            supply,
            published,
            metrics,
            pace,
            known: None,
            due: None,
            next_look: Instant::now(),
            failures: 0,
            complaint: None,
        }
    }

    /// Takes the list that was kept, else the built-in one until another comes.
    async fn begin(&mut self, stand_in: bool) {
        self.due = self.due_after(None);
        self.look().await;
        if !self.published.borrow().is_empty() {
            return;
        }
        match builtin::catalogue() {
            Ok(list) if stand_in => {
                let list = Arc::new(list);
                self.published.send_replace(Arc::clone(&list));
                tracing::warn!(
                    source = SourceKind::BuiltIn.as_str(),
                    servers = list.len(),
                    fetching = self.due.is_some(),
                    "no server list yet: the built-in one stands in; an exit on a server that the pods' image \
                     does not know fails to start"
                );
            }
            Ok(_) => tracing::warn!(fetching = self.due.is_some(), "no server list yet"),
            Err(error) => tracing::error!(%error, "the built-in server list is not usable"),
        }
    }

    /// When a list of that origin is to be fetched anew by itself. Spread over a tenth more, so that
    /// replicas that started together do not all fetch at once.
    fn due_after(&self, origin: Option<Origin>) -> Option<Instant> {
        let refresh = self.pace.refresh;
        if refresh.is_zero() {
            return None;
        }
        let spread = (refresh / 10).mul_f64(rand::random::<f64>());
        let wait = origin.map_or(Duration::ZERO, |origin| (refresh + spread).saturating_sub(origin.age()));
        Some(Instant::now() + wait)
    }

    /// Looks at the list that is kept, and takes it if it is newer than the one in use. That of another
    /// image is good enough until that of the present one is there, and no longer: while a new version is
    /// rolled out, replicas of both keep theirs in the same place.
    async fn look(&mut self) {
        let Look { version, found } = self.supply.look(self.known.as_deref()).await;
        self.next_look = Instant::now() + self.pace.look.mul_f64(0.9 + 0.2 * rand::random::<f64>());
        if version.is_some() {
            self.known = version;
        }
        let stored = match found {
            Ok(stored) => {
                self.complaint = None;
                stored
            }
            Err(error) => {
                self.complain(&error);
                None
            }
        };
        let Some(Stored { catalogue, same_image }) = stored else { return };
        let in_use = Arc::clone(&self.published.borrow());
        let newer = match (in_use.origin(), catalogue.origin()) {
            (Some(ours), Some(kept)) => same_image && kept.since > ours.since,
            (Some(_) | None, _) => false,
        };
        if !newer && !in_use.is_stand_in() {
            return;
        }
        if !same_image {
            tracing::info!("the kept server list is that of another image, a Job fetches the present one");
        }
        self.due = self.due_after(catalogue.origin().filter(|_| same_image));
        self.failures = 0;
        self.publish(catalogue);
    }

    fn publish(&self, list: Catalogue) -> Arc<Catalogue> {
        let list = Arc::new(list);
        told(&list);
        self.published.send_replace(Arc::clone(&list));
        list
    }

    /// Takes what was fetched, or notes that it failed.
    fn fetched(&mut self, fetched: Result<Catalogue, RefreshError>) -> Answer {
        count(&self.metrics, fetched.as_ref().err());
        match fetched {
            Ok(list) => {
                self.failures = 0;
                let list = self.publish(list);
                self.due = self.due_after(list.origin());
                Ok(list)
            }
            Err(error) => {
                let wait = back_off(self.failures).mul_f64(1.0 + 0.2 * rand::random::<f64>());
                self.failures = self.failures.saturating_add(1);
                self.due = (!self.pace.refresh.is_zero()).then(|| Instant::now() + wait);
                let again = self.due.map(|_| humantime::format_duration(Duration::from_secs(wait.as_secs())));
                tracing::warn!(
                    %error,
                    kind = error.outcome(),
                    failures = self.failures,
                    again_in = again.map(tracing::field::display),
                    "no server list fetched, the old one stays"
                );
                Err(error)
            }
        }
    }

    /// Keeps a list that was fetched.
    async fn store(&mut self, list: &Arc<Catalogue>) {
        match self.supply.keep(list).await {
            Ok(version) => {
                self.complaint = None;
                self.known = version;
            }
            Err(error) => self.complain(&error),
        }
    }

    /// Says what is wrong with the ConfigMap, once.
    fn complain(&mut self, error: &CacheError) {
        let text = error.to_string();
        if self.complaint.as_ref() != Some(&text) {
            tracing::warn!(error = %text, "the last server list cannot be kept or read");
            self.complaint = Some(text);
        }
    }
}

/// How long the next automatic refresh waits after that many failures before.
fn back_off(failures: u32) -> Duration {
    FIRST_BACK_OFF.saturating_mul(1 << failures.min(16)).min(LAST_BACK_OFF)
}

fn count(metrics: &Metrics, error: Option<&RefreshError>) {
    metrics.servers_refreshes.with_label_values(&[error.map_or("ok", RefreshError::outcome)]).inc();
}

/// One log line about the list that is in use from now on.
fn told(list: &Catalogue) {
    let origin = list.origin();
    tracing::info!(
        source = origin.map(|origin| origin.source.as_str()),
        age_seconds = origin.map(|origin| origin.age().as_secs()),
        servers = list.len(),
        countries = list.countries().len(),
        skipped = list.skipped(),
        merged = list.merged(),
        "server list in use"
    );
}

#[cfg(test)]
mod tests;
