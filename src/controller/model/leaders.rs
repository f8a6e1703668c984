//! The model's gateways as candidates for leadership: the election, the term's loop around the real
//! [`Brain`], and what goes wrong with them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::api::{Feed, record};
use super::world::{Event, World};
use crate::controller::action::{Action, Now, Outcome, PodEnd, Story};
use crate::controller::brain::{Brain, Settings};
use crate::controller::classify::Patience;
use crate::controller::patch::ClaimPatch;
use crate::controller::probe::Health;
use crate::controller::snapshot::Change;
use crate::controller::testing;
use crate::session::api::ApiError;
use crate::session::pod::Stage;

/// As in the real election.
const DURATION: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(10);
const RENEW: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_secs(2);

/// As for real calls.
const CALL: Duration = Duration::from_secs(3);

/// Servers in each of the two countries: hardly more than pods, so that most are in use.
pub(super) const SERVERS: usize = 2;

/// The election's Lease.
#[derive(Clone, Debug, Default)]
pub(super) struct Election {
    holder: Option<usize>,
    version: u64,
}

/// A gateway as a candidate.
pub(super) struct Leader {
    /// Counts its processes: after a death another begins.
    process: u64,
    /// Counts its terms; what was sent in an earlier one is void.
    pub(super) term: u64,
    brain: Option<Brain>,
    /// Until when it leads.
    until: Duration,
    /// When it last saw the Lease change.
    sighting: (u64, Duration),
    pub(super) paused_until: Duration,
    /// By how many seconds its clock is off.
    pub(super) skew: i64,
    /// What its watches have delivered.
    delivered: [usize; 2],
    /// Until when its watches deliver nothing.
    lag_until: [Duration; 2],
    probing: BTreeSet<String>,
    wake: Option<Duration>,
    /// When its term began.
    pub(super) since: Duration,
}

/// A call on its way.
pub(super) struct Call {
    pub(super) leader: usize,
    term: u64,
    pub(super) action: Action,
    outcome: Option<Outcome>,
    /// It fails before it takes effect.
    fails: bool,
    /// When it takes effect.
    at: Duration,
    /// Its leader has had no answer in time.
    given_up: bool,
}

impl World {
    pub(super) fn add_leaders(&mut self) {
        for leader in 0..2 {
            let skew = if self.chance(0.5) { self.rng.random_range(-120..=120) } else { 0 };
            self.leaders.push(Leader {
                process: 0,
                term: 0,
                brain: None,
                until: Duration::ZERO,
                sighting: (0, Duration::ZERO),
                paused_until: Duration::ZERO,
                skew,
                delivered: [0, 0],
                lag_until: [Duration::ZERO; 2],
                probing: BTreeSet::new(),
                wake: None,
                since: Duration::ZERO,
            });
            let wait = self.millis(0, 1000);
            self.after(wait, Event::Elect { leader, process: 0 });
        }
    }

    /// Whether the API server answers a call now.
    pub(super) fn api_answers(&mut self) -> bool {
        self.now >= self.away_until && (self.is_calm() || !self.chance(0.04))
    }

    /// A candidate's turn: looks at the Lease, takes it, or renews it.
    pub(super) fn elect(&mut self, id: usize, process: u64) {
        if self.leaders[id].process != process {
            return;
        }
        let now = self.now;
        if self.leaders[id].brain.is_some() && now >= self.leaders[id].until {
            self.say(|| format!("leader {id} has lost leadership"));
            self.end_term(id);
        }
        let mut next = RETRY;
        if self.api_answers() {
            let leader = &mut self.leaders[id];
            if leader.sighting.0 != self.election.version {
                leader.sighting = (self.election.version, now);
            }
            let mine = self.election.holder == Some(id);
            let free = self.election.holder.is_none();
            if leader.brain.is_some() && !mine {
                self.say(|| format!("leader {id} finds another"));
                self.end_term(id);
            } else if mine || free || now - leader.sighting.1 > DURATION {
                let had_time = now + CALL <= leader.until;
                leader.until = now + DEADLINE;
                self.election.version += 1;
                if self.election.holder.replace(id) != Some(id) {
                    self.counts.count("leader changed");
                }
                if self.leaders[id].brain.is_none() {
                    self.begin_term(id);
                } else if !had_time {
                    self.step(id);
                }
                next = RENEW;
            }
        }
        self.after(next, Event::Elect { leader: id, process });
    }

