//! The rules for a claim's older exits: they serve the tunnels that are open on them, and no new ones.

use std::sync::Arc;
use std::time::Duration;

use super::Plan;
use crate::controller::action::{LostWhy, PodEnd};
use crate::controller::brain::{Brain, attempts};
use crate::controller::facts::PodFacts;
use crate::controller::snapshot::Exits;
use crate::session::claim::Claim;
use crate::session::pod::Stage;

/// How long nobody must have told of tunnels on an older exit that the session's own next one waits for.
/// Replicas tell of them each 3 s meanwhile (`session::renewal`), so this outlasts two tellings that fail.
const QUIET: Duration = Duration::from_secs(10);

impl Brain {
    /// Deletes the older exits of a claim whose time is over: by who waits for what such an exit may hold,
    /// room below the limit, or its server.
    pub(super) fn plan_older(&mut self, claim: &Arc<Claim>, exits: &Exits, plan: &mut Plan) {
        if let Some(seen) = self.seen.claims.get_mut(&claim.uid) {
            match self.found.pressed.contains(&claim.uid) {
                true => _ = seen.pressing.get_or_insert(plan.now.mono),
                false => seen.pressing = None,
            }
        }
        let older: Vec<_> = exits.older(claim).map(|(t, pod)| (t, Arc::clone(pod))).collect();
        let mut draining = false;
        for (transition, pod) in older {
            if let Some(seen) = self.seen.pods.get_mut(&pod.view.uid) {
                seen.older.get_or_insert(plan.now.mono);
            }
            // Each failed start of the present row has had a transition of its own.
            let failed = i64::from(claim.transition) - i64::from(transition) <= i64::from(attempts(claim).0);
            let why = if failed {
                Some(PodEnd::Failed)
            } else if pod.view.stage == Stage::Ended {
                Some(PodEnd::Ended)
            } else if std::mem::replace(&mut draining, true) {
                Some(PodEnd::Superseded)
            } else {
                self.end_of_draining(claim, transition, &pod, plan)
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
        plan: &mut Plan,
    ) -> Option<PodEnd> {
        let waiting = &self.found.pressed;
        let seen = self.seen.pods.get(&pod.view.uid)?;
        let since = seen.older.unwrap_or(plan.now.mono);
        let word = claim.replace.as_ref().filter(|word| word.transition == transition);
        let expired = word.is_some_and(|word| LostWhy::parse(&word.why) == LostWhy::Expired);
        let own = waiting.contains(&claim.uid);
        // Its tunnels may go on for as long as they like, with three exceptions. Gluetun has said that its VPN
        // is down: it dials anew, and no connection of before survives that.
        if !pod.view.ready
            && plan.due(seen.unhealthy.map_or(since, |down| down.max(since)) + self.settings.drain)
        {
            return Some(PodEnd::DrainTimeout);
        }
        // Another session waits for its room or its server. Or its own does, which must not wait for tunnels
        // that may hang for ever; but at the end of a `ttl` it waits for the last of them.
        let pressed = waiting.len() > usize::from(own) || (own && !expired);
        if pressed && plan.due(since + self.settings.drain) {
            return Some(PodEnd::DrainTimeout);
        }
        let of_claim = self.seen.claims.get(&claim.uid);
        let renewed = of_claim.and_then(|seen| seen.older_renewed(transition));
        let last = renewed.map_or(since, |renewed| renewed.max(since));
        let quiet = last + claim.duration / 2;
        // Sooner where replicas tell often, hence counted from when they began to.
        let pressing = of_claim.and_then(|seen| seen.pressing);
        let quiet = pressing.map_or(quiet, |pressing| quiet.min(last.max(pressing) + QUIET));
        plan.due(quiet).then_some(PodEnd::Drained)
    }
}
