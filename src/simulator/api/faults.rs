//! What can go wrong with an API server, on demand: refusals, writes whose answer is lost, latency,
//! outages, and watches that end, expire or fall silent. Tests use [`Faults`] directly; over HTTP the
//! same is `POST /simulator/faults` with a [`FaultCommand`] (see the module documentation of
//! [`super`]). The request loop asks [`Faults::decide`] once for each request, and each watch follows
//! its [`WatchControl`].

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::listener::Gate;
use super::store::Store;

mod rules;
pub use rules::{Effect, Match, Refusal, RequestInfo, Rule, Verb};

/// Names a rule that was added, to remove it or to ask how often it hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RuleId(u64);

impl FromStr for RuleId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("`{text}` is no rule's id, which is a number"))
    }
}

/// Which watches are meant; what is not given matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchFilter {
    /// The resource: `pods`.
    pub resource: Option<String>,
    /// A part of the `User-Agent`.
    pub user_agent: Option<String>,
}

impl WatchFilter {
    /// Every watch.
    pub fn all() -> Self {
        Self::default()
    }

    /// The watches of one resource.
    pub fn of(resource: &str) -> Self {
        Self { resource: Some(resource.into()), user_agent: None }
    }

    /// Those only whose `User-Agent` contains this text.
    pub fn from_agent(self, part: &str) -> Self {
        Self { user_agent: Some(part.into()), ..self }
    }

    fn matches(&self, resource: &str, user_agent: &str) -> bool {
        self.resource.as_deref().is_none_or(|wanted| wanted == resource)
            && self.user_agent.as_deref().is_none_or(|part| user_agent.contains(part))
    }
}

/// A fault as `POST /simulator/faults` takes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultCommand {
    /// Add a rule.
    Rule(Rule),
    /// Refuse connections and cut those that are open, for `seconds`; or, with `user_agent`, cut the
    /// requests of those clients only, until `end_outage` unless `seconds` is given.
    Outage {
        /// How long.
        #[serde(default)]
        seconds: Option<f64>,
        /// A part of the `User-Agent`.
        #[serde(default)]
        user_agent: Option<String>,
    },
    /// End every outage.
    EndOutage,
    /// Cut the connections of watches.
    DropWatches(WatchFilter),
    /// End watches with 410, and answer 410 to whoever resumes from a version up to now.
    ExpireWatches(WatchFilter),
    /// Let watches fall silent: those that are open and those to come.
    StallWatches(WatchFilter),
    /// End every stall of these watches.
    ReleaseWatches(WatchFilter),
}

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) delay: Duration,
    pub(super) effect: Option<Effect>,
}

/// What a watch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchState {
    Flowing,
    Stalled,
    Dropped,
    Expired,
}

struct ActiveRule {
    id: RuleId,
    rule: Rule,
    hits: u64,
}

struct ActiveWatch {
    resource: &'static str,
    user_agent: Arc<str>,
    state: watch::Sender<WatchState>,
}

#[derive(Default)]
struct State {
    rules: Vec<ActiveRule>,
    down_agents: Vec<String>,
    stalls: Vec<WatchFilter>,
    expired: Vec<(WatchFilter, u64)>,
    watches: HashMap<u64, ActiveWatch>,
}

struct Inner {
    state: Mutex<State>,
    last_rule: AtomicU64,
    last_watch: AtomicU64,
    store: Arc<Store>,
    gate: Arc<Gate>,
}

/// The faults of one API server. A clone is the same faults.
#[derive(Clone)]
pub struct Faults(Arc<Inner>);

impl Faults {
    pub(super) fn new(store: Arc<Store>, gate: Arc<Gate>) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            last_rule: AtomicU64::new(0),
            last_watch: AtomicU64::new(0),
            store,
            gate,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule. The first rule that matches a request decides; delays add up before that.
    pub fn add(&self, rule: Rule) -> RuleId {
        let id = RuleId(self.0.last_rule.fetch_add(1, Ordering::Relaxed) + 1);
        self.lock().rules.push(ActiveRule { id, rule, hits: 0 });
        id
    }

    /// Refuses the next `times` matching requests.
    pub fn fail_next(&self, times: u64, matching: Match, refusal: Refusal) -> RuleId {
        self.add(Rule::new(matching, Effect::Fail(refusal)).times(times))
    }