    fn begin_term(&mut self, id: usize) {
        let settings = Settings {
            limit: self.limit,
            patience: Patience { attempt: Duration::from_secs(20), start: Duration::from_secs(90) },
            drain: Duration::from_secs(25),
            account_drain: Duration::from_secs(25),
        };
        let rng = StdRng::seed_from_u64(self.rng.random());
        let leader = &mut self.leaders[id];
        leader.term += 1;
        leader.brain = Some(Brain::new(settings, testing::catalogue(SERVERS), rng));
        leader.probing.clear();
        leader.wake = None;
        self.tell_accounts(id);
        let leader = &mut self.leaders[id];
        leader.since = self.now;
        let term = leader.term;
        self.say(|| format!("leader {id} begins term {term}"));
        for feed in [Feed::Pods, Feed::Claims] {
            let wait = self.millis(1, 50);
            self.after(wait, Event::List { leader: id, term, feed });
        }
    }

    fn tell_accounts(&mut self, id: usize) {
        let (owners, gone) = self.owners(id);
        let now = self.time_of(id);
        if let Some(brain) = self.leaders[id].brain.as_mut() {
            brain.on_accounts(owners, gone.iter().map(|(owner, ago)| (owner, *ago)), now);
        }
    }

    /// A gateway has read its files anew.
    pub(super) fn accounts_changed(&mut self, id: usize) {
        self.say(|| format!("gateway {id} learns that an account is gone"));
        self.tell_accounts(id);
        self.step(id);
    }

    fn end_term(&mut self, id: usize) {
        self.leaders[id].brain = None;
        self.leaders[id].term += 1;
    }

    fn time_of(&self, id: usize) -> Now {
        Now { mono: self.now, wall: self.wall(self.leaders[id].skew) }
    }

    /// The clock of the one that leads.
    pub(super) fn leaders_wall(&self) -> SystemTime {
        self.wall(self.election.holder.map_or(0, |holder| self.leaders[holder].skew))
    }

    /// The brain of a leader, if the term is still the present one.
    fn brain(&mut self, id: usize, term: u64) -> Option<&mut Brain> {
        let leader = self.leaders.get_mut(id).filter(|leader| leader.term == term)?;
        leader.brain.as_mut()
    }

    pub(super) fn list(&mut self, id: usize, term: u64, feed: Feed) {
        if self.brain(id, term).is_none() {
            return;
        }
        if !self.api_answers() {
            self.after(RETRY, Event::List { leader: id, term, feed });
            return;
        }
        let now = self.time_of(id);
        match feed {
            Feed::Pods => {
                let pods: Vec<_> = self.api.pods.values().map(|pod| Arc::new(pod.facts.clone())).collect();
                self.leaders[id].delivered[0] = self.api.pod_log.len();
                let Some(brain) = self.brain(id, term) else { return };
                brain.on_pod(Change::Restarted, now);
                for pod in pods {
                    brain.on_pod(Change::Listed(pod), now);
                }
                brain.on_pod(Change::Complete, now);
            }
            Feed::Claims => {
                let claims: Vec<_> = self.api.claims.values().map(record).collect();
                self.leaders[id].delivered[1] = self.api.claim_log.len();
                let Some(brain) = self.brain(id, term) else { return };
                brain.on_claim(Change::Restarted, now);
                for claim in claims {
                    brain.on_claim(Change::Listed(claim), now);
                }
                brain.on_claim(Change::Complete, now);
            }
        }
        self.step(id);
    }

    /// Something was written: every leader's watch will tell, sooner or later.
    pub(super) fn announce(&mut self, feed: Feed) {
        let (at, upto) = match feed {
            Feed::Pods => (0, self.api.pod_log.len()),
            Feed::Claims => (1, self.api.claim_log.len()),
        };
        for id in 0..self.leaders.len() {
            if self.leaders[id].brain.is_none() {
                continue;
            }
            let lag = if !self.is_calm() && self.chance(0.03) {
                self.millis(500, 6000)
            } else {
                self.millis(1, 20)
            };
            let term = self.leaders[id].term;
            let when = (self.now + lag).max(self.leaders[id].lag_until[at]).max(self.away_until);
            self.at(when, Event::Deliver { leader: id, term, feed, upto });
        }
    }

    pub(super) fn deliver(&mut self, id: usize, term: u64, feed: Feed, upto: usize) {
        let now = self.time_of(id);
        let at = usize::from(feed == Feed::Claims);
        let from = self.leaders[id].delivered[at];
        if self.leaders[id].term != term || from >= upto {
            return;
        }
        self.leaders[id].delivered[at] = upto;
        let Some(brain) = self.leaders[id].brain.as_mut() else { return };
        match feed {
            Feed::Pods => {
                for change in &self.api.pod_log[from..upto] {
                    brain.on_pod(change.clone(), now);
                }
            }
            Feed::Claims => {
                for change in &self.api.claim_log[from..upto] {
                    brain.on_claim(change.clone(), now);
                }
            }
        }
        self.step(id);
    }

