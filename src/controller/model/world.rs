//! The model's clock, its queue of events, its phases and its account of what has happened.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::accounts::Accounts;
use super::api::{Api, Feed};
use super::kubelet::Step;
use super::leaders::{Call, Election, Leader};
use super::replicas::Session;
use super::rests::Rests;
use crate::controller::testing;

/// When the faults end; then pods and clients go on in a calm world.
const CALM: Duration = Duration::from_secs(180);

/// From when on nothing is left of the faults: a term that began with the calm has by then given up the
/// last pod that is stuck from before.
const CALMED: Duration = Duration::from_secs(180 + 15 + 90 + 15);

/// When the clients leave.
const QUIET: Duration = Duration::from_secs(420);

/// When everything must be gone: the longest idle timeout, the clocks' difference, an exit that drains and
/// a term of leadership after the clients have left.
const END: Duration = Duration::from_secs(700);

/// Something that will happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A leader's watch delivers what has been written, up to there.
    Deliver { leader: usize, term: u64, feed: Feed, upto: usize },
    /// A leader's list is answered.
    List { leader: usize, term: u64, feed: Feed },
    /// A leader's watch breaks and is taken up again.
    Broken { leader: usize, term: u64 },
    /// A call reaches the API server.
    Effect { call: u64 },
    /// A call's answer reaches its leader.
    Answer { call: u64 },
    /// The time that a plan asked for.
    Wake { leader: usize, term: u64 },
    /// A leader asks a pod's health server.
    Probe { leader: usize, term: u64, uid: String },
    /// A gateway's turn in the election.
    Elect { leader: usize, process: u64 },
    /// A pod's next step.
    Pod { uid: String, step: Step },
    /// A replica's turn with a session.
    Client { replica: usize, session: usize },
    /// Something goes wrong.
    Fault,
    /// A foreign pod comes or goes.
    Foreign,
    /// A gateway's accounts change.
    Accounts { leader: usize },
}

/// What of note has happened: a run in which one of these never does tests less than it says.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    counts: BTreeMap<&'static str, u64>,
}

/// Everything that a usual run must have seen.
const WANTED: [&str; 32] = [
    "session over its quota",
    "session of a removed account ended",
    "removed account refused",
    "pod created",
    "exit in use",
    "start failed",
    "start retried",
    "claim rejected",
    "starts rest",
    "claim refused in a rest",
    "claim waits for a trial",
    "rest kept by another leader",
    "claim told to wait",
    "exit lost for good",
    "exit replaced",
    "older exit drained",
    "claim reaped as idle",
    "renewal that won against a reaping",
    "unwanted claim deleted",
    "orphan swept",
    "ambiguous creation",
    "creation of what exists",
    "quota reached",
    "leader dead",
    "leader paused past its deadline",
    "leader changed",
    "call of a dead leader took effect",
    "call took effect after its time",
    "watch listed again",
    "watch broken",
    "API away",
    "destroyed half",
];

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    pub(super) fn count(&mut self, what: &'static str) {
        assert!(WANTED.contains(&what), "{what}");
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        WANTED.into_iter().map(|what| (what, self.counts.get(what).copied().unwrap_or(0)))
    }
}