    /// Removes a rule; says whether it was there.
    pub fn remove(&self, id: RuleId) -> bool {
        let mut state = self.lock();
        let before = state.rules.len();
        state.rules.retain(|rule| rule.id != id);
        state.rules.len() != before
    }

    /// How many requests a rule has hit; a rule that was removed has hit none.
    pub fn hits(&self, id: RuleId) -> u64 {
        self.lock().rules.iter().find(|rule| rule.id == id).map_or(0, |rule| rule.hits)
    }

    /// The rules that are in force or used up, with their hits.
    pub fn rules(&self) -> Vec<(RuleId, Rule, u64)> {
        self.lock().rules.iter().map(|rule| (rule.id, rule.rule.clone(), rule.hits)).collect()
    }

    /// Ends every fault: no rules, no outage, no stalls.
    pub fn clear(&self) {
        {
            let mut state = self.lock();
            state.rules.clear();
            state.expired.clear();
        }
        self.end_outages();
        self.release_watches(&WatchFilter::all());
    }

    /// Takes the server away (connections are refused and open ones are cut, watches included) or
    /// brings it back on the same address. Both have happened when this returns.
    pub fn set_down(&self, down: bool) {
        self.0.gate.set_down(down);
    }

    /// Whether the server is away.
    pub fn is_down(&self) -> bool {
        self.0.gate.is_down()
    }

    /// Takes the server away for the clients whose `User-Agent` contains `part` (their connections are
    /// accepted and closed at the first request), or brings it back.
    pub fn set_down_for(&self, part: &str, down: bool) {
        let filter = WatchFilter::all().from_agent(part);
        self.lock().down_agents.retain(|agent| agent != part);
        if down {
            self.lock().down_agents.push(part.to_owned());
            self.drop_watches(&filter);
        }
    }

    fn end_outages(&self) {
        self.lock().down_agents.clear();
        self.set_down(false);
    }

    /// Cuts the connections of watches.
    pub fn drop_watches(&self, filter: &WatchFilter) {
        self.lock().end_watches(filter, WatchState::Dropped);
    }

    /// Ends watches with a 410 `Expired` event, and answers the same to whoever resumes from a version
    /// that is current now or older: clients have to list again.
    pub fn expire_watches(&self, filter: &WatchFilter) {
        let mut state = self.lock();
        let version = self.0.store.advance();
        state.expired.retain(|(old, _)| old != filter);
        state.expired.push((filter.clone(), version));
        state.end_watches(filter, WatchState::Expired);
    }

    /// Lets watches fall silent, those that are open and those to come, until they are released: no
    /// event, no bookmark, no end. Lists still show the truth.
    pub fn stall_watches(&self, filter: &WatchFilter) {
        let mut state = self.lock();
        state.stalls.push(filter.clone());
        for watch in state.watches.values().filter(|w| filter.matches(w.resource, &w.user_agent)) {
            watch.state.send_if_modified(|state| {
                let flowing = *state == WatchState::Flowing;
                if flowing {
                    *state = WatchState::Stalled;
                }
                flowing
            });
        }
    }

    /// Ends the stalls that were set for these watches (by the same filter or a narrower one): what has
    /// happened meanwhile is delivered, in order.
    pub fn release_watches(&self, filter: &WatchFilter) {
        let mut state = self.lock();
        state.stalls.retain(|stall| {
            let resource = filter.resource.is_none() || filter.resource == stall.resource;
            let agent = filter.user_agent.is_none() || filter.user_agent == stall.user_agent;
            !(resource && agent)
        });
        let State { stalls, watches, .. } = &*state;
        for watch in watches.values() {
            if stalls.iter().any(|stall| stall.matches(watch.resource, &watch.user_agent)) {
                continue;
            }
            watch.state.send_if_modified(|state| {
                let stalled = *state == WatchState::Stalled;
                if stalled {
                    *state = WatchState::Flowing;
                }
                stalled
            });
        }
    }

    /// Number of open watches that `filter` means.
    pub fn open_watches(&self, filter: &WatchFilter) -> usize {
        self.lock().watches.values().filter(|w| filter.matches(w.resource, &w.user_agent)).count()
    }