    pub(super) fn watch_broken(&mut self, id: usize, term: u64) {
        let now = self.time_of(id);
        if let Some(brain) = self.brain(id, term) {
            brain.on_broken_watch(now);
            self.counts.count("watch broken");
        }
    }

    pub(super) fn woken(&mut self, id: usize, term: u64) {
        if self.leaders[id].term == term {
            self.leaders[id].wake = None;
            self.step(id);
        }
    }

    pub(super) fn probe(&mut self, id: usize, term: u64, uid: String) {
        let now = self.time_of(id);
        let health = match self.api.pod_by_uid(&uid) {
            Some(pod) if pod.facts.view.stage != Stage::Running => Health::Down,
            Some(pod) if pod.healthy => Health::Up,
            Some(pod) if pod.silent => Health::Silent,
            Some(_) | None => Health::Down,
        };
        self.leaders[id].probing.remove(&uid);
        if let Some(brain) = self.brain(id, term) {
            brain.on_health(&uid, health, now);
            self.step(id);
        }
    }

    /// One turn of the leader's loop.
    fn step(&mut self, id: usize) {
        let now = self.time_of(id);
        let leader = &mut self.leaders[id];
        let term = leader.term;
        let has_time = self.now + CALL <= leader.until;
        let Some(brain) = leader.brain.as_mut() else { return };
        let plan = match has_time.then(|| brain.plan_and_compare(now)).transpose() {
            Ok(plan) => plan,
            Err(difference) => {
                self.fail(difference);
                return;
            }
        };
        let Some(brain) = self.leaders[id].brain.as_mut() else { return };
        let asked = brain.pods_to_ask();
        let stories = brain.take_stories();
        for story in stories {
            self.tell(id, &story);
        }
        for asked in asked {
            let uid = asked.uid;
            if self.leaders[id].probing.insert(uid.clone()) {
                let wait = self.millis(100, 300);
                self.after(wait, Event::Probe { leader: id, term, uid });
            }
        }
        let Some(plan) = plan else { return };
        if let Some(at) = plan.wake
            && self.leaders[id].wake.is_none_or(|set| at < set)
        {
            self.leaders[id].wake = Some(at);
            self.at(at, Event::Wake { leader: id, term });
        }
        for action in plan.actions {
            self.send(id, term, action);
            if !self.is_calm() && self.chance(0.004) {
                // Between two calls, which may be those of one step.
                self.die(id);
                return;
            }
        }
    }

    fn tell(&mut self, id: usize, story: &Story) {
        match story {
            Story::Failed { .. } => self.counts.count("start failed"),
            Story::PodDeleted { why: PodEnd::Drained | PodEnd::DrainTimeout, .. } => {
                self.counts.count("older exit drained");
            }
            Story::PodDeleted { why: PodEnd::NoClaim, .. } => self.counts.count("orphan swept"),
            _ => {}
        }
        self.say(|| {
            let text = format!("{story:?}");
            format!("leader {id} tells {}", text.chars().take(160).collect::<String>())
        });
    }

    fn send(&mut self, leader: usize, term: u64, action: Action) {
        if let Action::CreatePod(new) = &action {
            self.check_start(leader, &new.claim);
        }
        self.say(|| {
            let text = format!("{action:?}");
            format!("leader {leader} sends {}", text.chars().take(160).collect::<String>())
        });
        let call = self.number();
        let fails = !self.api_answers();
        let chaos = !self.is_calm();
        let wait = if chaos && self.chance(0.03) {
            self.millis(100, 2900)
        } else if chaos && self.chance(0.02) {
            // So slow that its leader has given it up before it takes effect.
            self.counts.count("call took effect after its time");
            self.after(CALL, Event::Answer { call });
            self.millis(3000, 6000)
        } else {
            self.millis(1, 10)
        };
        let at = self.now + wait;
        self.calls.insert(call, Call { leader, term, action, outcome: None, fails, at, given_up: false });
        // A creation on its way fills a quota, whatever becomes of it.
        self.check_quotas();
        self.at(at, Event::Effect { call });
    }

