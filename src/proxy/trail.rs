//! The way of a request, step by step with its times: kept while the way to the exit is open, told if it
//! fails, forgotten once it has been gone. A step costs a look at the clock and no lock.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::session::Progress;

/// Most steps that are kept: a request that goes a common way has eight. Of a longer way the middle is
/// left out.
pub(super) const MOST: usize = 24;
/// How many of the first steps are always kept.
const FIRST: usize = 12;
/// Longest detail of a step, in bytes.
pub(super) const MAX_DETAIL: usize = 160;

/// What can happen to a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The password is right.
    Authenticated,
    /// The username is understood, and there is such a place.
    Resolved,
    /// The destination is one that may be asked for.
    Allowed,
    /// The session has an exit.
    ExitFound,
    /// The session has none: the request is held.
    Held,
    /// The session has a claim.
    ClaimSeen,
    /// The leader has said why there is no exit yet.
    Told,
    /// The session has a pod.
    PodCreated,
    /// The pod's container runs.
    PodRunning,
    /// The pod went away.
    PodGone,
    /// The pod's VPN is up.
    ExitReady,
    /// The Kubernetes API refused a request for the session, or did not answer.
    KubernetesFailed,
    /// An idle connection to the destination is used again.
    ConnectionReused,
    /// The exit's proxy is connected to.
    Dialled,
    /// The exit's proxy cannot be connected to.
    DialFailed,
    /// The CONNECT is with the exit.
    ConnectSent,
    /// The exit closed the connection without an answer.
    ExitClosed,
    /// The exit was asked whether its VPN works.
    ExitChecked,
    /// The exit refused the CONNECT.
    Refused,
    /// The tunnel to the destination is open.
    Opened,
    /// The plain HTTP request is on its way to the destination.
    RequestSent,
    /// The destination closed without an answer.
    Unanswered,
    /// The exit is given up, and another one asked for.
    ExitGivenUp,
    /// The request, or its tunnel, ended.
    Ended,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 24] = [
        Self::Authenticated,
        Self::Resolved,
        Self::Allowed,
        Self::ExitFound,
        Self::Held,
        Self::ClaimSeen,
        Self::Told,
        Self::PodCreated,
        Self::PodRunning,
        Self::PodGone,
        Self::ExitReady,
        Self::KubernetesFailed,
        Self::ConnectionReused,
        Self::Dialled,
        Self::DialFailed,
        Self::ConnectSent,
        Self::ExitClosed,
        Self::ExitChecked,
        Self::Refused,
        Self::Opened,
        Self::RequestSent,
        Self::Unanswered,
        Self::ExitGivenUp,
        Self::Ended,
    ];

    /// The step as the API has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authenticated => "authenticated",
            Self::Resolved => "resolved",
            Self::Allowed => "allowed",
            Self::ExitFound => "exit_found",
            Self::Held => "held",
            Self::ClaimSeen => "claim_seen",
            Self::Told => "told",
            Self::PodCreated => "pod_created",
            Self::PodRunning => "pod_running",
            Self::PodGone => "pod_gone",
            Self::ExitReady => "exit_ready",
            Self::KubernetesFailed => "kubernetes_failed",
            Self::ConnectionReused => "connection_reused",
            Self::Dialled => "dialled",
            Self::DialFailed => "dial_failed",
            Self::ConnectSent => "connect_sent",
            Self::ExitClosed => "exit_closed",
            Self::ExitChecked => "exit_checked",
            Self::Refused => "refused",
            Self::Opened => "opened",
            Self::RequestSent => "request_sent",
            Self::Unanswered => "unanswered",
            Self::ExitGivenUp => "exit_given_up",
            Self::Ended => "ended",
        }
    }
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Which.
    pub step: Step,
    /// How long after the request's head was complete.
    pub at: Duration,
    /// More about it.
    pub detail: Option<Box<str>>,
}

/// The steps of one request.
#[derive(Debug)]
pub(super) struct Trail {
    begun: Instant,
    steps: Vec<Noted>,
}

