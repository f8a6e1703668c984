//! What accounts may do: how many sessions, where, and that they end with their account.

use super::*;
use crate::accounts::{Owner, Owners};
use crate::controller::action::LostWhy;
use crate::controller::policy::LAG;
use crate::identity::Account;
use crate::selector::{PlaceRule, PlaceRules};
use crate::session::api::ApiError;

fn account(name: &str) -> Account {
    Account::parse(name).unwrap()
}

fn owner(most: Option<u32>, allow: Option<&str>) -> Owner {
    let allow = allow.map(|place| vec![PlaceRule::parse(place).unwrap()]);
    Owner { max_sessions: most, places: PlaceRules { allow, deny: Vec::new() } }
}

impl Lab {
    fn accounts(&mut self, owners: &[(&str, Owner)], gone: &[(&str, u64)]) {
        let owners = owners.iter().map(|(name, owner)| (account(name), owner.clone())).collect::<Owners>();
        let gone: Vec<_> = gone.iter().map(|(name, ago)| (account(name), s(*ago))).collect();
        let time = self.time();
        self.brain.on_accounts(Arc::new(owners), gone.iter().map(|(name, ago)| (name, *ago)), time);
    }
}

fn later(canonical: &str, seconds: u64) -> Claim {
    changed(&claim(canonical), |claim| claim.created += s(seconds))
}

#[test]
fn the_session_over_the_quota_is_told_at_once_and_nobody_else_waits_for_it() {
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(Some(2), None)), ("b", owner(None, None))], &[]);
    lab.ready("a-session-1");
    lab.see(&later("a-session-2", 1));
    lab.see(&later("a-session-3", 2));
    lab.see(&later("b", 3));
    let actions = lab.plan();
    assert_eq!(actions.len(), 3, "{actions:#?}");
    assert_eq!(created(&actions[0]).0, "a-session-2");
    assert_reason(&actions[1], ReasonKind::Rejected, "account_quota");
    assert_eq!(reason(&actions[1]).message, "max_sessions reached: 2 of 2 sessions of 'a' have an exit");
    assert_eq!(created(&actions[2]).0, "b");
}

#[test]
fn a_session_counts_until_its_pod_is_gone_also_where_nobody_knows_if_there_is_one() {
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(Some(1), None))], &[]);
    let (first, pod) = lab.ready("a-session-1");
    lab.brain.on_claim(Change::Deleted { name: first.name.clone(), uid: first.uid.clone() }, lab.time());
    let mut going = pod.clone();
    going.view.stage = Stage::Terminating;
    lab.see_pod(&going);
    lab.see(&claim("a-session-2"));
    let refused = lab.plan().into_iter().find(|a| matches!(a, Action::PatchClaim { .. })).unwrap();
    assert_reason(&refused, ReasonKind::Rejected, "account_quota");

    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(Some(1), None))], &[]);
    lab.see(&claim("a-session-1"));
    let create = lab.one_at(0);
    lab.end(&create, Err(ApiError::Timeout));
    lab.see(&later("a-session-2", 1));
    let actions = lab.plan();
    let refused = actions.iter().find(|a| matches!(a, Action::PatchClaim { .. })).unwrap();
    assert_reason(refused, ReasonKind::Rejected, "account_quota");
}

#[test]
fn a_session_keeps_its_place_while_its_exit_is_replaced() {
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(Some(1), None))], &[]);
    let (first, pod) = lab.ready("a-session-1");
    lab.see_pod_gone(&pod);
    // Another asks just when the first has no pod.
    lab.see(&later("a-session-2", 1));
    let actions = lab.plan();
    assert_eq!(actions.len(), 2, "{actions:#?}");
    let refused =
        actions.iter().find(|a| matches!(a, Action::PatchClaim { claim, .. } if claim.uid != first.uid));
    assert_reason(refused.unwrap(), ReasonKind::Rejected, "account_quota");
    let next =
        actions.iter().find(|a| matches!(a, Action::PatchClaim { claim, .. } if claim.uid == first.uid));
    lab.end(refused.unwrap(), Err(ApiError::Conflict));
    lab.patched(next.unwrap());
    let actions = lab.plan();
    assert_eq!(created(&actions[0]).0, "a-session-1", "{actions:#?}");
    // A lower limit ends nothing, and gives no other exit.
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(Some(1), None))], &[]);
    lab.ready("a-session-1");
    let (second, pod) = lab.ready("a-session-2");
    assert!(lab.plan().is_empty());
    lab.see_pod_gone(&pod);
    let next = lab.one_at(0);
    assert_next(&next, None);
    lab.patched(&next);
    let refused = lab.one_at(0);
    assert_reason(&refused, ReasonKind::Rejected, "account_quota");
    assert_eq!(second.uid, "a-session-2");
}