    /// A call reaches the API server, even if its leader is no more.
    pub(super) fn effect(&mut self, id: u64) {
        let away = self.now < self.away_until;
        let Some(call) = self.calls.get(&id) else { return };
        let (leader, action) = (call.leader, call.action.clone());
        if self.leaders[leader].term != call.term && !call.fails && !away {
            self.counts.count("call of a dead leader took effect");
        }
        let mut outcome = if call.fails || away {
            Err(ApiError::Unavailable("connection refused".into()))
        } else {
            let outcome = self.serve(&action);
            if let (Action::PatchClaim { claim, patch: ClaimPatch::Reason(reason) }, Ok(_)) =
                (&action, &outcome)
            {
                self.note_rest(leader, claim, reason);
            }
            outcome
        };
        let lost = !self.is_calm() && outcome.is_ok() && self.chance(0.03);
        let wait = if lost { CALL } else { self.millis(1, 10) };
        if lost {
            outcome = Err(ApiError::Timeout);
        }
        if matches!(&action, Action::CreatePod(_)) && outcome.as_ref().is_err_and(ApiError::is_ambiguous) {
            self.counts.count("ambiguous creation");
        }
        if let Some(call) = self.calls.get_mut(&id) {
            if call.given_up {
                self.calls.remove(&id);
                return;
            }
            call.outcome = Some(outcome);
        }
        self.after(wait, Event::Answer { call: id });
    }

    pub(super) fn answer(&mut self, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let (leader, term, action) = (call.leader, call.term, call.action.clone());
        let outcome = match call.outcome.take() {
            Some(outcome) => {
                self.calls.remove(&id);
                outcome
            }
            None => {
                call.given_up = true;
                Err(ApiError::Timeout)
            }
        };
        let now = self.time_of(leader);
        if let Some(brain) = self.brain(leader, term) {
            brain.on_result(&action, &outcome, now);
            self.say(|| format!("leader {leader} hears {outcome:?}"));
            self.step(leader);
        }
    }

    /// A gateway's process ends, and another begins. What it has sent may take effect, but within a second:
    /// its connections are closed, and the next process needs as long to begin.
    fn die(&mut self, id: usize) {
        self.say(|| format!("gateway {id} dies"));
        if self.leaders[id].brain.is_some() {
            self.counts.count("leader dead");
        }
        let soon = self.now + Duration::from_secs(1);
        let calls = self.calls.iter().filter(|(_, call)| call.leader == id);
        let calls: Vec<_> = calls.map(|(call, c)| (*call, c.at < soon)).collect();
        for (call, may_come) in calls {
            if !may_come || self.chance(0.3) {
                self.calls.remove(&call);
            }
        }
        self.end_term(id);
        let leader = &mut self.leaders[id];
        leader.process += 1;
        leader.until = Duration::ZERO;
        let process = leader.process;
        let wait = self.millis(1000, 15_000);
        self.after(wait, Event::Elect { leader: id, process });
    }

    /// Something goes wrong.
    pub(super) fn fault(&mut self) {
        if self.is_calm() {
            return;
        }
        // The one that leads has more to lose.
        let id = match self.election.holder.filter(|_| self.rng.random_bool(0.6)) {
            Some(holder) => holder,
            None => self.rng.random_range(0..2),
        };
        let term = self.leaders[id].term;
        match self.rng.random_range(0..7) {
            0 => {
                self.die(id);
            }
            1 => {
                let pause =
                    if self.chance(0.5) { self.millis(500, 8000) } else { self.millis(14_000, 40_000) };
                self.say(|| format!("gateway {id} pauses for {pause:?}"));
                self.leaders[id].paused_until = (self.now + pause).min(self.calm_at());
                if self.leaders[id].brain.is_some() && self.now + pause > self.leaders[id].until {
                    self.counts.count("leader paused past its deadline");
                }
            }
            2 => {
                let away =
                    if self.chance(0.3) { self.millis(20_000, 80_000) } else { self.millis(200, 9000) };
                self.say(|| format!("the API server is away for {away:?}"));
                self.counts.count("API away");
                self.away_until = (self.now + away).min(self.calm_at());
                for leader in 0..2 {
                    let term = self.leaders[leader].term;
                    let wait = self.millis(1, 1000);
                    self.after(wait, Event::Broken { leader, term });
                }
            }
            3 | 4 => {
                let feed = if self.chance(0.5) { Feed::Pods } else { Feed::Claims };
                self.say(|| format!("the watch of {feed:?} of gateway {id} has to list again"));
                self.counts.count("watch listed again");
                let wait = self.millis(1, 3000);
                self.after(wait, Event::Broken { leader: id, term });
                self.after(wait, Event::List { leader: id, term, feed });
            }
            _ => {
                let at = usize::from(self.chance(0.5));
                let lag = self.millis(500, 8000);
                self.say(|| format!("watch {at} of gateway {id} stays behind by {lag:?}"));
                self.leaders[id].lag_until[at] = self.now + lag;
            }
        }
        let wait = self.millis(1000, 25_000);
        self.after(wait, Event::Fault);
    }
}
