//! What happens to a session's start while a request waits for it, told step by step: for the record of a
//! request that fails, so that whoever looks for the reason sees how far the start came.

use super::claim::Reason;
use super::entry::{ControlError, State};
use super::pod::Stage;

/// A step of a start, as those who wait for it see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The session has a claim.
    Claimed,
    /// The leader has said why there is no exit yet.
    Told {
        /// Its code.
        code: String,
        /// Its sentence.
        message: String,
    },
    /// The session has a pod.
    PodCreated {
        /// Its name.
        pod: String,
        /// Hostname of its VPN server.
        server: String,
    },
    /// The pod's container runs.
    PodRunning,
    /// The pod is gone, or is not the session's any more.
    PodGone,
    /// The exit can be used.
    Ready {
        /// Name of the pod.
        pod: String,
        /// Hostname of its VPN server.
        server: String,
    },
    /// The Kubernetes API refused a request for the session, or did not answer.
    KubernetesFailed,
}

/// What one request has been told so far.
#[derive(Debug, Default)]
pub(super) struct Follow {
    claim: Option<String>,
    pod: Option<String>,
    running: bool,
    reason: Option<Reason>,
    failed: bool,
}

impl Follow {
    /// Tells what is new in `state`.
    pub(super) fn see(
        &mut self,
        state: &State,
        control: Option<&ControlError>,
        tell: &mut dyn FnMut(Progress),
    ) {
        if control.is_some() && !self.failed {
            tell(Progress::KubernetesFailed);
        }
        self.failed = control.is_some();
        let Some(claim) = state.claim() else {
            if self.pod.take().is_some() {
                tell(Progress::PodGone);
            }
            *self = Self { failed: self.failed, ..Self::default() };
            return;
        };
        if self.claim.as_ref() != Some(&claim.uid) {
            self.claim = Some(claim.uid.clone());
            tell(Progress::Claimed);
        }
        if let Some(reason) = claim.reason.as_ref().filter(|reason| reason.transition == claim.transition)
            && self.reason.as_ref() != Some(reason)
        {
            self.reason = Some(reason.clone());
            tell(Progress::Told { code: reason.code.clone(), message: reason.message.clone() });
        }
        match state {
            State::Waiting { pod: Some(pod), .. } => {
                if self.pod.as_ref() != Some(&pod.uid) {
                    self.pod = Some(pod.uid.clone());
                    self.running = false;
                    let server = pod.server.clone().unwrap_or_default();
                    tell(Progress::PodCreated { pod: pod.name.clone(), server });
                }
                if pod.stage == Stage::Running && !self.running {
                    self.running = true;
                    tell(Progress::PodRunning);
                }
            }
            State::Ready { exit, .. } => {
                tell(Progress::Ready { pod: exit.pod.to_string(), server: exit.server.to_string() });
            }
            State::Absent
            | State::Waiting { pod: None, .. }
            | State::Rejected { .. }
            | State::Lost { .. } => {
                if self.pod.take().is_some() {
                    tell(Progress::PodGone);
                }
            }
        }
    }
}
