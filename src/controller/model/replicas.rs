//! The model's gateways as replicas: clients that want exits, wait for them, use them and leave, by the
//! rules of the session table. They see the API server as it is when it answers; what a replica's own
//! watches may get wrong is not the leader's matter.

use std::time::Duration;

use rand::RngExt;

use super::world::{Event, World};
use crate::controller::testing;
use crate::selector::SessionKey;
use crate::session::claim::{Claim, ReasonKind, Replace};

/// As for real waiters.
const HOLD: Duration = Duration::from_secs(90);
const RENEW: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);

/// A session and what the two replicas do with it.
pub(super) struct Session {
    key: SessionKey,
    /// Of the claim.
    name: String,
    /// What every claim of it begins with.
    blank: Claim,
    duration: Duration,
    ttl: Option<Duration>,
    pinned: bool,
    no_wait: bool,
    /// The exit that was last used: uid of the claim, and its transition.
    pub(super) used: Option<(String, i32)>,
    pub(super) uses: Vec<Use>,
}

/// What a replica does with a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Use {
    state: State,
    /// Uid of the claim that it has renewed, or made, since it began.
    pub(super) claim: Option<String>,
    /// When it last did so.
    pub(super) renewed: Duration,
    /// A reason that it was told while it waited.
    told: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum State {
    #[default]
    Unused,
    Waiting {
        since: Duration,
    },
    Tunnel {
        pod: String,
        transition: i32,
        until: Duration,
    },
}

impl World {
    pub(super) fn add_sessions(&mut self) {
        let keys = [
            "a-country-se",
            "a-country-no",
            "a-session-x",
            "b-country-se-mode-strict",
            "b-server-se-2",
            "b-session-y-mode-strict",
            "_api-server-no-1",
            "c-session-z",
        ];
        for (session, key) in keys.into_iter().enumerate() {
            let seconds = self.rng.random_range(30..=60);
            let ttl = self.chance(0.3).then(|| Duration::from_secs(self.rng.random_range(60..=120)));
            self.sessions.push(Session {
                key: testing::key(key),
                name: testing::key(key).claim_name(),
                blank: testing::claim(&testing::key(key), ""),
                duration: Duration::from_secs(seconds),
                ttl,
                pinned: key.starts_with("_api"),
                no_wait: key.starts_with('c'),
                used: None,
                uses: vec![Use::default(); 2],
            });
            for replica in 0..2 {
                let wait = self.millis(100, 60_000);
                self.after(wait, Event::Client { replica, session });
            }
        }
    }

    /// A replica's turn.
    pub(super) fn client(&mut self, replica: usize, session: usize) {
        let state = self.sessions[session].uses[replica].state.clone();
        let next = match state {
            State::Unused if self.is_quiet() => self.leave_behind(session),
            State::Unused => self.begin(replica, session),
            State::Waiting { since } => self.wait(replica, session, since),
            State::Tunnel { pod, transition, until } => {
                self.tunnel(replica, session, &pod, transition, until)
            }
        };
        if let Some(next) = next {
            self.after(next, Event::Client { replica, session });
        }
    }

    /// Clock skew of a replica: that of the gateway's machine, the other way round for variety.
    fn replica_wall(&self, replica: usize) -> std::time::SystemTime {
        self.wall(if replica == 0 { 0 } else { -60 })
    }

    fn begin(&mut self, replica: usize, session: usize) -> Option<Duration> {
        if self.sessions[session].pinned && self.chance(0.2) {
            return self.destroy(session);
        }
        let since = self.now;
        let key = self.sessions[session].key.clone();
        self.say(|| format!("replica {replica} wants {key}"));
        self.sessions[session].uses[replica] = Use { state: State::Waiting { since }, ..Use::default() };
        Some(Duration::ZERO)
    }

