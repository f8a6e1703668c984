//! What the cluster says: every claim and pod of the namespace, folded from watch events and from the
//! answers to this replica's own requests, and published into the table. Watches lag each other, so a
//! pod may come before its claim and a claim before its pod; whichever comes last makes the exit known.
//! Lives on the control plane; data threads only see what it publishes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio_util::sync::CancellationToken;

use super::claim::{Claim, EXPIRED, ReasonKind};
use super::entry::State;
use super::exit::{Exit, Traffic};
use super::pod::{Binding, HEALTH_PORT, PROXY_PORT, PodView, Stage};
use super::sessions::Fault;
use super::table::{PodLogin, Table};
use crate::secret::Secret;
use crate::selector::{Mode, SessionKey};

/// Claims and pods by name, and what this replica has found out about pods by itself.
#[derive(Debug, Default)]
pub(super) struct Index {
    claims: HashMap<String, Arc<Claim>>,
    pods: HashMap<String, Arc<PodView>>,
    /// Names of the pods of each claim, by the claim's name.
    pods_of: HashMap<String, HashSet<String>>,
    /// Exits by the pod's uid: one for a pod's whole life, since tunnels and counters hang on it.
    exits: HashMap<String, Arc<Exit>>,
    /// What went through the exits of each claim, by the claim's uid.
    traffic: HashMap<String, Arc<Traffic>>,
    /// Uids of pods whose health server has said 200 to this replica.
    healthy: HashSet<String>,
    /// Pods that this replica does not use any more, whatever they say, by uid; and why.
    condemned: HashMap<String, Fault>,
    /// Names of the pods that serve claims, by the user of their own credentials.
    users: HashMap<String, String>,
    /// Uids of pods that this replica has destroyed: they are told of no more while they end.
    destroyed: HashSet<String>,
    /// Claims that this replica made and that no watch has shown yet.
    unseen: HashSet<String>,
    /// Uids of claims that a request of our own found gone, until the watch has shown it: an event that is older must
    /// not bring them back.
    gone: HashSet<String>,
}

