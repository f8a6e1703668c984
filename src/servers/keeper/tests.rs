//! The schedule on a paused clock, with a supply that is played.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use super::*;
use crate::servers::{JobError, JobFailure};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const PACE: Pace = Pace { refresh: DAY, look: Duration::from_secs(30) };

fn list(hostname: &str) -> Catalogue {
    let text = format!(r#"[{{"vpn":"wireguard","country":"Sweden","hostname":"{hostname}"}}]"#);
    Catalogue::parse(&text).unwrap()
}

fn failure() -> RefreshError {
    JobError { kind: JobFailure::ImagePull, text: "no such image".to_owned() }.into()
}

/// What the ConfigMap holds, and what the next Jobs bring.
#[derive(Default)]
struct Played {
    version: u32,
    kept: Option<(String, SystemTime, bool)>,
    missing: bool,
    fetches: VecDeque<Result<Catalogue, RefreshError>>,
    fetched: u32,
    takes: Duration,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Played>>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, Played> {
        self.0.lock().unwrap()
    }

    fn put(&self, hostname: &str, age: Duration, same_image: bool) {
        let mut state = self.state();
        state.version += 1;
        state.kept = Some((hostname.to_owned(), SystemTime::now() - age, same_image));
    }
}

impl Supply for Fake {
    async fn look(&self, known: Option<&str>) -> Look {
        let state = self.state();
        if state.missing {
            return Look { version: None, found: Err(CacheError::Missing("ns".into())) };
        }
        let version = state.version.to_string();
        if known == Some(&version) {
            return Look { version: Some(version), found: Ok(None) };
        }
        let stored = state.kept.as_ref().map(|(hostname, since, same_image)| Stored {
            catalogue: list(hostname).from_origin(Origin { source: SourceKind::Cached, since: *since }),
            same_image: *same_image,
        });
        Look { version: Some(version), found: Ok(stored) }
    }

    async fn keep(&self, list: &Arc<Catalogue>) -> Result<Option<String>, CacheError> {
        if self.state().missing {
            return Err(CacheError::Missing("ns".into()));
        }
        self.put(list.servers()[0].hostname.as_str(), Duration::ZERO, true);
        Ok(Some(self.state().version.to_string()))
    }

    async fn fetch(&self) -> Result<Catalogue, RefreshError> {
        let takes = {
            let mut state = self.state();
            state.fetched += 1;
            state.takes
        };
        sleep(takes).await;
        let next = self.state().fetches.pop_front();
        next.unwrap_or_else(|| Err(failure())).map(|list| list.from_origin(Origin::now(SourceKind::Job)))
    }
}

/// A keeper that runs on a played supply.
struct Rig {
    fake: Fake,
    list: watch::Receiver<Arc<Catalogue>>,
    refresher: Refresher,
    metrics: Arc<Metrics>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rig {
    fn start(fake: &Fake, pace: Pace) -> Self {
        let (published, receiver) = watch::channel(Arc::new(Catalogue::default()));
        let metrics = Arc::new(Metrics::new().unwrap());
        let (refresher, asks) = Refresher::new();
        let keeping = Keeping::new(fake.clone(), published, Arc::clone(&metrics), pace);
        let task = tokio::spawn(keep(keeping, asks, true));
        Self { fake: fake.clone(), list: receiver, refresher, metrics, task }
    }

    /// Waits until the list in use comes from there; its first server.
    async fn until(&mut self, source: SourceKind) -> String {
        let there = self.list.wait_for(|list| list.origin().is_some_and(|o| o.source == source));
        let list = tokio::time::timeout(DAY * 3, there).await.expect("in time").unwrap();
        list.servers()[0].hostname.to_string()
    }

    fn fetched(&self) -> u32 {
        self.fake.state().fetched
    }

    fn counted(&self, outcome: &str) -> u64 {
        self.metrics.servers_refreshes.with_label_values(&[outcome]).get()
    }
}

fn with(fetches: impl IntoIterator<Item = Result<Catalogue, RefreshError>>) -> Fake {
    let fake = Fake::default();
    fake.state().fetches.extend(fetches);
    fake
}

#[tokio::test(start_paused = true)]
async fn without_any_list_the_built_in_one_stands_in_until_the_job_has_printed() {
    let fake = with([Ok(list("se-1"))]);
    fake.state().takes = Duration::from_secs(1);
    let mut rig = Rig::start(&fake, PACE);
    rig.until(SourceKind::BuiltIn).await;
    assert_eq!(rig.until(SourceKind::Job).await, "se-1");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(fake.state().kept.as_ref().unwrap().0, "se-1", "and it is kept");
    assert_eq!((rig.fetched(), rig.counted("ok")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_kept_list_needs_no_job_until_it_is_old() {
    let fake = with([Ok(list("se-2"))]);
    fake.put("se-1", HOUR, true);
    let mut rig = Rig::start(&fake, PACE);
    assert_eq!(rig.until(SourceKind::Cached).await, "se-1");
    tokio::time::sleep(HOUR * 22).await;
    assert_eq!(rig.fetched(), 0);
    // A tenth of the time is spread over the replicas.
    tokio::time::sleep(HOUR * 4).await;
    assert_eq!((rig.until(SourceKind::Job).await.as_str(), rig.fetched()), ("se-2", 1));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_old_or_of_another_image_serves_while_the_job_runs() {
    for (age, same_image) in [(DAY * 2, true), (HOUR, false)] {
        let fake = with([Ok(list("se-2"))]);
        fake.put("se-1", age, same_image);
        fake.state().takes = Duration::from_secs(5);
        let mut rig = Rig::start(&fake, PACE);
        assert_eq!(rig.until(SourceKind::Cached).await, "se-1");
        assert_eq!(rig.until(SourceKind::Job).await, "se-2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_another_replica_has_fetched_arrives_within_the_looks_time() {
    let fake = Fake::default();
    fake.put("se-1", HOUR, true);
    let mut rig = Rig::start(&fake, PACE);
    rig.until(SourceKind::Cached).await;
    rig.list.mark_unchanged();
    fake.put("se-2", Duration::ZERO, true);
    let begun = Instant::now();
    rig.list.changed().await.unwrap();
    assert!(begun.elapsed() <= PACE.look.mul_f64(1.1), "{:?}", begun.elapsed());
    assert_eq!(rig.until(SourceKind::Cached).await, "se-2");
    // An older one than that in use is nothing.
    fake.put("se-0", DAY, true);
    tokio::time::sleep(PACE.look * 3).await;
    assert_eq!(rig.until(SourceKind::Cached).await, "se-2");
    assert_eq!(rig.fetched(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_list_of_another_image_only_stands_in() {
    // While a new version is rolled out, replicas of both put their lists there.
    let fake = with([Ok(list("se-3"))]);
    fake.put("se-1", HOUR, true);
    let mut rig = Rig::start(&fake, PACE);
    assert_eq!(rig.until(SourceKind::Cached).await, "se-1");
    fake.put("se-2", Duration::ZERO, false);
    tokio::time::sleep(PACE.look * 3).await;
    assert_eq!((rig.until(SourceKind::Cached).await.as_str(), rig.fetched()), ("se-1", 0));
    // Its own is fetched when its time has come, however new the other is.
    tokio::time::sleep(HOUR * 26).await;
    assert_eq!((rig.until(SourceKind::Job).await.as_str(), rig.fetched()), ("se-3", 1));

    // It is better than the built-in one, and does not put off the Job.
    let fake = with([Err(failure()), Ok(list("se-3"))]);
    let mut rig = Rig::start(&fake, PACE);
    rig.until(SourceKind::BuiltIn).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.fetched(), 1);
    fake.put("se-2", Duration::ZERO, false);
    fake.state().takes = Duration::from_secs(5);
    let begun = Instant::now();
    assert_eq!(rig.until(SourceKind::Cached).await, "se-2");
    assert_eq!(rig.until(SourceKind::Job).await, "se-3");
    assert!(begun.elapsed() <= PACE.look.mul_f64(1.1) + Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_join_one_refresh() {
    let fake = with([Ok(list("se-2"))]);
    fake.put("se-1", HOUR, true);
    fake.state().takes = Duration::from_secs(2);
    let mut rig = Rig::start(&fake, PACE);
    rig.until(SourceKind::Cached).await;
    let (a, b) = (rig.refresher.clone(), rig.refresher.clone());
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        b.refresh().await
    };
    let (one, two) = tokio::join!(a.refresh(), late);
    assert_eq!((one.unwrap().len(), two.unwrap().len()), (1, 1));
    assert_eq!(rig.fetched(), 1);
    assert_eq!(rig.until(SourceKind::Job).await, "se-2");
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_does_not_end_the_refresh() {
    let fake = with([Ok(list("se-2"))]);
    fake.put("se-1", HOUR, true);
    fake.state().takes = Duration::from_secs(2);
    let mut rig = Rig::start(&fake, PACE);
    rig.until(SourceKind::Cached).await;
    tokio::time::timeout(Duration::from_secs(1), rig.refresher.refresh()).await.unwrap_err();
    assert_eq!(rig.until(SourceKind::Job).await, "se-2");
}

#[tokio::test(start_paused = true)]
async fn failures_leave_the_list_say_why_and_wait_longer_each_time() {
    let fake = with([]);
    fake.put("se-1", DAY * 2, true);
    let mut rig = Rig::start(&fake, PACE);
    rig.until(SourceKind::Cached).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((rig.fetched(), rig.counted("image_pull")), (1, 1));
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert_eq!(rig.fetched(), 1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(rig.fetched(), 2, "after a minute or little more");
    tokio::time::sleep(HOUR * 10).await;
    assert!((12..=18).contains(&rig.fetched()), "an hour at most between two: {}", rig.fetched());
    assert_eq!(rig.refresher.refresh().await.unwrap_err(), failure(), "who asks is not put off");
    assert_eq!(rig.until(SourceKind::Cached).await, "se-1");
    fake.state().fetches.push_back(Ok(list("se-2")));
    assert_eq!(rig.refresher.refresh().await.unwrap().servers()[0].hostname.as_str(), "se-2");
}

#[tokio::test(start_paused = true)]
async fn zero_is_never_unless_somebody_asks() {
    let fake = with([Ok(list("se-2"))]);
    let mut rig = Rig::start(&fake, Pace { refresh: Duration::ZERO, ..PACE });
    rig.until(SourceKind::BuiltIn).await;
    tokio::time::sleep(DAY * 3).await;
    assert_eq!(rig.fetched(), 0);
    rig.refresher.refresh().await.unwrap();
    tokio::time::sleep(DAY * 3).await;
    assert_eq!((rig.fetched(), rig.until(SourceKind::Job).await.as_str()), (1, "se-2"));
}

#[tokio::test(start_paused = true)]
async fn without_the_config_map_everything_else_works() {
    let fake = with([Ok(list("se-1")), Ok(list("se-2"))]);
    fake.state().missing = true;
    let mut rig = Rig::start(&fake, PACE);
    assert_eq!(rig.until(SourceKind::Job).await, "se-1");
    tokio::time::sleep(DAY.mul_f64(1.2)).await;
    assert_eq!((rig.fetched(), rig.until(SourceKind::Job).await.as_str()), (2, "se-2"));
}

#[test]
fn back_off_doubles_up_to_an_hour() {
    let minutes: Vec<u64> = (0..8).map(|n| back_off(n).as_secs() / 60).collect();
    assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(back_off(u32::MAX), LAST_BACK_OFF);
}
