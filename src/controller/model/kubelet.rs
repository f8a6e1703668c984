//! The model's kubelet: what becomes of pods, good and bad.

use rand::RngExt;

use super::world::{Event, World};
use crate::controller::facts::{Ended, Why};
use crate::session::pod::Stage;

/// A step in a pod's life.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Its container runs.
    Run,
    /// Its VPN is up.
    Up,
    /// The kubelet says Ready.
    Ready,
    /// Its tunnel turns out to be silent.
    Silent,
    /// Its container ends.
    End { oom: bool },
    /// Its phase becomes Failed, a while after.
    Finish,
    /// It is evicted.
    Evict,
    /// No node takes it.
    Unschedulable,
    /// Its image cannot be pulled.
    NoImage,
    /// It stops working; nothing tells but its health.
    Break,
    /// It works again.
    Heal,
    /// Somebody deletes it.
    DeleteByHand,
    /// Its object is gone.
    Gone,
}

impl World {
    /// Decides a new pod's fate.
    pub(super) fn start_pod(&mut self, uid: &str) {
        let run = self.millis(100, 900);
        let up = run + self.millis(200, 900);
        let ready = up + self.millis(50, 1200);
        let bad = if self.is_calm() { 0.1 } else { 0.35 };
        let mut steps = Vec::new();
        if self.chance(bad) {
            let later = run + self.millis(300, 5000);
            match self.rng.random_range(0..9) {
                // Runs, and is never healthy.
                0 => steps.push((run, Step::Run)),
                1 => steps.extend([(run, Step::Run), (run + self.millis(6000, 7000), Step::Silent)]),
                2 => steps.extend([(run, Step::Run), (later, Step::End { oom: false })]),
                3 => steps.extend([(run, Step::Run), (later, Step::End { oom: true })]),
                4 => steps.push((run, Step::Unschedulable)),
                5 => steps.push((run, Step::NoImage)),
                6 => steps.extend([(run, Step::Run), (later, Step::Evict)]),
                7 => steps.extend([(run, Step::Run), (later, Step::DeleteByHand)]),
                // Never runs; in a calm world nobody is to wait for as long as that takes to notice.
                _ if self.is_calm() => steps.push((run, Step::Run)),
                _ => {}
            }
        } else {
            steps.extend([(run, Step::Run), (up, Step::Up), (ready, Step::Ready)]);
            let end = ready + self.millis(1000, 120_000);
            if !self.is_calm() && self.chance(0.5) {
                match self.rng.random_range(0..5) {
                    0 => steps.push((end, Step::End { oom: true })),
                    1 => steps.push((end, Step::Evict)),
                    2 => steps.push((end, Step::DeleteByHand)),
                    3 => steps.push((end, Step::Break)),
                    _ => steps.extend([(end, Step::Break), (end + self.millis(500, 25_000), Step::Heal)]),
                }
            }
        }
        for (wait, step) in steps {
            self.after(wait, Event::Pod { uid: uid.to_owned(), step });
        }
    }

    pub(super) fn pod_step(&mut self, uid: &str, step: Step) {
        let Some(pod) = self.api.pod_by_uid(uid) else { return };
        let name = pod.facts.view.name.clone();
        let ended = pod.facts.view.stage == Stage::Ended;
        if ended && !matches!(step, Step::Finish | Step::Gone | Step::DeleteByHand) {
            return;
        }
        self.say(|| format!("pod {name} ({uid}): {step:?}"));
        let waiting = |reason: &str| Some(Why { reason: reason.to_owned(), message: String::new() });
        match step {
            Step::Run => self.change_pod(uid, |pod| {
                pod.facts.view.stage = Stage::Running;
                pod.facts.view.ip = Some([10, 0, 0, 1].into());
            }),
            Step::Up => {
                self.change_pod_silently(uid, |healthy, _| *healthy = true);
                self.note_up(uid);
            }
            Step::Silent => self.change_pod_silently(uid, |_, silent| *silent = true),
            Step::Ready | Step::Heal => {
                self.change_pod_silently(uid, |healthy, _| *healthy = true);
                self.note_up(uid);
                self.change_pod(uid, |pod| pod.facts.view.ready = true);
            }
            Step::Break => {
                self.change_pod_silently(uid, |healthy, _| *healthy = false);
                self.change_pod(uid, |pod| pod.facts.view.ready = false);
            }
            Step::End { oom } => {
                self.change_pod_silently(uid, |healthy, _| *healthy = false);
                let reason = if oom { "OOMKilled" } else { "Error" }.to_owned();
                self.change_pod(uid, |pod| {
                    pod.facts.view.stage = Stage::Ended;
                    pod.facts.view.ready = false;
                    pod.facts.ended = Some(Ended { reason, exit_code: 1 });
                });
                let wait = self.millis(1000, 1200);
                self.after(wait, Event::Pod { uid: uid.to_owned(), step: Step::Finish });
            }
            Step::Finish => self.change_pod(uid, |pod| pod.facts.view.finished = true),
            Step::Evict => {
                self.change_pod_silently(uid, |healthy, _| *healthy = false);
                self.change_pod(uid, |pod| {
                    pod.facts.view.stage = Stage::Ended;
                    pod.facts.view.ready = false;
                    pod.facts.view.finished = true;
                    pod.facts.status = Some(Why { reason: "Evicted".to_owned(), message: String::new() });
                });
            }
            Step::Unschedulable => {
                self.change_pod(uid, |pod| pod.facts.unschedulable = waiting("Unschedulable"))
            }
            Step::NoImage => self.change_pod(uid, |pod| pod.facts.waiting = waiting("ErrImagePull")),
            Step::DeleteByHand => self.delete_pod(&name),
            Step::Gone => self.remove_pod(&name),
        }
    }

    /// What no watch shows.
    fn change_pod_silently(&mut self, uid: &str, change: impl FnOnce(&mut bool, &mut bool)) {
        if let Some(pod) = self.api.pods.values_mut().find(|pod| pod.facts.view.uid == uid) {
            change(&mut pod.healthy, &mut pod.silent);
        }
    }
}
