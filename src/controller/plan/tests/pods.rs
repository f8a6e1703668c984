//! Who gets a pod: the limit, the order, the server, and what the API refuses.

use super::*;
use crate::session::api::{ApiError, ForbiddenKind};
use crate::session::pod::pod_name;

#[test]
fn nothing_is_planned_before_both_lists_are_there() {
    let mut lab = Lab::blank(5, 4);
    lab.brain.on_claim(Change::Restarted, lab.time());
    lab.brain.on_claim(Change::Complete, lab.time());
    lab.see(&claim("a"));
    assert!(lab.plan().is_empty());
    lab.brain.on_pod(Change::Restarted, lab.time());
    assert!(lab.plan().is_empty());
    lab.brain.on_pod(Change::Complete, lab.time());
    assert_eq!(lab.plan().len(), 1);
}

#[test]
fn a_claim_gets_the_pod_that_follows_from_its_uid_and_transition_once() {
    let mut lab = Lab::new(5);
    lab.see(&claim("a-country-se"));
    let create = lab.one_at(0);
    let Action::CreatePod(new) = &create else { panic!("{create:?}") };
    assert_eq!(new.name, pod_name("a-country-se", 0));
    assert!(new.server.hostname.as_str().starts_with("se-"));
    assert!(lab.plan().is_empty(), "it is on its way");
    lab.end(&create, Ok(Answer::Created { uid: "a-country-se/0".into() }));
    assert!(lab.plan().is_empty(), "the watch does not show it yet");
    lab.see_pod(&pod_of(&claim("a-country-se"), Stage::Pending));
    assert!(lab.plan().is_empty());
}

#[test]
fn live_foreign_terminating_and_unseen_pods_count_and_finished_ones_do_not() {
    let mut lab = Lab::new(4);
    let foreign = PodFacts {
        view: crate::session::pod::PodView { binding: None, ..pod_of(&claim("f"), Stage::Running).view },
        ..pod_of(&claim("f"), Stage::Running)
    };
    lab.see_pod(&foreign);
    let (old, _) = lab.ready("old");
    let mut going = pod_of(&old, Stage::Terminating);
    going.view.name = "gluetun-going".into();
    going.view.uid = "going".into();
    going.view.binding = None;
    lab.see_pod(&going);
    let mut finished = going.clone();
    finished.view.name = "gluetun-finished".into();
    finished.view.uid = "finished".into();
    finished.view.finished = true;
    lab.see_pod(&finished);
    lab.see(&claim("a"));
    lab.see(&changed(&claim("b"), |claim| claim.created += s(1)));
    let actions = lab.plan();
    assert_eq!(actions.len(), 2, "{actions:#?}");
    assert_eq!(created(&actions[0]).0, "a");
    assert_reason(&actions[1], ReasonKind::Waiting, "capacity_full");
    assert_eq!(reason(&actions[1]).message, "INSTANCE_LIMIT reached: 4 of 4 pods");
    lab.see_pod_gone(&going);
    let actions = lab.plan();
    assert_eq!(created(&actions[0]).0, "b", "although it is just being told to wait");
}

#[test]
fn the_oldest_claim_is_first_and_who_waits_is_told_once() {
    let mut lab = Lab::new(1);
    let young = claim("a");
    let mut old = claim("b");
    old.created -= s(10);
    lab.see(&young);
    lab.see(&old);
    let actions = lab.plan();
    assert_eq!(created(&actions[0]).0, "b");
    assert_reason(&actions[1], ReasonKind::Waiting, "capacity_full");
    lab.patched(&actions[1]);
    assert!(lab.plan().is_empty());
}

#[test]
fn no_two_live_pods_share_a_server() {
    let mut lab = Lab::new(9);
    let claims: Vec<_> = (0..5).map(|n| claim(&format!("a-country-se-session-{n}"))).collect();
    for claim in &claims {
        lab.see(claim);
    }
    let actions = lab.plan();
    let mut servers: Vec<_> = actions[..4].iter().map(|action| created(action).1).collect();
    servers.sort_unstable();
    assert_eq!(servers, ["se-1", "se-2", "se-3", "se-4"]);
    assert_reason(&actions[4], ReasonKind::Waiting, "server_in_use");
    assert_eq!(reason(&actions[4]).message, "every server of this place is in use by another exit");
}

