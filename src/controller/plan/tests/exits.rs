//! An exit's life: up, failed, lost, replaced, drained.

use super::*;
use crate::controller::facts::Ended;
use crate::controller::probe::Health;
use crate::session::FailureClass;
use crate::session::api::ApiError;
use crate::session::claim::Replace;

/// A claim whose pod has just begun to run.
fn starting(lab: &mut Lab, canonical: &str) -> (Claim, PodFacts) {
    let claim = claim(canonical);
    lab.see(&claim);
    let pod = pod_of(&claim, Stage::Running);
    lab.see_pod(&pod);
    (claim, pod)
}

fn silent(lab: &mut Lab, pod: &PodFacts) -> Action {
    lab.brain.on_health(&pod.view.uid, Health::Silent, lab.time());
    lab.one_at(lab.now)
}

/// The pod of the transition that follows, on that server.
fn next_pod(lab: &mut Lab, claim: &Claim, server: &str) -> PodFacts {
    let create = lab.plan();
    let create = create.iter().find(|action| matches!(action, Action::CreatePod(_))).unwrap();
    let mut pod = pod_of(claim, Stage::Running);
    pod.view.server = Some(server.to_owned());
    lab.end(create, Ok(Answer::Created { uid: pod.view.uid.clone() }));
    lab.see_pod(&pod);
    pod
}

#[test]
fn a_ready_exit_is_noted_once_with_its_expiry() {
    let mut lab = Lab::new(5);
    let claim = changed(&claim("a"), |claim| claim.ttl = Some(s(600)));
    lab.see(&claim);
    let mut pod = pod_of(&claim, Stage::Running);
    lab.see_pod(&pod);
    assert!(lab.plan_at(1).is_empty());
    assert_eq!(lab.brain.pods_to_ask().len(), 1);
    pod.view.ready = true;
    lab.see_pod(&pod);
    let patch = lab.one_at(2);
    let Action::PatchClaim { patch: ClaimPatch::Ready { holder, expires, .. }, .. } = &patch else {
        panic!("{patch:?}")
    };
    assert_eq!(holder, &pod.view.name);
    assert_eq!(*expires, Some(testing::wall() + s(602)));
    lab.patched(&patch);
    assert!(lab.plan().is_empty());
    assert!(lab.brain.pods_to_ask().is_empty());
}

#[test]
fn the_leaders_own_question_makes_it_ready_before_the_kubelet_does() {
    let mut lab = Lab::new(5);
    let (_, pod) = starting(&mut lab, "a");
    lab.brain.on_health(&pod.view.uid, Health::Up, lab.time());
    assert!(matches!(lab.one_at(0), Action::PatchClaim { patch: ClaimPatch::Ready { .. }, .. }));
}

#[test]
fn only_those_who_wait_for_the_leaders_word_have_their_pod_asked_often() {
    let mut lab = Lab::new(5);
    starting(&mut lab, "a-country-se");
    starting(&mut lab, "b-country-se-mode-strict");
    let (mut claim, pod) = starting(&mut lab, "c-country-se-mode-strict");
    let often = |lab: &Lab| {
        let asked = lab.brain.pods_to_ask();
        let mut often: Vec<_> = asked.iter().map(|pod| (pod.uid.chars().next(), pod.often)).collect();
        often.sort_unstable();
        often
    };
    assert_eq!(often(&lab), [(Some('a'), false), (Some('b'), true), (Some('c'), true)]);
    // It has been up, and no longer is: it may stay so for minutes.
    claim = changed(&claim, |claim| claim.ready = Some(0));
    lab.see(&claim);
    lab.see_pod(&pod);
    assert_eq!(often(&lab), [(Some('a'), false), (Some('b'), true), (Some('c'), false)]);
}

#[test]
fn a_failed_start_is_tried_on_other_servers_and_given_up_after_three() {
    let mut lab = Lab::new(5);
    let (_, pod) = starting(&mut lab, "a-country-se");
    let next = silent(&mut lab, &pod);
    assert_next(&next, Some(1));
    let claim = lab.patched(&next);
    assert_eq!(claim.reason.as_ref().unwrap().servers, ["se-1"]);
    let actions = lab.plan();
    let delete = actions.iter().find(|action| matches!(action, Action::DeletePod { .. })).unwrap();
    assert_pod_deleted(delete, &pod, PodEnd::Failed);
    let create = actions.iter().find(|action| matches!(action, Action::CreatePod(_))).unwrap();
    assert_ne!(created(create).1, "se-1");
    lab.see_pod_gone(&pod);
    let mut second = pod_of(&claim, Stage::Running);
    second.view.server = Some("se-2".into());
    lab.end(create, Ok(Answer::Created { uid: second.view.uid.clone() }));
    lab.see_pod(&second);
    let next = silent(&mut lab, &second);
    assert_next(&next, Some(2));
    let claim = lab.patched(&next);
    let third = next_pod(&mut lab, &claim, "se-3");
    let rejected = silent(&mut lab, &third);
    assert_reason(&rejected, ReasonKind::Rejected, "tunnel_silent");
    assert_eq!(reason(&rejected).attempts, 3);
    assert_eq!(reason(&rejected).servers, ["se-1", "se-2", "se-3"]);
}