    /// A pinned claim's owner destroys it: the claim first, then the pod; and may die in between.
    fn destroy(&mut self, session: usize) -> Option<Duration> {
        if self.api_answers() {
            let name = self.sessions[session].name.clone();
            if let Some(claim) = self.api.claims.get(&name).cloned() {
                self.say(|| format!("{name} is destroyed"));
                self.remove_claim(&name);
                let pods = self.api.pods.values().filter(|pod| {
                    pod.facts.view.binding.as_ref().is_some_and(|binding| binding.claim_uid == claim.uid)
                });
                let pods: Vec<_> = pods.map(|pod| pod.facts.view.name.clone()).collect();
                if self.chance(0.5) {
                    self.counts.count("destroyed half");
                } else {
                    for pod in pods {
                        self.delete_pod(&pod);
                    }
                }
            }
        }
        Some(self.millis(1000, 30_000))
    }

    /// The clients have left; a pinned claim's owner takes it with him.
    fn leave_behind(&mut self, session: usize) -> Option<Duration> {
        let name = self.sessions[session].name.clone();
        if self.sessions[session].pinned && self.api.claims.contains_key(&name) {
            self.destroy(session);
            return Some(RETRY);
        }
        None
    }

    /// Renews a claim as it is now, by its uid.
    fn renew(&mut self, replica: usize, session: usize, older: Option<i32>) -> bool {
        let name = self.sessions[session].name.clone();
        let wall = self.replica_wall(replica);
        let Some(mut claim) = self.api.claims.get(&name).cloned() else { return false };
        let used = &mut self.sessions[session].uses[replica];
        if used.claim.as_ref().is_some_and(|uid| *uid != claim.uid) {
            return false;
        }
        used.claim = Some(claim.uid.clone());
        used.renewed = self.now;
        claim.renewed = wall;
        if let Some(older) = older {
            claim.renewed_older.insert(older, wall);
        }
        self.put_claim(claim);
        true
    }

    fn create(&mut self, replica: usize, session: usize) {
        let wall = self.replica_wall(replica);
        let uid = format!("claim-{}", self.number());
        let template = &self.sessions[session];
        let claim = Claim {
            duration: template.duration,
            ttl: template.ttl,
            no_wait: template.no_wait,
            renewed: wall,
            created: self.wall(0),
            name: template.name.clone(),
            uid: uid.clone(),
            ..template.blank.clone()
        };
        let used = &mut self.sessions[session].uses[replica];
        used.claim = Some(uid);
        used.renewed = self.now;
        self.put_claim(claim);
    }

    /// A held request.
    fn wait(&mut self, replica: usize, session: usize, since: Duration) -> Option<Duration> {
        if self.is_quiet() {
            return self.stop(replica, session);
        }
        if self.now - since >= HOLD || (self.chance(0.02) && !self.is_calm()) {
            let told = self.sessions[session].uses[replica].told;
            if self.now - since >= HOLD && !told && self.has_been_calm(since) {
                let key = self.sessions[session].key.canonical();
                self.fail(format!("replica {replica} waited for {key} and was never told anything"));
            }
            return self.stop(replica, session);
        }
        if !self.api_answers() {
            return Some(RETRY);
        }
        let name = self.sessions[session].name.clone();
        let Some(claim) = self.api.claims.get(&name).cloned() else {
            self.create(replica, session);
            return Some(self.millis(300, 1000));
        };
        if self.sessions[session].uses[replica].claim.as_ref().is_some_and(|uid| *uid != claim.uid) {
            // Another's; from now on it is this one's too.
            self.sessions[session].uses[replica].claim = None;
        }
        match claim.reason.as_ref().map(|reason| reason.kind) {
            Some(ReasonKind::Rejected | ReasonKind::Lost) => return self.stop(replica, session),
            Some(ReasonKind::Waiting | ReasonKind::Retrying) => {
                self.sessions[session].uses[replica].told = true;
            }
            None => {}
        }
        let used = &self.sessions[session].uses[replica];
        let due = used.claim.is_none() || self.now - used.renewed >= RENEW;
        let up = self.healthy_pod(&claim);
        if (due || up.is_some()) && !self.renew(replica, session, None) {
            return Some(RETRY);
        }
        if let Some(pod) = up {
            if claim.expires.is_some_and(|at| at <= self.replica_wall(replica)) && !self.chance(0.2) {
                self.word(&name, claim.transition, "expired");
                return Some(self.millis(300, 1000));
            }
            self.counts.count("exit in use");
            if self.sessions[session].pinned
                && let Some(mut claim) = self.api.claims.get(&name).cloned()
            {
                claim.pinned = true;
                self.put_claim(claim);
            }
            let until = self.now + self.millis(1000, 90_000);
            self.say(|| format!("replica {replica} uses {pod} for {name}"));
            let state = State::Tunnel { pod, transition: claim.transition, until };
            self.sessions[session].uses[replica].state = state;
            self.sessions[session].used = Some((claim.uid.clone(), claim.transition));
        }
        Some(self.millis(200, 3000))
    }

