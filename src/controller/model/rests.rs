//! The model's own account of the rests between starts that fail: what claims tell of them, and what has
//! come up since. A leader that knows of one must keep to it, whether it has told it or found it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::leaders::SERVERS;
use super::world::World;
use crate::controller::backoff::LONGEST;
use crate::controller::testing;
use crate::servers::Place;
use crate::session::claim::{Claim, Reason};
use crate::session::failure::code;

/// A rest that a claim tells of.
struct Rest {
    /// Who told it, and in which term.
    leader: usize,
    term: u64,
    /// When.
    told: Duration,
    until: Duration,
    /// The location; none for the whole pool.
    place: Option<Place>,
}

/// All of them, by the claim's uid.
#[derive(Default)]
pub(super) struct Rests {
    told: BTreeMap<String, Rest>,
    /// When exits have come up, and on which servers.
    ups: Vec<(Duration, String)>,
}

impl World {
    /// A claim tells that starts rest.
    pub(super) fn note_rest(&mut self, leader: usize, claim: &Claim, reason: &Reason) {
        let Some(backoff) = reason.backoff.filter(|_| reason.code != code::START_BACKOFF) else { return };
        let wall = self.wall(self.leaders[leader].skew);
        let pause = backoff.until.duration_since(wall).unwrap_or_default();
        if pause > LONGEST {
            self.fail(format!("{} rests for {pause:?}", claim.key));
        }
        self.counts.count("starts rest");
        let place = (!backoff.pool).then(|| claim.key.place.clone());
        let (told, term) = (self.now, self.leaders[leader].term);
        let rest = Rest { leader, term, told, until: told + pause, place };
        self.rests.told.insert(claim.uid.clone(), rest);
    }

    /// An exit has come up.
    pub(super) fn note_up(&mut self, uid: &str) {
        let server = self.api.pod_by_uid(uid).and_then(|pod| pod.facts.view.server.clone());
        self.rests.ups.extend(server.map(|server| (self.now, server)));
    }

    /// A leader starts a claim's pod.
    pub(super) fn check_start(&mut self, leader: usize, claim: &Claim) {
        let (now, place) = (self.now, &claim.key.place);
        let catalogue = testing::catalogue(SERVERS);
        let me = &self.leaders[leader];
        let has = |place: Option<&Place>, server: &str| {
            place.is_none_or(|place| catalogue.candidates(place).any(|s| s.hostname.as_str() == server))
        };
        let mut broken = None;
        let mut kept = false;
        for (uid, rest) in &self.rests.told {
            // It was there when this one listed, and their clocks agree; or it has told it itself.
            let own = rest.leader == leader && rest.term == me.term;
            let found = me.since > rest.told
                && self.leaders[rest.leader].skew == me.skew
                && self.api.claims.values().any(|claim| claim.uid == *uid);
            let covers = rest.place.as_ref().is_none_or(|of| of == place);
            if (!own && !found) || !covers {
                continue;
            }
            let up_since = self.rests.ups.iter().any(|(at, server)| {
                // What its leader learns of it may have come up a moment before.
                *at + Duration::from_secs(15) >= rest.told && has(rest.place.as_ref(), server)
            });
            let up_now = self.api.pods.values().any(|pod| {
                let server = pod.facts.view.server.as_deref().unwrap_or_default();
                pod.ours && pod.healthy && has(rest.place.as_ref(), server)
            });
            if up_since || up_now {
                continue;
            }
            if now < rest.until {
                broken =
                    Some(format!("{uid} tells of a rest until {:?}, and {place:?} is started", rest.until));
            } else if found && !own {
                kept = true;
            }
        }
        if kept {
            self.counts.count("rest kept by another leader");
        }
        if let Some(broken) = broken {
            self.fail(broken);
        }
    }
}