/// The world of one seed.
pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    next: u64,
    pub(super) api: Api,
    pub(super) election: Election,
    pub(super) leaders: Vec<Leader>,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) sessions: Vec<Session>,
    pub(super) accounts: Accounts,
    /// Rests between starts, as claims tell of them.
    pub(super) rests: Rests,
    /// Pods at most.
    pub(super) limit: usize,
    /// Until when the API server answers nobody.
    pub(super) away_until: Duration,
    pub(super) counts: Counts,
    /// What happened, where somebody wants to know: telling it takes most of the time.
    pub(super) trace: Option<Vec<String>>,
    failure: Option<String>,
    /// Events so far.
    pub(super) happened: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let limit = rng.random_range(2..=4);
        let quota = rng.random_bool(0.2).then(|| rng.random_range(1..=limit));
        let accounts = Accounts::new(&mut rng);
        let mut world = Self {
            limit,
            accounts,
            api: Api::new(quota),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            election: Election::default(),
            leaders: Vec::new(),
            calls: BTreeMap::new(),
            sessions: Vec::new(),
            rests: Rests::default(),
            away_until: Duration::ZERO,
            counts: Counts::default(),
            trace: None,
            failure: None,
            happened: 0,
            rng,
        };
        world.add_leaders();
        world.add_sessions();
        world.add_accounts();
        world.after(Duration::from_secs(5), Event::Fault);
        world.after(Duration::from_secs(20), Event::Foreign);
        world
    }

    /// Runs to the end. `Err` says which rule was broken.
    pub(super) fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse((at, id))) = self.queue.pop() {
            if at > END {
                break;
            }
            self.now = at;
            self.happened += 1;
            if let Some(event) = self.events.remove(&id) {
                self.happen(event);
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
        }
        self.now = END;
        self.check_end();
        self.failure.take().map_or(Ok(()), Err)
    }

    fn happen(&mut self, event: Event) {
        // What is on its way to a process that pauses waits for it.
        let leader = match &event {
            Event::Deliver { leader, .. }
            | Event::List { leader, .. }
            | Event::Broken { leader, .. }
            | Event::Wake { leader, .. }
            | Event::Probe { leader, .. }
            | Event::Accounts { leader }
            | Event::Elect { leader, .. } => Some(*leader),
            Event::Answer { call } => self.calls.get(call).map(|call| call.leader),
            Event::Effect { .. }
            | Event::Pod { .. }
            | Event::Client { .. }
            | Event::Fault
            | Event::Foreign => None,
        };
        if let Some(leader) = leader.and_then(|leader| self.leaders.get(leader))
            && leader.paused_until > self.now
        {
            let until = leader.paused_until;
            self.at(until, event);
            return;
        }
        match event {
            Event::Deliver { leader, term, feed, upto } => self.deliver(leader, term, feed, upto),
            Event::List { leader, term, feed } => self.list(leader, term, feed),
            Event::Broken { leader, term } => self.watch_broken(leader, term),
            Event::Effect { call } => self.effect(call),
            Event::Answer { call } => self.answer(call),
            Event::Wake { leader, term } => self.woken(leader, term),
            Event::Probe { leader, term, uid } => self.probe(leader, term, uid),
            Event::Elect { leader, process } => self.elect(leader, process),
            Event::Pod { uid, step } => self.pod_step(&uid, step),
            Event::Client { replica, session } => self.client(replica, session),
            Event::Fault => self.fault(),
            Event::Foreign => self.foreign(),
            Event::Accounts { leader } => self.accounts_changed(leader),
        }
    }

    /// Lets `event` happen at `at`.
    pub(super) fn at(&mut self, at: Duration, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((at, self.next)));
        self.events.insert(self.next, event);
    }

    /// Lets `event` happen in so long.
    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    /// A number for something new.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A time between two numbers of milliseconds.
    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..=to))
    }

    pub(super) fn chance(&mut self, of: f64) -> bool {
        self.rng.random_bool(of)
    }

    /// Whether the faults are over.
    pub(super) fn is_calm(&self) -> bool {
        self.now >= CALM
    }

    /// Whether nothing is left of the faults since then.
    pub(super) fn has_been_calm(&self, since: Duration) -> bool {
        since >= CALMED
    }

    /// When the faults end.
    pub(super) fn calm_at(&self) -> Duration {
        CALM
    }

    /// Whether the clients have left.
    pub(super) fn is_quiet(&self) -> bool {
        self.now >= QUIET
    }

    /// The clock of a machine that is off by so many seconds.
    pub(super) fn wall(&self, skew: i64) -> SystemTime {
        let skewed = Duration::from_secs(skew.unsigned_abs());
        let true_time = testing::wall() + self.now;
        if skew < 0 { true_time - skewed } else { true_time + skewed }
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} {}", self.now.as_secs_f64(), line()));
        }
    }

    /// A rule is broken.
    pub(super) fn fail(&mut self, rule: String) {
        self.say(|| format!("BROKEN: {rule}"));
        self.failure.get_or_insert(rule);
    }

    /// After every change of the pods.
    pub(super) fn check_pods(&mut self) {
        let mut servers = BTreeMap::new();
        let mut broken = None;
        let mut live = 0;
        for pod in self.api.pods.values().filter(|pod| pod.ours && pod.facts.view.is_live()) {
            live += 1;
            let name = pod.facts.view.name.clone();
            if let Some(other) = servers.insert(pod.facts.view.server.clone(), name.clone()) {
                broken = Some(format!("{name} and {other} share server {:?}", pod.facts.view.server));
            }
        }
        if live > self.limit {
            broken = Some(format!("{live} live pods, the limit is {}", self.limit));
        }
        if let Some(broken) = broken {
            self.fail(broken);
        }
        self.check_quotas();
    }

    fn check_end(&mut self) {
        let claims: Vec<_> = self.api.claims.values().map(|claim| format!("{claim:?}")).collect();
        let pods: Vec<_> = self.api.pods.values().filter(|pod| pod.ours).collect();
        if !claims.is_empty() || !pods.is_empty() {
            let text = format!("left in the end: claims {claims:#?}, pods {pods:#?}");
            self.fail(text);
        }
    }
}
