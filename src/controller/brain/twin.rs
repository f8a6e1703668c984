//! Holds that a plan for those for whom something has changed is the plan for everything: the model and the
//! tests of the rules plan by this.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Brain;
use crate::controller::action::Now;
use crate::controller::plan::Plan;
use crate::session::pod::PodState;

impl Brain {
    fn recount(&self, state: PodState) -> i64 {
        i64::try_from(self.snapshot.pods().filter(|pod| self.state_of(pod) == state).count()).unwrap()
    }

    /// Plans, and holds that a plan for everything there is comes to the same: nobody was forgotten.
    pub(in crate::controller) fn plan_and_compare(&mut self, now: Now) -> Result<Plan, String> {
        let seed = self.rng.random();
        self.rng = StdRng::seed_from_u64(seed);
        let mut other = Self {
            settings: self.settings,
            catalogue: Arc::clone(&self.catalogue),
            rng: StdRng::seed_from_u64(seed),
            snapshot: self.snapshot.clone(),
            seen: self.seen.clone(),
            writes: self.writes.clone(),
            policy: self.policy.clone(),
            blamed: self.blamed.clone(),
            backoffs: self.backoffs.clone(),
            quota: self.quota,
            unreadable: self.unreadable.clone(),
            forget_at: self.forget_at,
            agenda: self.agenda.clone(),
            found: self.found.clone(),
            census: self.census.clone(),
            stories: Vec::new(),
        };
        other.agenda.touch_all();
        let (mine, all) = (self.plan(now), other.plan(now));
        let [m, a] = [&mine, &all].map(|plan| {
            let mut actions: Vec<_> = plan.actions.iter().map(|action| format!("{action:?}")).collect();
            // Whose turn comes first is nothing to others.
            actions.sort_unstable();
            actions
        });
        // Sooner does no harm.
        let late = all.wake.is_some_and(|at| mine.wake.is_none_or(|mine| mine > at));
        if m != a {
            Err(format!("a plan of what has changed: {m:#?}\na plan of everything: {a:#?}"))
        } else if late {
            Err(format!(
                "a plan of what has changed wakes at {:?}, of everything at {:?}",
                mine.wake, all.wake
            ))
        } else if let Some(what) = self.snapshot.inconsistency() {
            Err(format!("what is known of all pods together is wrong: {what}"))
        } else if let Some(state) = PodState::ALL.into_iter().find(|s| self.census.of(*s) != self.recount(*s))
        {
            Err(format!("pods that are {}: {} counted", state.as_str(), self.census.of(state)))
        } else {
            Ok(mine)
        }
    }
}
