//! What can go wrong with an API server, on demand: refusals, writes whose answer is lost, latency,
//! outages, and watches that end, expire or fall silent. Tests use [`Faults`] directly; over HTTP the
//! same is `POST /simulator/faults` with a [`FaultCommand`] (see the module documentation of
//! [`super`]). The request loop asks [`Faults::decide`] once for each request, and each watch follows
//! its [`WatchControl`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::listener::Gate;
use super::status::Failure;
use super::store::Store;

/// What a request wants, in the words of Kubernetes' authorisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Read one object (also a pod's log).
    Get,
    /// Read many.
    List,
    /// Follow changes.
    Watch,
    /// Make an object (also a binding, or an access review).
    Create,
    /// Replace an object.
    Update,
    /// Change a part of an object.
    Patch,
    /// Remove one object.
    Delete,
    /// Remove many.
    DeleteCollection,
}

impl Verb {
    /// The verb as RBAC rules spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// One request, as rules and the request log see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestInfo {
    /// What it wants.
    pub verb: Verb,
    /// The resource, with its subresource: `pods`, `pods/status`, `leases`.
    pub resource: String,
    /// The namespace, if it names one.
    pub namespace: Option<String>,
    /// The object, if it names one (for a create: the name in the body).
    pub name: Option<String>,
    /// Its `User-Agent`, empty if it has none.
    pub user_agent: String,
}

/// Which requests are meant; what is not given matches everything. `resource` and `name` may hold `*`
/// for any text: `gw-*`, `pods*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// The verb.
    pub verb: Option<Verb>,
    /// The resource: `pods` (which is not `pods/status`), `leases`, `pods*`.
    pub resource: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// A part of the `User-Agent`.
    pub user_agent: Option<String>,
}

impl Match {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests with a verb on a resource.
    pub fn on(verb: Verb, resource: &str) -> Self {
        Self { verb: Some(verb), resource: Some(resource.into()), ..Self::default() }
    }

    /// Those only that name this object (`*` for any text).
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Those only whose `User-Agent` contains this text.
    pub fn from_agent(self, part: &str) -> Self {
        Self { user_agent: Some(part.into()), ..self }
    }

    /// Whether a request is meant.
    pub fn matches(&self, request: &RequestInfo) -> bool {
        let glob = |pattern: &Option<String>, text: Option<&str>| {
            pattern.as_deref().is_none_or(|pattern| text.is_some_and(|text| matches_glob(pattern, text)))
        };
        self.verb.is_none_or(|verb| verb == request.verb)
            && glob(&self.resource, Some(&request.resource))
            && glob(&self.namespace, request.namespace.as_deref())
            && glob(&self.name, request.name.as_deref())
            && self.user_agent.as_deref().is_none_or(|part| request.user_agent.contains(part))
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// HTTP status code.
    pub status: u16,
    /// `reason` of the Status body.
    pub reason: String,
    /// `message` of the Status body.
    pub message: String,
    /// Seconds of a `Retry-After` header.
    #[serde(default)]
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// Any error.
    pub fn new(status: u16, reason: &str, message: &str) -> Self {
        Self { status, reason: reason.into(), message: message.into(), retry_after: None }
    }

    /// 500: etcd did not answer.
    pub fn internal() -> Self {
        Self::new(500, "InternalError", "Internal error occurred: etcdserver: request timed out")
    }

    /// 503: the server is overloaded or going down.
    pub fn unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "apiserver is shutting down")
    }

    /// 429 by API priority and fairness, with a `Retry-After` in seconds.
    pub fn too_many_requests(retry_after: u64) -> Self {
        let message = "Too many requests, please try again later.";
        Self { retry_after: Some(retry_after), ..Self::new(429, "TooManyRequests", message) }
    }

    /// 403: a ResourceQuota is used up.
    pub fn quota(pod: &str, quota: &str, limit: u32) -> Self {
        let message = format!(
            "pods \"{pod}\" is forbidden: exceeded quota: {quota}, requested: pods=1, used: pods={limit}, \
             limited: pods={limit}"
        );
        Self::new(403, "Forbidden", &message)
    }

    /// 403: the namespace enforces a Pod Security level.
    pub fn pod_security(pod: &str) -> Self {
        let message = format!(
            "pods \"{pod}\" is forbidden: violates PodSecurity \"baseline:latest\": non-default \
             capabilities (container \"gluetun\" must not include \"NET_ADMIN\" in \
             securityContext.capabilities.add), hostPath volumes (volume \"tun\")"
        );
        Self::new(403, "Forbidden", &message)
    }

    /// 403: the ServiceAccount lacks a right. `resource` is qualified by its group, as in
    /// `leases.coordination.k8s.io`.
    pub fn rbac(verb: Verb, resource: &str, group: &str, namespace: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let verb = verb.as_str();
        let message = format!(
            "{qualified} is forbidden: User \"system:serviceaccount:{namespace}:gluetun-gateway\" cannot \
             {verb} resource \"{resource}\" in API group \"{group}\" in the namespace \"{namespace}\""
        );
        Self::new(403, "Forbidden", &message)
    }

    pub(super) fn failure(&self) -> Failure {
        Failure {
            code: self.status,
            reason: Some(self.reason.clone().into()),
            message: self.message.clone(),
            details: None,
            retry_after: self.retry_after,
        }
    }
}

/// What happens to a request that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is refused; nothing is done.
    Fail(Refusal),
    /// It is done, and then refused: the ambiguous error.
    ApplyThenFail(Refusal),
    /// The connection is closed; nothing is done.
    Cut,
    /// It is done, and then the connection is closed.
    ApplyThenCut,
    /// Nothing is done and nothing is answered: the connection stays open and silent.
    Hang,
    /// It is done, and nothing is answered.
    ApplyThenHang,
    /// It is done later. Further rules apply after the delay.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
}

/// An effect on some requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which requests.
    #[serde(default, rename = "match")]
    pub matching: Match,
    /// What happens to them.
    pub effect: Effect,
    /// How many of them it happens to; all of them if not given.
    #[serde(default)]
    pub times: Option<u64>,
}

impl Rule {
    /// An effect on every matching request, until the rule is removed.
    pub fn new(matching: Match, effect: Effect) -> Self {
        Self { matching, effect, times: None }
    }

    /// The same for the next `times` matching requests only.
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }
}

/// Names a rule that was added, to remove it or to ask how often it hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RuleId(u64);

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
#[serde(tag = "fault", rename_all = "snake_case")]
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
    next_id: AtomicU64,
    store: Arc<Store>,
    gate: Arc<Gate>,
}

/// The faults of one API server. A clone is the same faults.
#[derive(Clone)]
pub struct Faults(Arc<Inner>);

impl Faults {
    pub(super) fn new(store: Arc<Store>, gate: Arc<Gate>) -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), next_id: AtomicU64::new(1), store, gate }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a rule. The first rule that matches a request decides; delays add up before that.
    pub fn add(&self, rule: Rule) -> RuleId {
        let id = RuleId(self.next_id());
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

    /// Ends the stalls of the watches that `filter` means: what has happened meanwhile is delivered,
    /// in order.
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

    /// Does what a command says. The error names what is missing.
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
        let id = self.next_id();
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
