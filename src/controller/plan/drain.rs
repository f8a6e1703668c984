//! The rules for a claim's older exits: they serve the tunnels that are open on them, and no new ones.

use std::sync::Arc;

use super::{Exits, Plan};
use crate::controller::action::{LostWhy, PodEnd};
use crate::controller::brain::{Brain, attempts};
use crate::controller::facts::PodFacts;
use crate::session::claim::Claim;
use crate::session::pod::Stage;

impl Brain {
    /// Deletes the older exits of a claim whose time is over. `pressed` when a session waits for what such
    /// an exit holds: room below the limit, or its server.
    pub(super) fn plan_older(&mut self, claim: &Arc<Claim>, exits: &Exits, pressed: bool, plan: &mut Plan) {
        let older: Vec<_> = exits.older(claim).map(|(t, pod)| (t, Arc::clone(pod))).collect();
        let mut draining = false;
        for (transition, pod) in older {
            if let Some(seen) = self.seen.pods.get_mut(&pod.view.uid) {
                seen.older.get_or_insert(plan.now.mono);
            }
            // Each failed start of the present row has had a transition of its own.
            let failed = i64::from(claim.transition) - i64::from(transition) <= i64::from(attempts(claim).0);
            let why = if failed || pod.view.stage == Stage::Ended {
                Some(PodEnd::Failed)
            } else if std::mem::replace(&mut draining, true) {
                Some(PodEnd::Superseded)
            } else {
                self.end_of_draining(claim, transition, &pod, pressed, plan)
            };
            if let Some(why) = why {
                self.delete_pod(&pod, why, plan);
            }
        }
    }

    fn end_of_draining(
        &self,
        claim: &Claim,
        transition: i32,
        pod: &PodFacts,
        pressed: bool,
        plan: &mut Plan,
    ) -> Option<PodEnd> {
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
