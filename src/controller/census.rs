//! How many pods are in which state, for the metric: counted as pods change, since there may be many.

use std::collections::BTreeMap;

use crate::session::pod::PodState;

/// The state of each pod, by its uid, and how many are in each.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Census {
    states: BTreeMap<String, PodState>,
    counts: BTreeMap<PodState, i64>,
}

impl Census {
    /// A pod is in that state.
    pub(super) fn count(&mut self, uid: &str, state: PodState) {
        match self.states.get_mut(uid) {
            Some(before) if *before == state => return,
            Some(before) => {
                let before = std::mem::replace(before, state);
                *self.counts.entry(before).or_default() -= 1;
            }
            None => _ = self.states.insert(uid.to_owned(), state),
        }
        *self.counts.entry(state).or_default() += 1;
    }

    /// A pod is gone.
    pub(super) fn forget(&mut self, uid: &str) {
        if let Some(before) = self.states.remove(uid) {
            *self.counts.entry(before).or_default() -= 1;
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many pods are in that state.
    pub(super) fn of(&self, state: PodState) -> i64 {
        self.counts.get(&state).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_counts_once_by_its_last_state() {
        let mut census = Census::default();
        census.count("a", PodState::Pending);
        census.count("b", PodState::Pending);
        census.count("a", PodState::Ready);
        census.count("a", PodState::Ready);
        assert_eq!((census.of(PodState::Pending), census.of(PodState::Ready)), (1, 1));
        census.forget("a");
        census.forget("a");
        assert_eq!((census.of(PodState::Pending), census.of(PodState::Ready)), (1, 0));
        census.clear();
        assert_eq!(census.of(PodState::Pending), 0);
    }
}