    /// Uid of the claim's current pod, if it is healthy.
    fn healthy_pod(&self, claim: &Claim) -> Option<String> {
        let mut pods = self.api.pods.values();
        let pod = pods.find(|pod| {
            let binding = pod.facts.view.binding.as_ref();
            binding.is_some_and(|b| b.claim_uid == claim.uid && b.transition == claim.transition)
        })?;
        (pod.healthy && pod.facts.view.stage == crate::session::pod::Stage::Running)
            .then(|| pod.facts.view.uid.clone())
    }

    fn word(&mut self, name: &str, transition: i32, why: &str) {
        if let Some(mut claim) = self.api.claims.get(name).cloned() {
            claim.replace = Some(Replace { transition, why: why.to_owned() });
            self.say(|| format!("a replica says that {name}/{transition} is {why}"));
            self.put_claim(claim);
        }
    }

    /// An open tunnel.
    fn tunnel(
        &mut self,
        replica: usize,
        session: usize,
        pod: &str,
        transition: i32,
        until: Duration,
    ) -> Option<Duration> {
        let alive = self.api.pod_by_uid(pod).is_some_and(|pod| pod.healthy);
        if self.now >= until || self.is_quiet() {
            return self.stop(replica, session);
        }
        if !self.api_answers() {
            return Some(RETRY);
        }
        let name = self.sessions[session].name.clone();
        let claim = self.api.claims.get(&name).cloned();
        let known = self.sessions[session].uses[replica].claim.clone();
        let Some(claim) = claim.filter(|claim| Some(&claim.uid) == known.as_ref()) else {
            // Gone: its tunnels end.
            return self.stop(replica, session);
        };
        if !alive {
            if claim.transition == transition && claim.reason.is_none() && self.chance(0.5) {
                self.word(&name, transition, "dead");
            }
            let since = self.now;
            let kept = self.sessions[session].uses[replica].clone();
            self.sessions[session].uses[replica] =
                Use { state: State::Waiting { since }, told: false, ..kept };
            return Some(Duration::ZERO);
        }
        let older = (claim.transition != transition).then_some(transition);
        let period = self.sessions[session].duration / 4;
        if self.now - self.sessions[session].uses[replica].renewed >= period
            && !self.renew(replica, session, older)
        {
            return Some(RETRY);
        }
        let renewal = self.sessions[session].uses[replica].renewed + period;
        let next = until.min(renewal).saturating_sub(self.now).min(Duration::from_secs(10));
        Some(next.max(Duration::from_millis(10)))
    }

    fn stop(&mut self, replica: usize, session: usize) -> Option<Duration> {
        let key = self.sessions[session].key.clone();
        self.say(|| format!("replica {replica} is done with {key}"));
        self.sessions[session].uses[replica] = Use::default();
        let idle = self.api.claims.get(&self.sessions[session].name).and_then(|claim| {
            let idle_wall = claim.renewed + claim.duration;
            idle_wall.duration_since(self.leaders_wall()).ok()
        });
        match idle {
            // Back just when it is being reaped.
            Some(idle) if self.chance(0.3) => Some(idle + self.millis(0, 15)),
            Some(_) | None => Some(self.millis(1000, 90_000)),
        }
    }
}