impl Trail {
    /// None yet.
    pub(super) fn new(begun: Instant) -> Self {
        Self { begun, steps: Vec::new() }
    }

    /// When the request's head was complete.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Notes a step.
    pub(super) fn step(&mut self, step: Step) {
        self.push(step, None);
    }

    /// Notes a step that was taken without a wait behind the last one, at the same time: looks at the clock add up.
    pub(super) fn also(&mut self, step: Step) {
        let at = self.steps.last().map_or(Duration::ZERO, |last| last.at);
        self.push_at(step, None, at);
    }

    /// Notes a step with more about it, which is cut where it is long.
    pub(super) fn note(&mut self, step: Step, detail: impl fmt::Display) {
        let mut detail = detail.to_string();
        let end = (0..=MAX_DETAIL.min(detail.len())).rev().find(|at| detail.is_char_boundary(*at));
        detail.truncate(end.unwrap_or_default());
        self.push(step, Some(detail.into_boxed_str()));
    }

    fn push(&mut self, step: Step, detail: Option<Box<str>>) {
        self.push_at(step, detail, self.begun.elapsed());
    }

    fn push_at(&mut self, step: Step, detail: Option<Box<str>>, at: Duration) {
        if self.steps.capacity() == 0 {
            // A common way fits, so that it costs one allocation.
            self.steps.reserve_exact(8);
        }
        if self.steps.len() == MOST {
            self.steps.remove(FIRST);
        }
        self.steps.push(Noted { step, at, detail });
    }

    /// Notes what those who wait for an exit are told.
    pub(super) fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Claimed => self.step(Step::ClaimSeen),
            Progress::Told { code, message } => self.note(Step::Told, format_args!("{code}: {message}")),
            Progress::PodCreated { pod, server } => {
                self.note(Step::PodCreated, format_args!("{pod} on {server}"));
            }
            Progress::PodRunning => self.step(Step::PodRunning),
            Progress::PodGone => self.step(Step::PodGone),
            Progress::Ready { pod, server } => {
                self.note(Step::ExitReady, format_args!("{pod} on {server}"));
            }
            Progress::KubernetesFailed => self.step(Step::KubernetesFailed),
        }
    }

    /// The way is gone and the tunnel open, perhaps for days: it keeps no more than that.
    pub(super) fn opened(&mut self) {
        self.steps = Vec::new();
    }

    /// The steps, with the end as the last.
    pub(super) fn take(&mut self) -> Vec<Noted> {
        self.step(Step::Ended);
        std::mem::take(&mut self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn steps_keep_their_times_and_a_long_way_loses_its_middle() {
        let mut trail = Trail::new(Instant::now());
        trail.step(Step::Authenticated);
        for number in 0..100 {
            tokio::time::advance(Duration::from_millis(10)).await;
            trail.note(Step::DialFailed, number);
        }
        let steps = trail.take();
        assert_eq!(steps.len(), MOST);
        assert_eq!((steps[0].step, steps[0].at), (Step::Authenticated, Duration::ZERO));
        assert_eq!(steps[11].detail.as_deref(), Some("10"));
        assert_eq!(steps[12].detail.as_deref(), Some("89"), "the middle is left out");
        assert_eq!(steps[22].detail.as_deref(), Some("99"));
        assert_eq!((steps[23].step, steps[23].at), (Step::Ended, Duration::from_secs(1)));
    }

    #[test]
    fn details_are_cut_between_characters() {
        let mut trail = Trail::new(Instant::now());
        trail.note(Step::Told, "ö".repeat(1000));
        trail.note(Step::Told, format!("x{}", "ö".repeat(1000)));
        let lengths: Vec<usize> =
            trail.take().iter().filter_map(|noted| Some(noted.detail.as_ref()?.len())).collect();
        assert_eq!(lengths, [160, 159]);
    }

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Step::ALL.iter().map(|step| step.as_str()).collect();
        assert_eq!(names.len(), Step::ALL.len());
    }
}
