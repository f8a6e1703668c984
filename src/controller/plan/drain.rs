//! The rules for a claim's older exits: they serve the tunnels that are open on them, and no new ones.

use std::sync::Arc;

use super::{Exits, Plan};
use crate::controller::action::{LostWhy, PodEnd};
use crate::controller::brain::{Brain, attempts};
use crate::controller::facts::PodFacts;
use crate::session::claim::Claim;
use crate::session::pod::Stage;

impl Brain {
    /// Deletes the older exits of a claim whose time is over. `pressed` when the limit is reached and
    /// another session waits for a pod.
    pub(super) fn plan_older(&mut self, claim: &Arc<Claim>, exits: &Exits, pressed: bool, plan: &mut Plan) {
        let older: Vec<_> = exits.older(claim).map(|(t, pod)| (t, Arc::clone(pod))).collect();
        for (place, (transition, pod)) in older.into_iter().enumerate() {
            if let Some(seen) = self.seen.pods.get_mut(&pod.view.uid) {
                seen.older.get_or_insert(plan.now.mono);
            }
            if let Some(why) = self.end_of_older(claim, place, transition, &pod, pressed, plan) {
                self.delete_pod(&pod, why, plan);
            }
        }
    }

    fn end_of_older(
        &self,
        claim: &Claim,
        place: usize,
        transition: i32,
        pod: &PodFacts,
        pressed: bool,
        plan: &mut Plan,
    ) -> Option<PodEnd> {
        // Each failed start of the present row has had a transition of its own.
        let failed = i64::from(claim.transition) - i64::from(transition) <= i64::from(attempts(claim).0);
        if failed || pod.view.stage == Stage::Ended {
            return Some(PodEnd::Failed);
        }
        if place > 0 {
            return Some(PodEnd::Superseded);
        }
        let seen = self.seen.pods.get(&pod.view.uid)?;
        let since = seen.older.unwrap_or(plan.now.mono);
        let word = claim.replace.as_ref().filter(|word| word.transition == transition);
        let word = word.map(|word| LostWhy::parse(&word.why));
        let dead = !pod.view.ready || word.is_some_and(|why| why != LostWhy::Expired);
        if (dead || pressed) && plan.due(since + self.settings.drain) {
            return Some(PodEnd::DrainTimeout);
        }
        let renewed = self.seen.claims.get(&claim.uid).and_then(|seen| seen.older_renewed(transition));
        let quiet = renewed.map_or(since, |renewed| renewed.max(since)) + claim.duration / 2;
        plan.due(quiet).then_some(PodEnd::Drained)
    }
}
