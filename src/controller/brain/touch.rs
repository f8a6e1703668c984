//! Who is to be looked at again after what has happened: each event and each result touches the claims
//! that it is about, and those who wait for a pod where it may matter to them.

use std::sync::Arc;

use super::Brain;
use crate::controller::action::Action;
use crate::controller::agenda::Unit;
use crate::controller::facts::{ClaimRecord, PodFacts};

impl Brain {
    /// Something has changed for a claim; `matters` as [`Agenda::touch`] has it.
    pub(super) fn touch_record(&mut self, record: &ClaimRecord, matters: bool) {
        self.agenda.touch(Unit::new(&record.name, &record.uid), matters);
        if matters {
            self.agenda.touch_queue();
        }
    }

    /// Something has changed for the claim that a pod serves.
    pub(super) fn touch_claim_of(&mut self, pod: &PodFacts) {
        if let Some(binding) = &pod.view.binding {
            self.agenda.touch(Unit::new(&binding.claim, &binding.claim_uid), true);
        }
    }

    /// Something has changed for the claim of a pod's creation, if one is on its way.
    pub(super) fn touch_creation(&mut self, pod: &str) {
        if let Some(claim) = self.writes.claim_of_creation(pod) {
            self.agenda.touch(Unit::of(claim), true);
            self.agenda.touch_queue();
        }
    }

    /// Something has changed for the claim of the pod of that name.
    pub(super) fn touch_pod(&mut self, pod: &str) {
        if let Some(pod) = self.snapshot.pod(pod).map(Arc::clone) {
            self.touch_claim_of(&pod);
        }
    }

    /// Whom the end of an action concerns.
    pub(super) fn touch_action(&mut self, action: &Action) {
        match action {
            Action::CreatePod(new) => {
                self.agenda.touch(Unit::of(&new.claim), true);
                self.agenda.touch_queue();
            }
            Action::FindPod { name } => self.touch_creation(name),
            Action::DeletePod { name, .. } => self.touch_pod(name),
            Action::PatchClaim { claim, .. } | Action::DeleteClaim { claim, .. } => {
                self.agenda.touch(Unit::of(claim), true);
                self.agenda.touch_queue();
            }
            Action::FindClaim { name, uid } => self.agenda.touch(Unit::new(name, uid), true),
            Action::ReadLog { pod, .. } | Action::ReadWarning { pod, .. } => self.touch_pod(pod),
        }
    }
}
