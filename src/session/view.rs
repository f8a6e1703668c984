//! Sessions as the management API tells them: every claim with what has become of it, and every pod that
//! serves none. Read from the index and the table of this replica; asks the cluster nothing.

use std::sync::Arc;
use std::time::Duration;

use super::claim::{self, Claim, Reason};
use super::entry::State;
use super::pod::PodView;
use super::sessions::{Sessions, Shared};

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has a claim and no pod.
    Waiting,
    /// Its pod is on its way.
    Starting,
    /// It has an exit.
    Ready,
    /// The leader has refused it, and its claim is about to go.
    Rejected,
    /// It is strict, and its exit is lost.
    Lost,
}

/// A session.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its claim.
    pub claim: Arc<Claim>,
    /// How far it is.
    pub standing: Standing,
    /// Why it has no exit, where the leader has said so.
    pub reason: Option<Reason>,
    /// Its current pod.
    pub pod: Option<Arc<PodView>>,
    /// Its older pods, which finish their tunnels.
    pub draining: Vec<Arc<PodView>>,
    /// How long nobody has used it: nothing while it is in use here, else as the claim or this replica
    /// knows. Other replicas write their use up to a quarter of the idle timeout late.
    pub idle_for: Duration,
    /// Requests and tunnels of this replica that use an exit of it now.
    pub open: usize,
    /// Requests of this replica that wait for its exit now.
    pub waiting: usize,
    /// Bytes that this replica has relayed for the claim towards its exits.
    pub bytes_up: u64,
    /// The same towards clients.
    pub bytes_down: u64,
}

/// One line of the list.
#[derive(Clone, Debug)]
pub enum Listed {
    /// A session.
    Session(Box<SessionView>),
    /// A pod that serves no claim that is there: made by another system, or left behind by a session that
    /// has ended.
    Pod(Arc<PodView>),
}

impl Listed {
    /// Name of the claim, or of the pod.
    pub fn name(&self) -> &str {
        match self {
            Self::Session(view) => &view.claim.name,
            Self::Pod(pod) => &pod.name,
        }
    }
}

/// A part of the list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order of their names.
    pub items: Vec<Listed>,
    /// How many there are in all.
    pub total: usize,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// What the list is made from, before the views are.
enum Candidate {
    Claim(Arc<Claim>),
    Pod(Arc<PodView>),
}

impl Candidate {
    fn name(&self) -> &str {
        match self {
            Self::Claim(claim) => &claim.name,
            Self::Pod(pod) => &pod.name,
        }
    }
}

impl Sessions {
    /// The sessions and the pods without one, in the order of their names: at most `limit` after the name
    /// `after`. With an account, its sessions only.
    pub fn list(&self, account: Option<&str>, after: Option<&str>, limit: usize) -> Page {
        let index = self.0.index();
        let claims =
            index.claim_values().filter(|claim| account.is_none_or(|a| claim.key.account.as_str() == a));
        let mut all: Vec<Candidate> = claims.cloned().map(Candidate::Claim).collect();
        if account.is_none() {
            all.extend(index.unclaimed().cloned().map(Candidate::Pod));
        }
        drop(index);
        let total = all.len();
        if let Some(after) = after {
            all.retain(|candidate| candidate.name() > after);
        }
        let more = all.len() > limit;
        if more {
            // Only those that are told are put in order: of ten thousand a hundred.
            all.select_nth_unstable_by(limit, |a, b| a.name().cmp(b.name()));
            all.truncate(limit);
        }
        all.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        let items = all.into_iter().map(|candidate| match candidate {
            Candidate::Claim(claim) => Listed::Session(Box::new(view(&self.0, claim))),
            Candidate::Pod(pod) => Listed::Pod(pod),
        });
        Page { items: items.collect(), total, more }
    }

    /// The session whose claim has that name, or the pod without a session that has it.
    pub fn find(&self, name: &str) -> Option<Listed> {
        let index = self.0.index();
        let claim = index.claim(name).cloned();
        let pod = index.pod(name).filter(|pod| index.is_unclaimed(pod)).cloned();
        drop(index);
        match claim {
            Some(claim) => Some(Listed::Session(Box::new(view(&self.0, claim)))),
            None => pod.map(Listed::Pod),
        }
    }
}

fn view(shared: &Shared, claim: Arc<Claim>) -> SessionView {
    let entry = shared.table.get(shared.table.id(&claim.key));
    let state = entry.as_ref().map_or(State::Absent, |entry| entry.state());
    let (mut pods, traffic) = {
        let index = shared.index();
        let pods: Vec<Arc<PodView>> = index.pods_of(&claim).cloned().collect();
        (pods, index.traffic(&claim.uid))
    };
    let current = match &state {
        State::Waiting { pod, .. } => pod.as_ref().map(|pod| pod.name.clone()),
        State::Ready { exit, .. } => Some(exit.pod.to_string()),
        State::Absent | State::Rejected { .. } | State::Lost { .. } => None,
    };
    pods.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let (mut now, draining): (Vec<_>, Vec<_>) =
        pods.into_iter().partition(|pod| current.as_ref() == Some(&pod.name));
    let standing = match &state {
        State::Absent | State::Waiting { pod: None, .. } => Standing::Waiting,
        State::Waiting { pod: Some(_), .. } => Standing::Starting,
        State::Ready { .. } => Standing::Ready,
        State::Rejected { .. } => Standing::Rejected,
        State::Lost { .. } => Standing::Lost,
    };
    let reason = match &state {
        State::Ready { .. } => None,
        State::Absent | State::Waiting { .. } | State::Rejected { .. } | State::Lost { .. } => {
            claim.reason.clone().filter(|reason| reason.transition == claim.transition)
        }
    };
    let told = claim::age(claim.renewed);
    let idle_for = entry.as_ref().and_then(|entry| entry.unused_for()).map_or(told, |here| here.min(told));
    let (bytes_up, bytes_down) = traffic;
    SessionView {
        standing,
        reason,
        pod: now.pop(),
        draining,
        idle_for,
        open: entry.as_ref().map_or(0, |entry| entry.active()),
        waiting: entry.as_ref().map_or(0, |entry| entry.waiters()),
        bytes_up,
        bytes_down,
        claim,
    }
}