#[test]
fn a_request_that_does_not_wait_finds_its_refusal_when_it_comes_again() {
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(Some(0), None))], &[]);
    lab.see(&changed(&claim("a"), |claim| claim.no_wait = true));
    let refused = lab.one_at(0);
    lab.patched(&refused);
    assert!(lab.plan_at(9).is_empty());
    assert_claim_deleted(&lab.one_at(10), false, ClaimEnd::Rejected);
}

#[test]
fn servers_are_chosen_among_the_places_of_the_account() {
    for _ in 0..8 {
        let mut lab = Lab::new(5);
        lab.accounts(&[("a", owner(None, Some("country-no"))), ("b", owner(None, Some("country-se")))], &[]);
        lab.see(&claim("a"));
        assert!(created(&lab.one_at(0)).1.starts_with("no-"));
        lab.see(&later("b-session-1", 1));
        assert!(created(&lab.one_at(0)).1.starts_with("se-"));
    }
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(None, Some("country-no")))], &[]);
    lab.see(&claim("a-country-se"));
    assert_reason(&lab.one_at(0), ReasonKind::Rejected, "location_forbidden");
}

#[test]
fn an_exit_in_a_place_that_is_taken_away_is_replaced() {
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(None, None))], &[]);
    let (claim, pod) = lab.ready("a");
    assert!(lab.plan().is_empty());
    lab.accounts(&[("a", owner(None, Some("country-no")))], &[]);
    let next = lab.one_at(0);
    assert_next(&next, None);
    let claim = Claim { transition: 1, ..claim };
    lab.patched(&next);
    let create = lab.one_at(0);
    assert!(created(&create).1.starts_with("no-"));
    assert_eq!(claim.transition, 1);
    assert_eq!(LostWhy::Forbidden.as_str(), "forbidden");
    assert!(pod.view.is_live(), "its tunnels finish");
}

#[test]
fn the_sessions_of_a_removed_account_end_after_the_drain_and_those_of_others_never() {
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(None, None)), ("team", owner(None, None))], &[]);
    let (_, pod) = lab.ready("a");
    lab.ready("team");
    let mut pinned = claim("_api");
    pinned.pinned = true;
    lab.ready_with(pinned);
    // In use, so that nothing of them is idle.
    let busy = |lab: &mut Lab, at: u64| {
        lab.now = at;
        lab.see(&renewed(&changed(&claim("a"), |c| c.ready = Some(0)), at));
        lab.see(&renewed(&changed(&claim("team"), |c| c.ready = Some(0)), at));
    };
    busy(&mut lab, 10);
    lab.accounts(&[("team", owner(None, None))], &[("a", 0)]);
    assert!(lab.plan_at(34).is_empty());
    busy(&mut lab, 35);
    let delete = lab.one_at(35);
    assert_claim_deleted(&delete, false, ClaimEnd::AccountGone);
    lab.end(&delete, Ok(Answer::Deleted));
    assert_pod_deleted(&lab.one_at(35), &pod, PodEnd::NoClaim);
    // A replica whose file is older makes the claim again: it gets no pod, and its client a word.
    lab.see(&changed(&claim("a"), |claim| claim.uid = "again".into()));
    let actions = lab.plan();
    assert_reason(&actions[0], ReasonKind::Rejected, "account_unknown");
}

#[test]
fn an_account_that_the_leader_has_never_known_waits_for_its_file() {
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(None, None))], &[]);
    lab.see(&claim("new"));
    assert_reason(&lab.one_at(0), ReasonKind::Waiting, "account_unknown");

    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(None, None))], &[]);
    let (claim, _) = lab.ready("old");
    let end = LAG.as_secs() + 25;
    assert!(lab.plan().is_empty());
    for at in (10..end).step_by(20) {
        lab.now = at;
        lab.see(&renewed(&claim, at));
        assert!(lab.plan().is_empty(), "{at}");
    }
    assert_claim_deleted(&lab.one_at(end), false, ClaimEnd::AccountGone);

    // Its file comes.
    let mut lab = Lab::new(5);
    lab.accounts(&[("a", owner(None, None))], &[]);
    let (claim, _) = lab.ready("old");
    assert!(lab.plan().is_empty());
    lab.accounts(&[("a", owner(None, None)), ("old", owner(None, None))], &[]);
    lab.now = end;
    lab.see(&renewed(&claim, end));
    assert!(lab.plan().is_empty());
}