#[test]
fn a_place_that_the_list_does_not_have_is_rejected_and_a_list_that_is_not_there_is_waited_for() {
    let mut lab = Lab::new(5);
    lab.see(&claim("a-country-fr"));
    assert_reason(&lab.one_at(0), ReasonKind::Rejected, "no_server");

    let mut lab = Lab::new(5);
    let list = std::mem::take(&mut lab.brain.catalogue);
    lab.see(&claim("a-country-se"));
    let wait = lab.one_at(0);
    assert_reason(&wait, ReasonKind::Waiting, "no_server");
    lab.patched(&wait);
    lab.brain.on_catalogue(list);
    assert_eq!(created(&lab.one_at(0)).0, "a-country-se");
}

#[test]
fn servers_that_failed_in_this_row_or_lately_are_avoided_while_there_are_others() {
    let tried = |servers: &[&str]| Reason {
        kind: ReasonKind::Retrying,
        code: "tunnel_silent".into(),
        message: String::new(),
        transition: 0,
        attempts: 1,
        servers: servers.iter().map(|server| (*server).to_owned()).collect(),
    };
    let mut lab = Lab::new(5);
    for server in ["se-2", "se-3"] {
        lab.brain.blamed.insert(server.into(), s(0));
    }
    lab.see(&changed(&claim("a-country-se"), |claim| claim.reason = Some(tried(&["se-1"]))));
    assert_eq!(created(&lab.one_at(0)).1, "se-4");
    lab.see(&changed(&claim("b-country-se"), |claim| claim.reason = Some(tried(&["se-1"]))));
    assert!(["se-2", "se-3"].contains(&created(&lab.one_at(0)).1), "rather one that failed for another");

    let mut lab = Lab::new(5);
    lab.see(&changed(&claim("a-server-se-1"), |claim| claim.reason = Some(tried(&["se-1"]))));
    assert_eq!(created(&lab.one_at(0)).1, "se-1", "rather than none");
}

#[test]
fn more_than_so_many_waiting_claims_are_turned_away_the_newest_first() {
    let mut lab = Lab::new(1);
    for n in 0..34_u64 {
        let mut claim = claim(&format!("a-session-{n}"));
        claim.created += s(n);
        lab.see(&claim);
    }
    let actions = lab.plan();
    assert_eq!(created(&actions[0]).0, "a-session-0", "one that gets a pod does not wait");
    assert!(actions[1..33].iter().all(|action| reason(action).kind == ReasonKind::Waiting));
    assert_reason(&actions[33], ReasonKind::Rejected, "queue_full");
    assert!(reason(&actions[33]).message.contains("this account"));

    let mut lab = Lab::new(1);
    for n in 0..260_u64 {
        let mut claim = claim(&format!("a{n}"));
        claim.created += s(n);
        lab.see(&claim);
    }
    let actions = lab.plan();
    let rejected = actions[1..].iter().filter(|action| reason(action).kind == ReasonKind::Rejected);
    assert_eq!(rejected.count(), 3);
}

#[test]
fn a_quota_makes_everyone_wait_and_one_try() {
    let mut lab = Lab::new(5);
    lab.see(&claim("a"));
    let create = lab.one_at(0);
    let quota = ApiError::Forbidden(ForbiddenKind::Quota, "exceeded quota".into());
    lab.end(&create, Err(quota.clone()));
    lab.see(&claim("b"));
    let actions = lab.plan();
    assert_eq!(actions.len(), 2);
    for action in &actions {
        assert_reason(action, ReasonKind::Waiting, "quota_full");
        lab.patched(action);
    }
    let create = lab.one_at(1);
    assert!(matches!(create, Action::CreatePod(_)), "after its pause one is tried");
    lab.end(&create, Err(quota.clone()));
    assert!(lab.plan_at(1).is_empty(), "the second pause is longer");
    let pod = pod_of(&claim("z"), Stage::Ended);
    lab.see_pod_gone(&pod);
    let create = lab.one_at(1);
    assert!(matches!(create, Action::CreatePod(_)), "a pod that went may have made room");
    lab.end(&create, Ok(Answer::Created { uid: "u".into() }));
    assert!(matches!(lab.one_at(1), Action::CreatePod(_)), "and perhaps for all");
}