#[test]
fn what_no_other_server_helps_is_not_tried_again() {
    let mut lab = Lab::new(5);
    let (_, mut pod) = starting(&mut lab, "a");
    pod.view.stage = Stage::Ended;
    pod.ended = Some(Ended { reason: "Error".into(), exit_code: 1 });
    lab.see_pod(&pod);
    let ask = lab.one_at(0);
    assert!(matches!(ask, Action::ReadLog { .. }), "{ask:?}");
    lab.end(&ask, Ok(Answer::Cause(Some(FailureClass::BadKey))));
    assert_reason(&lab.one_at(0), ReasonKind::Rejected, "bad_key");

    // A log that cannot be read only costs precision.
    let mut lab = Lab::new(5);
    lab.see(&claim("a"));
    lab.see_pod(&pod);
    let ask = lab.one_at(0);
    lab.end(&ask, Err(ApiError::Timeout));
    assert_next(&lab.one_at(0), Some(1));
}

#[test]
fn a_silent_tunnel_on_the_only_server_is_not_tried_again_and_an_eviction_is() {
    let mut lab = Lab::new(5);
    let (_, pod) = starting(&mut lab, "a-server-se-1");
    assert_reason(&silent(&mut lab, &pod), ReasonKind::Rejected, "tunnel_silent");

    let mut lab = Lab::new(5);
    let (_, mut pod) = starting(&mut lab, "a-server-se-1");
    pod.view.stage = Stage::Terminating;
    lab.see_pod(&pod);
    assert_next(&lab.one_at(0), Some(1));
}

#[test]
fn nobody_tries_again_for_clients_that_have_left() {
    let mut lab = Lab::new(5);
    starting(&mut lab, "a");
    assert_claim_deleted(&lab.one_at(20), true, ClaimEnd::Unwanted);
}

#[test]
fn a_pod_deleted_by_hand_while_it_starts_counts_as_a_failed_start() {
    let mut lab = Lab::new(5);
    let (_, pod) = starting(&mut lab, "a");
    assert!(lab.plan().is_empty());
    lab.see_pod_gone(&pod);
    let next = lab.one_at(0);
    assert_next(&next, Some(1));
    let Action::PatchClaim { patch: ClaimPatch::Next { reason: Some(reason) }, .. } = next else { panic!() };
    assert_eq!(reason.code, "deleted");
}

#[test]
fn a_wait_between_two_tries_does_not_forget_the_first() {
    let mut lab = Lab::new(1);
    let (_, pod) = starting(&mut lab, "a-country-se");
    let next = silent(&mut lab, &pod);
    let claim = lab.patched(&next);
    let actions = lab.plan();
    let wait = actions.iter().find(|action| matches!(action, Action::PatchClaim { .. })).unwrap();
    assert_reason(wait, ReasonKind::Waiting, "capacity_full");
    assert_eq!(reason(wait).attempts, 1);
    let claim = Claim { reason: Some(reason(wait).clone()), ..claim };
    lab.patched(wait);
    lab.see_pod_gone(&pod);
    let second = next_pod(&mut lab, &claim, "se-2");
    assert_next(&silent(&mut lab, &second), Some(2));
}

