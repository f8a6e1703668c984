//! One round of planning: every unit of the agenda by itself, then those who wait for a pod together, then
//! the older exits, whose time depends on who waits. Each notes when the time alone will change something
//! for it, so that a round without anything to look at costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{BLAMED, FORGET, Plan};
use crate::controller::action::{Action, Now};
use crate::controller::agenda::Unit;
use crate::controller::brain::Brain;
use crate::controller::snapshot::Exits;
use crate::controller::writes::Held;
use crate::session::claim::{Claim, ReasonKind};

/// Claims with their pods, whose older exits are to be looked at.
type Draining = BTreeMap<Unit, (Arc<Claim>, Exits)>;

impl Brain {
    /// What to do now. Whatever it says is taken note of as being on its way, so each action must either
    /// be carried out and its result given to [`Brain::on_result`], or this leader must end.
    pub(in crate::controller) fn plan(&mut self, now: Now) -> Plan {
        let mut plan = Plan::new(now);
        if !self.snapshot.is_complete() {
            return plan;
        }
        self.forget(now.mono);
        if self.agenda.takes_all(now) {
            self.touch_everything();
        }
        if self.writes.free_places(now.mono) {
            self.agenda.touch_queue();
        }
        let mut draining = Draining::new();
        loop {
            for (unit, matters) in self.agenda.take(now.mono) {
                self.plan_unit(unit, matters, &mut draining, &mut plan);
            }
            // A rest between starts has begun or ended: that is something to all who are told of one.
            if !self.backoffs.take_changed() {
                break;
            }
            self.agenda.touch_queue();
            for unit in &self.found.rejected {
                self.agenda.touch(unit.clone(), false);
            }
        }
        if self.agenda.takes_queue(now.mono) {
            self.plan_waiting(&mut draining, &mut plan);
        }
        for (unit, (claim, exits)) in &draining {
            plan.wake = None;
            self.plan_older(claim, exits, &mut plan);
            self.agenda.wake_by(unit, plan.wake);
        }
        plan.wake = self.agenda.next();
        self.look_for_creations(&mut plan);
        plan
    }

    /// The rules for one unit, save for its older exits: whose turn that is, is noted in `draining`.
    fn plan_unit(&mut self, unit: Unit, matters: bool, draining: &mut Draining, plan: &mut Plan) {
        plan.wake = None;
        let claim = self.snapshot.claim(&unit.claim, &unit.uid).map(Arc::clone);
        let exits = self.snapshot.exits(&unit.uid).cloned().unwrap_or_default();
        self.note_kind(&unit, claim.as_deref(), &exits);
        let waits = match &claim {
            None => {
                self.sweep(&unit.uid, &exits, plan);
                false
            }
            Some(_) if self.writes.is_gone(&unit.uid) => {
                self.delete_orphans(&exits, plan);
                false
            }
            Some(claim) => match self.writes.claims.state(&unit.uid, plan.now.mono) {
                Held::Note(until) => {
                    plan.wake_at(until);
                    // Only its place in the queue matters meanwhile.
                    self.waits(claim, &exits, plan)
                }
                Held::Busy(until) => {
                    plan.wake_at(until);
                    false
                }
                Held::Free if exits.is_ahead_of(claim) => false,
                Held::Free => {
                    let waits = self.plan_claim(claim, &exits, plan);
                    if exits.older(claim).next().is_some() {
                        draining.insert(unit.clone(), (Arc::clone(claim), exits));
                    }
                    waits
                }
            },
        };
        self.agenda.set_wake(&unit, plan.wake);
        let waited = match claim.filter(|_| waits) {
            Some(claim) => self.found.waiting.insert(unit, claim).is_some(),
            None => self.found.waiting.remove(&unit).is_some(),
        };
        if waited != waits || (waits && matters) {
            self.agenda.touch_queue();
        }
    }

    /// Notes what of a unit others may be concerned with later.
    fn note_kind(&mut self, unit: &Unit, claim: Option<&Claim>, exits: &Exits) {
        let rejected = claim
            .and_then(|claim| claim.reason.as_ref())
            .is_some_and(|reason| reason.kind == ReasonKind::Rejected);
        let draining = claim.is_some_and(|claim| exits.older(claim).next().is_some());
        for (holds, units) in [(rejected, &mut self.found.rejected), (draining, &mut self.found.draining)] {
            if !holds {
                units.remove(unit);
            } else if !units.contains(unit) {
                units.insert(unit.clone());
            }
        }
    }

    /// The rules for those who wait for a pod; and whose older exits must be looked at for what came of it.
    fn plan_waiting(&mut self, draining: &mut Draining, plan: &mut Plan) {
        plan.wake = None;
        // Before the queue begins to write to them.
        let others: Draining = self
            .found
            .draining
            .iter()
            .filter(|unit| !draining.contains_key(unit))
            .filter_map(|unit| Some((unit.clone(), self.unheld(unit, plan.now.mono)?)))
            .collect();
        let planned = plan.actions.len();
        let queue = self.found.waiting.values().map(Arc::clone).collect();
        let pressed = self.plan_queue(queue, plan);
        self.agenda.set_queue_wake(plan.wake);
        for action in &plan.actions[planned..] {
            // What it is now is seen next time, before the queue is gone through again.
            if let Action::PatchClaim { claim, .. } = action {
                self.agenda.touch(Unit::of(claim), true);
            } else if let Action::CreatePod(new) = action {
                self.agenda.touch(Unit::of(&new.claim), true);
            }
        }
        if pressed != self.found.pressed {
            self.found.pressed = pressed;
            draining.extend(others);
        }
    }

    /// A claim with its pods, if something may be decided about it.
    fn unheld(&self, unit: &Unit, now: Duration) -> Option<(Arc<Claim>, Exits)> {
        let claim = self.snapshot.claim(&unit.claim, &unit.uid)?;
        let exits = self.snapshot.exits(&unit.uid)?;
        let free = !self.writes.is_gone(&unit.uid)
            && self.writes.claims.state(&unit.uid, now) == Held::Free
            && !exits.is_ahead_of(claim);
        free.then(|| (Arc::clone(claim), exits.clone()))
    }

    /// Everything is to be looked at.
    fn touch_everything(&mut self) {
        for record in self.snapshot.records() {
            self.agenda.touch(Unit::new(&record.name, &record.uid), true);
        }
        for binding in self.snapshot.pods().filter_map(|pod| pod.view.binding.as_ref()) {
            self.agenda.touch(Unit::new(&binding.claim, &binding.claim_uid), true);
        }
        self.agenda.touch_queue();
    }

    fn look_for_creations(&mut self, plan: &mut Plan) {
        let (due, next) = self.writes.due(plan.now.mono);
        plan.wake_at(next);
        for name in due {
            self.writes.looking(&name);
            plan.actions.push(Action::FindPod { name });
        }
    }

    /// Drops what no longer matters, now and then.
    fn forget(&mut self, now: Duration) {
        if now < self.forget_at {
            return;
        }
        self.forget_at = now + FORGET;
        self.blamed.retain(|_, since| *since + BLAMED > now);
        self.backoffs.forget(now);
        let snapshot = &self.snapshot;
        self.writes.prune(now, |name, uid| snapshot.has_claim(name, uid) || snapshot.exits(uid).is_some());
        self.policy.prune(|owner| snapshot.owns_any(owner));
    }
}