/// Orders two resource versions where they are numbers, as every API server's are. Anything else is
/// taken as newer, which a later watch event puts right.
fn is_older(a: &str, b: &str) -> bool {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a < b,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

impl Index {
    /// A claim, from a watch (`seen`) or from the answer to a request of this replica.
    pub(super) fn apply_claim(&mut self, table: &Table, claim: Claim, seen: bool) {
        if self.gone.contains(&claim.uid) {
            return;
        }
        let known = self.claims.get(&claim.name);
        let same = known.is_some_and(|known| known.uid == claim.uid);
        if seen && same {
            self.unseen.remove(&claim.name);
        }
        // Of two claims of one name too: all versions of a kind of object are of one counter.
        if known.is_some_and(|known| is_older(&claim.resource_version, &known.resource_version)) {
            return;
        }
        // Deleted and made anew between two events.
        if let Some(old) = known.filter(|_| !same).cloned() {
            self.remove_claim(table, &old.name, &old.uid, seen);
        }
        if !seen && !same {
            self.unseen.insert(claim.name.clone());
        }
        let known = self.claims.get(&claim.name);
        if known.is_none_or(|known| known.renewed != claim.renewed || known.pinned != claim.pinned) {
            let age = SystemTime::now().duration_since(claim.renewed).unwrap_or_default();
            table.entry(&claim.key).renewed(&claim, age);
        }
        let name = claim.name.clone();
        self.claims.insert(name.clone(), Arc::new(claim));
        self.publish(table, &name);
    }

    /// A claim is gone: for the watch whichever it was, for a request of our own the one with `uid`.
    pub(super) fn remove_claim(&mut self, table: &Table, name: &str, uid: &str, seen: bool) {
        if seen {
            // Nothing of it comes after this.
            self.gone.remove(uid);
        }
        let Some(claim) = self.claims.get(name).filter(|claim| claim.uid == uid).cloned() else { return };
        if !seen {
            self.gone.insert(uid.to_owned());
        }
        self.claims.remove(name);
        self.unseen.remove(name);
        table.entry(&claim.key).publish(State::Absent);
        self.close_exits_of(table, name, uid);
        self.traffic.remove(uid);
        table.forget(&claim.key);
    }

    /// All claims that a watch listed anew. Those that this replica made meanwhile stay.
    pub(super) fn replace_claims(&mut self, table: &Table, claims: Vec<Claim>) {
        let listed: HashSet<&str> = claims.iter().map(|claim| claim.uid.as_str()).collect();
        let vanished: Vec<(String, String)> = self
            .claims
            .values()
            .filter(|claim| !listed.contains(claim.uid.as_str()) && !self.unseen.contains(&claim.name))
            .map(|claim| (claim.name.clone(), claim.uid.clone()))
            .collect();
        for (name, uid) in vanished {
            self.remove_claim(table, &name, &uid, true);
        }
        self.gone.clear();
        for claim in claims {
            self.apply_claim(table, claim, true);
        }
    }

    /// A pod, from a watch.
    pub(super) fn apply_pod(&mut self, table: &Table, pod: PodView) {
        if let Some(known) = self.pods.get(&pod.name) {
            if known.uid != pod.uid {
                let (name, uid) = (known.name.clone(), known.uid.clone());
                self.remove_pod(table, &name, &uid);
            } else if known.ready && !pod.ready {
                // Its own word of before no longer holds: it must be asked again.
                self.healthy.remove(&pod.uid);
            }
        }
        if pod.stage == Stage::Ended {
            self.close_exit(table, &pod.uid);
        }
        let claim = pod.binding.as_ref().map(|binding| binding.claim.clone());
        if let Some(claim) = &claim {
            self.pods_of.entry(claim.clone()).or_default().insert(pod.name.clone());
            if let Some(user) = &pod.user {
                self.users.insert(user.clone(), pod.name.clone());
            }
        }
        self.pods.insert(pod.name.clone(), Arc::new(pod));
        if let Some(claim) = claim {
            self.publish(table, &claim);
            table.logins_changed.notify_waiters();
        }
    }

    /// A pod is gone.
    pub(super) fn remove_pod(&mut self, table: &Table, name: &str, uid: &str) {
        let Some(pod) = self.pods.get(name).filter(|pod| pod.uid == uid).cloned() else { return };
        self.pods.remove(name);
        self.healthy.remove(uid);
        self.condemned.remove(uid);
        self.destroyed.remove(uid);
        if let Some(user) = pod.user.as_ref().filter(|user| self.users.get(*user).is_some_and(|n| n == name))
        {
            self.users.remove(user);
        }
        self.close_exit(table, uid);
        if let Some(binding) = &pod.binding {
            if let Some(names) = self.pods_of.get_mut(&binding.claim) {
                names.remove(name);
                if names.is_empty() {
                    self.pods_of.remove(&binding.claim);
                }
            }
            self.publish(table, &binding.claim);
        }
    }

    /// All pods that a watch listed anew.
    pub(super) fn replace_pods(&mut self, table: &Table, pods: Vec<PodView>) {
        let listed: HashSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        let vanished: Vec<(String, String)> = self
            .pods
            .values()
            .filter(|pod| !listed.contains(pod.uid.as_str()))
            .map(|pod| (pod.name.clone(), pod.uid.clone()))
            .collect();
        self.destroyed.retain(|uid| listed.contains(uid.as_str()));
        for (name, uid) in vanished {
            self.remove_pod(table, &name, &uid);
        }
        for pod in pods {
            self.apply_pod(table, pod);
        }
    }

    /// The pod's health server has said 200.
    pub(super) fn mark_healthy(&mut self, table: &Table, pod: &PodView) {
        if self.pods.get(&pod.name).is_none_or(|known| known.uid != pod.uid) {
            return;
        }
        self.healthy.insert(pod.uid.clone());
        if let Some(binding) = &pod.binding {
            self.publish(table, &binding.claim);
        }
    }

    /// The exit is not to be used by new requests any more.
    pub(super) fn condemn(&mut self, table: &Table, exit: &Exit, fault: Fault) {
        let Some(pod) = self.pods.get(&*exit.pod).filter(|pod| *pod.uid == *exit.uid).cloned() else {
            return;
        };
        self.condemned.insert(pod.uid.clone(), fault);
        self.healthy.remove(&pod.uid);
        if let Some(binding) = &pod.binding {
            self.publish(table, &binding.claim);
        }
    }

    /// This replica has destroyed the pod: nothing uses it or tells of it from now on.
    pub(super) fn mark_destroyed(&mut self, table: &Table, name: &str, uid: &str) {
        self.close_exit(table, uid);
        // Also one that the watch has yet to show.
        self.destroyed.insert(uid.to_owned());
        let Some(pod) = self.pods.get(name).filter(|pod| pod.uid == uid).cloned() else { return };
        self.condemned.insert(pod.uid.clone(), Fault::Unreachable);
        if let Some(binding) = &pod.binding {
            self.publish(table, &binding.claim);
        }
    }

    /// Whether a watch has shown the claim since this replica made it.
    pub(super) fn is_seen(&self, name: &str) -> bool {
        !self.unseen.contains(name)
    }

    /// Every pod of ours.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.pods.values()
    }

    /// The pod of that name.
    pub(super) fn pod(&self, name: &str) -> Option<&Arc<PodView>> {
        self.pods.get(name)
    }

    /// Whether the pod is ending, by its own word or because this replica has destroyed it.
    pub(super) fn is_ending(&self, pod: &PodView) -> bool {
        pod.stage == Stage::Terminating || self.destroyed.contains(&pod.uid)
    }

    /// Whether the claim has gone on to a newer exit than this pod.
    pub(super) fn is_superseded(&self, binding: &Binding) -> bool {
        self.claims
            .get(&binding.claim)
            .is_some_and(|claim| claim.uid == binding.claim_uid && claim.transition > binding.transition)
    }

    /// The pod with these credentials, if all that it lacks is that this replica has seen it healthy:
    /// another replica may have, long before the kubelet says so.
    pub(super) fn unproven(&self, user: &str, password: &Secret) -> Option<Arc<PodView>> {
        let pod = self.pods.get(self.users.get(user)?)?;
        let good = pod.password.as_ref().is_some_and(|known| known == password);
        let may_be = pod.stage == Stage::Running
            && pod.ip.is_some()
            && !self.condemned.contains_key(&pod.uid)
            && !self.is_usable(pod);
        (good && may_be).then(|| Arc::clone(pod))
    }

    /// How many claims there are.
    pub(super) fn claims(&self) -> usize {
        self.claims.len()
    }

    /// Older exits of a claim that still have tunnels here, by transition.
    pub(super) fn draining(&self, claim: &Claim) -> Vec<i32> {
        self.bound_pods(claim)
            .filter_map(|pod| self.exits.get(&pod.uid))
            .filter(|exit| exit.transition < claim.transition && exit.active() > 0)
            .map(|exit| exit.transition)
            .collect()
    }

    /// Every claim.
    pub(super) fn claim_values(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.claims.values()
    }

    /// The claim of that name.
    pub(super) fn claim(&self, name: &str) -> Option<&Arc<Claim>> {
        self.claims.get(name)
    }

    /// The pods that serve no claim that is there, save for those that are ending.
    pub(super) fn unclaimed(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.pods.values().filter(|pod| self.is_unclaimed(pod))
    }

    /// Whether the pod serves no claim that is there, and is not ending.
    pub(super) fn is_unclaimed(&self, pod: &PodView) -> bool {
        let claim = pod.binding.as_ref().and_then(|b| Some((b, self.claims.get(&b.claim)?)));
        !self.is_ending(pod) && claim.is_none_or(|(binding, claim)| claim.uid != binding.claim_uid)
    }

    /// The pods of a claim, older ones included, save for those that are ending.
    pub(super) fn pods_of<'a>(&'a self, claim: &'a Claim) -> impl Iterator<Item = &'a Arc<PodView>> {
        self.bound_pods(claim).filter(|pod| !self.is_ending(pod))
    }

    /// Bytes of a claim towards its exits and towards clients.
    pub(super) fn traffic(&self, claim_uid: &str) -> (u64, u64) {
        self.traffic.get(claim_uid).map_or((0, 0), |traffic| traffic.get())
    }

    fn bound_pods<'a>(&'a self, claim: &'a Claim) -> impl Iterator<Item = &'a Arc<PodView>> {
        self.pods_of
            .get(&claim.name)
            .into_iter()
            .flatten()
            .filter_map(|name| self.pods.get(name))
            .filter(|pod| pod.binding.as_ref().is_some_and(|binding| binding.claim_uid == claim.uid))
    }

    fn is_usable(&self, pod: &PodView) -> bool {
        (pod.ready || self.healthy.contains(&pod.uid))
            && matches!(pod.stage, Stage::Pending | Stage::Running)
            && pod.ip.is_some()
            && !self.condemned.contains_key(&pod.uid)
    }

    /// Works out what is known of a session, and tells those who wait for it.
    fn publish(&mut self, table: &Table, name: &str) {
        let Some(claim) = self.claims.get(name).cloned() else { return };
        let entry = table.entry(&claim.key);
        // The newest pod serves; older ones only drain. A pod of a later transition than the claim's
        // proves that the claim lags, since the leader counts on before it creates.
        let newest = self
            .bound_pods(&claim)
            .filter_map(|pod| Some((pod.binding.as_ref()?.transition, pod)))
            .filter(|(transition, _)| *transition >= claim.transition)
            .max_by_key(|(transition, _)| *transition)
            .map(|(_, pod)| Arc::clone(pod));
        let transition = |pod: &PodView| pod.binding.as_ref().map(|binding| binding.transition);
        let word = |pod: &PodView| {
            claim.replace.as_ref().filter(|word| transition(pod) == Some(word.transition)).map(|w| &*w.why)
        };
        if let Some(exit) = newest
            .as_ref()
            .and_then(|pod| self.exits.get(&pod.uid).filter(|_| word(pod) == Some(Fault::Dead.as_str())))
        {
            // Another replica has found out: nobody here need ask again.
            exit.dead.cancel();
        }
        // The address of a strict session must not change once a client has had it. So a client gets it only
        // when the claim says so: what the claim does not say, nobody has had.
        let strict = claim.key.mode == Mode::Strict;
        let told = |pod: &PodView| !strict || claim.ready.is_some() && claim.ready == transition(pod);
        let lost = strict
            && newest.as_ref().is_some_and(|pod| {
                self.condemned.contains_key(&pod.uid) || word(pod).is_some_and(|why| why != EXPIRED)
            });
        let exit = newest
            .as_ref()
            .filter(|pod| self.is_usable(pod) && word(pod).is_none() && told(pod))
            .cloned()
            .and_then(|pod| self.exit(table, &claim.key, &pod));
        let reason = claim.reason.clone().filter(|reason| reason.transition == claim.transition);
        let state = match (exit, reason) {
            (Some(exit), _) => State::Ready { claim, exit },
            // The leader is about to say so too.
            (None, None) if lost => State::Lost { claim },
            (None, Some(reason)) => match reason.kind {
                ReasonKind::Rejected => State::Rejected { claim, reason },
                ReasonKind::Lost => State::Lost { claim },
                ReasonKind::Waiting | ReasonKind::Retrying => State::Waiting { claim, pod: newest },
            },
            (None, None) => State::Waiting { claim, pod: newest },
        };
        entry.publish(state);
    }

    /// The exit of a pod that has an address: the same for as long as the pod lives.
    fn exit(&mut self, table: &Table, key: &SessionKey, pod: &PodView) -> Option<Arc<Exit>> {
        if let Some(exit) = self.exits.get(&pod.uid) {
            return Some(Arc::clone(exit));
        }
        let binding = pod.binding.as_ref()?;
        let (ip, user, password) = (pod.ip?, pod.user.as_deref()?, pod.password.as_ref()?);
        let credentials = STANDARD.encode(format!("{user}:{}", password.expose()));
        let exit = Arc::new(Exit {
            pod: pod.name.as_str().into(),
            uid: pod.uid.as_str().into(),
            key: key.clone(),
            user: user.into(),
            claim_uid: binding.claim_uid.as_str().into(),
            transition: binding.transition,
            proxy_addr: SocketAddr::new(ip, PROXY_PORT),
            health_addr: SocketAddr::new(ip, HEALTH_PORT),
            authorization: Secret::from(format!("Basic {credentials}")),
            server: pod.server.as_deref().unwrap_or_default().into(),
            country: pod.country.as_str().into(),
            city: pod.city.as_str().into(),
            gone: CancellationToken::new(),
            dead: CancellationToken::new(),
            active: AtomicUsize::new(0),
            traffic: Arc::clone(self.traffic.entry(binding.claim_uid.clone()).or_default()),
            reached_check: AtomicBool::new(false),
        });
        self.exits.insert(pod.uid.clone(), Arc::clone(&exit));
        table
            .log_in(user, PodLogin { key: key.clone(), exit: Arc::clone(&exit), password: password.clone() });
        Some(exit)
    }

    fn close_exit(&mut self, table: &Table, uid: &str) {
        if let Some(exit) = self.exits.remove(uid) {
            exit.gone.cancel();
            table.log_out(&exit);
        }
    }

    /// The claim is gone, and its pods are about to go: their tunnels end now, not when the kernel of a
    /// vanished pod fails to answer.
    fn close_exits_of(&mut self, table: &Table, claim: &str, uid: &str) {
        let names = self.pods_of.get(claim).into_iter().flatten();
        let pods = names.filter_map(|name| self.pods.get(name));
        let bound = pods.filter(|pod| pod.binding.as_ref().is_some_and(|binding| binding.claim_uid == uid));
        let uids: Vec<String> = bound.map(|pod| pod.uid.clone()).collect();
        tracing::debug!(claim, pods = uids.len(), "claim is gone");
        for uid in uids {
            self.close_exit(table, &uid);
        }
    }
}

#[cfg(test)]
impl Index {
    /// Claims that are known to be gone and that the watch has not shown to be.
    pub(super) fn gone(&self) -> usize {
        self.gone.len()
    }
}