#[test]
fn a_lost_exit_is_replaced_given_up_or_deleted_by_the_sessions_kind() {
    let lose = |lab: &mut Lab, pod: &PodFacts| {
        lab.see_pod_gone(pod);
        lab.one_at(lab.now)
    };
    let mut lab = Lab::new(5);
    let (_, pod) = lab.ready("a");
    assert_next(&lose(&mut lab, &pod), None);

    let mut lab = Lab::new(5);
    let (_, pod) = lab.ready("a-mode-strict");
    let lost = lose(&mut lab, &pod);
    assert_reason(&lost, ReasonKind::Lost, "exit_lost");
    lab.patched(&lost);
    assert!(lab.plan_at(59).is_empty(), "it stays, so that everyone is told");
    assert_claim_deleted(&lab.one_at(60), true, ClaimEnd::Idle);

    let mut lab = Lab::new(5);
    let (_, pod) = lab.ready_with(changed(&claim("_api"), |claim| claim.pinned = true));
    assert_claim_deleted(&lose(&mut lab, &pod), true, ClaimEnd::PinnedLost);

    // Pinned by a replica before this leader could say that it is up.
    let mut lab = Lab::new(5);
    let (claim, pod) = starting(&mut lab, "_api");
    lab.see(&changed(&claim, |claim| claim.pinned = true));
    assert_claim_deleted(&lose(&mut lab, &pod), true, ClaimEnd::PinnedLost);

    // Nor is an exit of the management API that has an idle timeout instead: nobody knows another.
    let mut lab = Lab::new(5);
    let (_, pod) = lab.ready("_api");
    assert_claim_deleted(&lose(&mut lab, &pod), true, ClaimEnd::PinnedLost);

    // Nobody has renewed it for a while: nobody is known to want another.
    let mut lab = Lab::new(5);
    let (_, pod) = lab.ready("a");
    lab.now = 20;
    assert_claim_deleted(&lose(&mut lab, &pod), true, ClaimEnd::Unwanted);
}

#[test]
fn a_strict_sessions_exit_is_lost_once_the_claim_says_that_it_was_there_and_never_before() {
    // The claim does not say so yet: no replica has shown the address to anyone.
    let mut lab = Lab::new(5);
    let strict = claim("a-mode-strict");
    lab.see(&strict);
    let pod = next_pod(&mut lab, &strict, "se-1");
    assert!(lab.brain.pods_to_ask()[0].often, "its clients wait for this leader's word");
    lab.brain.on_health(&pod.view.uid, Health::Up, lab.time());
    let ready = lab.one_at(0);
    lab.end(&ready, Err(ApiError::Unavailable("away".into())));
    lab.see_pod_gone(&pod);
    let next = lab.one_at(2);
    assert_next(&next, Some(1));
    // It had taken effect after all, and somebody has used the exit: the precondition fails, and then it shows.
    lab.end(&next, Err(ApiError::Conflict));
    lab.see(&changed(&strict, |claim| claim.ready = Some(0)));
    assert_reason(&lab.one_at(2), ReasonKind::Lost, "exit_lost");

    // Nor does a new leader need to know what was before it.
    let mut lab = Lab::new(5);
    let (_, pod) = starting(&mut lab, "a-mode-strict");
    assert_next(&silent(&mut lab, &pod), Some(1));
}

#[test]
fn an_exit_that_ended_or_stays_unready_is_lost() {
    let mut lab = Lab::new(5);
    let (_, mut pod) = lab.ready("a");
    pod.view.stage = Stage::Ended;
    pod.view.ready = false;
    pod.ended = Some(Ended { reason: "OOMKilled".into(), exit_code: 137 });
    lab.see_pod(&pod);
    assert_next(&lab.one_at(0), None);

    let mut lab = Lab::new(5);
    let (claim, mut pod) = lab.ready("a");
    pod.view.ready = false;
    lab.see_pod(&pod);
    assert_eq!(lab.brain.pods_to_ask().len(), 1, "asked itself while the kubelet says unready");
    lab.now = 15;
    lab.see(&renewed(&claim, 15));
    assert!(lab.plan_at(19).is_empty());
    assert_next(&lab.one_at(20), None);
}

#[test]
fn a_replicas_word_replaces_the_exit_that_it_is_about() {
    let word = |claim: &Claim, transition, why: &str| {
        changed(claim, |claim| claim.replace = Some(Replace { transition, why: why.into() }))
    };
    let mut lab = Lab::new(5);
    let (claim, _) = lab.ready("a");
    lab.see(&word(&claim, 7, "dead"));
    assert!(lab.plan().is_empty(), "void for any other transition");
    lab.see(&word(&word(&claim, 0, "x"), 0, "dead"));
    assert_next(&lab.one_at(0), None);

    let mut lab = Lab::new(5);
    let (claim, _) = lab.ready("a-mode-strict");
    lab.see(&word(&claim, 0, "unreachable"));
    assert_reason(&lab.one_at(0), ReasonKind::Lost, "exit_lost");

    let mut lab = Lab::new(5);
    let (claim, _) = lab.ready("a-mode-strict");
    lab.see(&word(&claim, 0, "expired"));
    assert_next(&lab.one_at(0), None);

    let mut lab = Lab::new(5);
    let (claim, _) = lab.ready_with(changed(&super::claim("_api"), |claim| claim.pinned = true));
    lab.see(&word(&claim, 0, "expired"));
    assert!(lab.plan().is_empty(), "a pinned exit is never replaced");
}