    /// Does what a command says; the error names what is missing. Called on a runtime, which ends an
    /// outage that has an end.
    pub fn apply(&self, command: FaultCommand) -> Result<Option<RuleId>, String> {
        match command {
            FaultCommand::Rule(rule) => return Ok(Some(self.add(rule))),
            FaultCommand::Outage { seconds, user_agent } => self.outage(seconds, user_agent)?,
            FaultCommand::EndOutage => self.end_outages(),
            FaultCommand::DropWatches(filter) => self.drop_watches(&filter),
            FaultCommand::ExpireWatches(filter) => self.expire_watches(&filter),
            FaultCommand::StallWatches(filter) => self.stall_watches(&filter),
            FaultCommand::ReleaseWatches(filter) => self.release_watches(&filter),
        }
        Ok(None)
    }

    fn outage(&self, seconds: Option<f64>, user_agent: Option<String>) -> Result<(), String> {
        let length = seconds
            .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(|e| format!("seconds: {e}")))
            .transpose()?;
        if length.is_none() && user_agent.is_none() {
            let why = "an outage for everybody needs `seconds`: no request could end it";
            return Err(why.into());
        }
        let faults = self.clone();
        match &user_agent {
            Some(part) => self.set_down_for(part, true),
            None => self.set_down(true),
        }
        if let Some(length) = length {
            tokio::spawn(async move {
                tokio::time::sleep(length).await;
                match &user_agent {
                    Some(part) => faults.set_down_for(part, false),
                    None => faults.set_down(false),
                }
            });
        }
        Ok(())
    }

    /// Whether the server is away for a client.
    pub(super) fn is_down_for(&self, user_agent: &str) -> bool {
        self.is_down() || self.lock().down_agents.iter().any(|part| user_agent.contains(part.as_str()))
    }

    /// What becomes of a request; counts as a hit of the rules that match.
    pub(super) fn decide(&self, request: &RequestInfo) -> Decision {
        let mut decision = Decision::default();
        for active in &mut self.lock().rules {
            let used_up = active.rule.times.is_some_and(|times| active.hits >= times);
            if used_up || !active.rule.matching.matches(request) {
                continue;
            }
            active.hits += 1;
            match &active.rule.effect {
                Effect::Delay { millis } => decision.delay += Duration::from_millis(*millis),
                effect => {
                    decision.effect = Some(effect.clone());
                    break;
                }
            }
        }
        decision
    }

    /// The refusal with 403 that a request would meet now, for access reviews; not a hit.
    pub(super) fn forbids(&self, request: &RequestInfo) -> Option<Refusal> {
        self.lock().rules.iter().find_map(|active| {
            let used_up = active.rule.times.is_some_and(|times| active.hits >= times);
            match &active.rule.effect {
                Effect::Fail(refusal)
                    if refusal.status == 403 && !used_up && active.rule.matching.matches(request) =>
                {
                    Some(refusal.clone())
                }
                _ => None,
            }
        })
    }

    /// The version up to which everything has expired for a client's watches of a resource.
    pub(super) fn expired(&self, resource: &str, user_agent: &str) -> u64 {
        let state = self.lock();
        let matching = state.expired.iter().filter(|(filter, _)| filter.matches(resource, user_agent));
        matching.map(|(_, version)| *version).max().unwrap_or(0)
    }

    /// Registers a watch.
    pub(super) fn watch(&self, resource: &'static str, user_agent: Arc<str>) -> WatchControl {
        let id = self.0.last_watch.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let stalled = state.stalls.iter().any(|stall| stall.matches(resource, &user_agent));
        let first = if stalled { WatchState::Stalled } else { WatchState::Flowing };
        let (sender, receiver) = watch::channel(first);
        state.watches.insert(id, ActiveWatch { resource, user_agent, state: sender });
        WatchControl { id, state: receiver, faults: self.clone() }
    }
}

impl State {
    fn end_watches(&mut self, filter: &WatchFilter, end: WatchState) {
        for watch in self.watches.values().filter(|w| filter.matches(w.resource, &w.user_agent)) {
            watch.state.send_replace(end);
        }
    }
}

/// A watch's end of the faults: tells it what to do, and deregisters it when dropped.
pub(super) struct WatchControl {
    id: u64,
    /// What the watch is to do.
    pub(super) state: watch::Receiver<WatchState>,
    faults: Faults,
}

impl Drop for WatchControl {
    fn drop(&mut self) {
        self.faults.lock().watches.remove(&self.id);
    }
}