#[test]
fn what_the_api_refuses_for_good_is_told_for_good() {
    let refusals = [
        (ApiError::Forbidden(ForbiddenKind::PodSecurity, "violates PodSecurity".into()), "pod_security"),
        (ApiError::Forbidden(ForbiddenKind::Admission, "denied".into()), "admission"),
        (ApiError::Invalid("denied".into()), "admission"),
        (
            ApiError::Forbidden(
                ForbiddenKind::Rights,
                "pods is forbidden: User \"x\" cannot create resource \"pods\" in API group \"\"".into(),
            ),
            "control_plane_forbidden",
        ),
    ];
    for (error, code) in refusals {
        let mut lab = Lab::new(5);
        lab.see(&claim("a"));
        let create = lab.one_at(0);
        lab.end(&create, Err(error));
        let told = lab.one_at(0);
        assert_reason(&told, ReasonKind::Rejected, code);
        if code == "control_plane_forbidden" {
            assert_eq!(reason(&told).message, "the gateway's service account may not create pods");
        }
    }
}

#[test]
fn an_ambiguous_creation_holds_its_place_until_a_get_has_told() {
    let mut lab = Lab::new(1);
    lab.see(&claim("a"));
    lab.see(&changed(&claim("b"), |claim| claim.created += s(1)));
    let actions = lab.plan();
    lab.patched(&actions[1]);
    lab.end(&actions[0], Err(ApiError::Timeout));
    let find = lab.one_at(0);
    assert!(matches!(find, Action::FindPod { .. }), "{find:?}");
    lab.end(&find, Err(ApiError::Timeout));
    assert!(lab.plan().is_empty());
    let find = lab.one_at(1);
    lab.end(&find, Ok(Answer::Found(None)));
    let again = lab.one_at(1);
    assert_eq!(created(&again), created(&actions[0]), "the same, on the same server");
}

#[test]
fn the_place_of_a_creation_that_may_yet_come_is_given_to_another_only_later() {
    let mut lab = Lab::new(1);
    let first = claim("a");
    lab.see(&first);
    let create = lab.one_at(0);
    lab.end(&create, Err(ApiError::Timeout));
    let find = lab.one_at(0);
    lab.end(&find, Ok(Answer::Found(None)));
    lab.brain.on_claim(Change::Deleted { name: first.name, uid: first.uid }, lab.time());
    lab.see(&claim("b"));
    let wait = lab.one_at(1);
    assert_reason(&wait, ReasonKind::Waiting, "capacity_full");
    lab.patched(&wait);
    assert!(lab.plan_at(9).is_empty());
    assert_eq!(created(&lab.one_at(10)).0, "b");
}

#[test]
fn a_creation_that_failed_is_tried_again_after_a_growing_pause() {
    let mut lab = Lab::new(5);
    lab.see(&claim("a"));
    let create = lab.one_at(0);
    lab.end(&create, Err(ApiError::Unavailable("refused".into())));
    let find = lab.one_at(0);
    lab.end(&find, Ok(Answer::Found(None)));
    assert!(lab.plan().is_empty());
    let create = lab.one_at(1);
    lab.end(&create, Err(ApiError::Unavailable("refused".into())));
    let find = lab.one_at(1);
    lab.end(&find, Ok(Answer::Found(None)));
    let wait = lab.one_at(1);
    assert_reason(&wait, ReasonKind::Waiting, "control_plane_unavailable");
    lab.patched(&wait);
    assert_eq!(created(&lab.one_at(2)), created(&create));
}

#[test]
fn a_pod_that_exists_already_is_looked_at_and_not_made_twice() {
    let mut lab = Lab::new(5);
    lab.see(&claim("a"));
    let create = lab.one_at(0);
    lab.end(&create, Err(ApiError::AlreadyExists));
    let find = lab.one_at(0);
    lab.end(&find, Ok(Answer::Found(Some("a/0".into()))));
    assert!(lab.plan().is_empty());
    lab.see_pod(&pod_of(&claim("a"), Stage::Running));
    assert!(lab.plan().is_empty());
}