#[test]
fn an_exit_of_the_management_api_ends_at_its_ttl() {
    let expiring = |lab: &mut Lab, account: &str, pinned: bool| {
        lab.ready_with(changed(&claim(account), |claim| {
            claim.pinned = pinned;
            claim.ttl = Some(s(40));
            claim.expires = Some(testing::wall() + s(40));
            claim.duration = s(600);
        }))
    };
    for pinned in [true, false] {
        let mut lab = Lab::new(5);
        expiring(&mut lab, "_api", pinned);
        assert!(lab.plan_at(39).is_empty());
        assert_claim_deleted(&lab.one_at(40), false, ClaimEnd::Expired);
    }
    // Anyone else's serves on until a new request asks for another.
    let mut lab = Lab::new(5);
    expiring(&mut lab, "a", false);
    assert!(lab.plan_at(60).is_empty());
}

/// A session whose exit was replaced at 0 and whose new one is ready.
fn draining(lab: &mut Lab, why: &str) -> (Claim, PodFacts) {
    let (claim, old) = lab.ready("a");
    let claim = changed(&claim, |claim| {
        claim.replace = Some(Replace { transition: 0, why: why.into() });
        claim.transition = 1;
        claim.ready = Some(1);
    });
    lab.see(&claim);
    let mut new = ready_pod(&claim);
    new.view.server = Some("se-2".into());
    lab.see_pod(&new);
    assert!(lab.plan().is_empty());
    (claim, old)
}

#[test]
fn an_older_exit_drains_while_its_tunnels_are_renewed() {
    let mut lab = Lab::new(5);
    let (claim, old) = draining(&mut lab, "expired");
    lab.now = 20;
    let claim = changed(&claim, |claim| {
        claim.renewed = testing::wall() + s(20);
        claim.renewed_older.insert(0, testing::wall() + s(20));
    });
    lab.see(&claim);
    assert!(lab.plan_at(49).is_empty());
    assert_pod_deleted(&lab.one_at(50), &old, PodEnd::Drained);
}

/// The claim after a replica has told at that second of tunnels on its first exit.
fn told_of(claim: &Claim, at: u64) -> Claim {
    changed(claim, |claim| {
        claim.renewed = testing::wall() + s(at);
        claim.renewed_older.insert(0, testing::wall() + s(at));
    })
}

#[test]
fn a_dead_older_exit_stays_for_its_tunnels_until_gluetun_itself_says_that_it_is_down() {
    let mut lab = Lab::new(5);
    let (claim, mut old) = draining(&mut lab, "dead");
    lab.now = 29;
    let claim = told_of(&claim, 29);
    lab.see(&claim);
    assert!(lab.plan_at(40).is_empty());
    lab.see(&told_of(&claim, 40));
    old.view.ready = false;
    lab.see_pod(&old);
    assert!(lab.plan_at(64).is_empty());
    assert_pod_deleted(&lab.one_at(65), &old, PodEnd::DrainTimeout);
}

#[test]
fn an_older_exit_that_is_in_the_way_of_another_session_has_the_drain_time() {
    let mut lab = Lab::new(2);
    let (_, old) = draining(&mut lab, "expired");
    lab.now = 12;
    lab.see(&claim("b"));
    let wait = lab.one_at(12);
    lab.patched(&wait);
    assert!(lab.plan_at(24).is_empty());
    assert_pod_deleted(&lab.one_at(25), &old, PodEnd::DrainTimeout);
}

/// A session whose exit is to be replaced, and has the only place.
fn without_room(lab: &mut Lab, why: &str) -> (Claim, PodFacts) {
    let (claim, old) = lab.ready("a");
    let claim = changed(&claim, |claim| {
        claim.replace = Some(Replace { transition: 0, why: why.into() });
        claim.transition = 1;
    });
    lab.see(&claim);
    let wait = lab.one_at(0);
    assert_reason(&wait, ReasonKind::Waiting, "capacity_full");
    (lab.patched(&wait), old)
}

/// Each second until then replicas tell of tunnels on the older exit, and nothing is done.
fn told_until(lab: &mut Lab, mut claim: Claim, end: u64) -> Claim {
    for at in 1..end {
        lab.now = at;
        claim = told_of(&claim, at);
        lab.see(&claim);
        assert!(lab.plan_at(at).is_empty(), "{at}");
    }
    claim
}

#[test]
fn an_expired_exit_that_is_in_the_way_of_its_own_session_goes_after_the_last_tunnel() {
    let mut lab = Lab::new(1);
    let (mut claim, old) = without_room(&mut lab, "expired");
    claim = told_until(&mut lab, claim, 60);
    for at in [64, 68] {
        lab.now = at;
        claim = renewed(&claim, at);
        lab.see(&claim);
        assert!(lab.plan_at(at).is_empty(), "{at}");
    }
    assert_pod_deleted(&lab.one_at(69), &old, PodEnd::Drained);
}

#[test]
fn a_dead_exit_that_is_in_the_way_of_its_own_session_has_the_drain_time_at_most() {
    let mut lab = Lab::new(1);
    let (mut claim, old) = without_room(&mut lab, "dead");
    claim = told_until(&mut lab, claim, 25);
    assert_pod_deleted(&lab.one_at(25), &old, PodEnd::DrainTimeout);
    // And what comes is on another server, though the old one's is free again.
    lab.see_pod_gone(&old);
    lab.see(&renewed(&claim, 26));
    assert_ne!(created(&lab.one_at(26)).1, "se-1");
}

#[test]
fn an_exit_that_was_up_and_has_ended_is_not_called_a_failed_start() {
    let mut lab = Lab::new(5);
    let (_, mut pod) = lab.ready("a");
    pod.view.stage = Stage::Ended;
    pod.view.ready = false;
    pod.ended = Some(Ended { reason: "OOMKilled".into(), exit_code: 137 });
    lab.see_pod(&pod);
    let next = lab.one_at(0);
    lab.patched(&next);
    let actions = lab.plan();
    let delete = actions.iter().find(|action| matches!(action, Action::DeletePod { .. })).unwrap();
    assert_pod_deleted(delete, &pod, PodEnd::Ended);
}

#[test]
fn at_most_one_older_exit_drains_and_failed_starts_are_none() {
    let mut lab = Lab::new(5);
    let (claim, old) = draining(&mut lab, "expired");
    let claim = changed(&claim, |claim| claim.transition = 2);
    lab.see(&claim);
    let mut newest = ready_pod(&claim);
    newest.view.server = Some("se-3".into());
    lab.see_pod(&newest);
    let actions = lab.plan();
    let delete = actions.iter().find(|action| matches!(action, Action::DeletePod { .. })).unwrap();
    assert_pod_deleted(delete, &old, PodEnd::Superseded);

    // The second exit never came up: the first goes on draining.
    let mut lab = Lab::new(5);
    let (claim, _) = draining(&mut lab, "expired");
    let failed = changed(&claim, |claim| {
        claim.ready = Some(0);
        claim.transition = 2;
        claim.reason = Some(Reason {
            kind: ReasonKind::Retrying,
            code: "tunnel_silent".into(),
            message: String::new(),
            transition: 1,
            attempts: 1,
            servers: vec!["se-2".into()],
            backoff: None,
        });
    });
    lab.see(&failed);
    let actions = lab.plan();
    let deleted: Vec<_> =
        actions.iter().filter(|action| matches!(action, Action::DeletePod { .. })).collect();
    assert_eq!(deleted.len(), 1, "{deleted:?}");
    assert_pod_deleted(deleted[0], &ready_pod(&claim), PodEnd::Failed);
}

#[test]
fn a_claim_that_is_older_than_its_pods_is_left_until_its_watch_has_caught_up() {
    let mut lab = Lab::new(5);
    let (claim, old) = lab.ready("a");
    let ahead = changed(&claim, |claim| claim.transition = 1);
    lab.see_pod(&pod_of(&ahead, Stage::Pending));
    lab.see_pod_gone(&old);
    assert!(lab.plan().is_empty());
    lab.see(&ahead);
    assert!(lab.plan().is_empty(), "and then there is nothing to do");
}

#[test]
fn a_write_is_not_repeated_before_the_watch_could_show_it() {
    let mut lab = Lab::new(5);
    let (_, pod) = lab.ready("a");
    lab.see_pod_gone(&pod);
    let next = lab.one_at(0);
    lab.end(&next, Ok(Answer::Patched { resource_version: "2".into() }));
    assert!(lab.plan_at(4).is_empty());
    // Then it is tried again, and its resource version keeps it from doing harm.
    assert_next(&lab.one_at(5), None);
}
