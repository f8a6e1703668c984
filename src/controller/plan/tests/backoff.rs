//! Starts that fail and rest: who is told what, who may try, and what a new leader makes of it.

use super::*;
use crate::controller::facts::Ended;
use crate::controller::probe::Health;
use crate::session::FailureClass;

/// Lets the only server of a claim's place turn out to be silent.
fn fail(lab: &mut Lab, claim: &Claim) -> Claim {
    fail_and(lab, claim).0
}

/// As [`fail`], with all that the failure led to at once.
fn fail_and(lab: &mut Lab, claim: &Claim) -> (Claim, Vec<Action>) {
    let pod = pod_of(claim, Stage::Running);
    let create = find(&lab.plan(), |action| matches!(action, Action::CreatePod(_)));
    lab.end(&create, Ok(Answer::Created { uid: pod.view.uid.clone() }));
    lab.see_pod(&pod);
    lab.brain.on_health(&pod.view.uid, Health::Silent, lab.time());
    let actions = lab.plan();
    let rejected = find(&actions, |action| matches!(action, Action::PatchClaim { .. }));
    assert_reason(&rejected, ReasonKind::Rejected, "tunnel_silent");
    let claim = lab.patched(&rejected);
    lab.see_pod_gone(&pod);
    (claim, actions)
}

fn find(actions: &[Action], matches: impl Fn(&Action) -> bool) -> Action {
    actions.iter().find(|action| matches(action)).unwrap_or_else(|| panic!("{actions:#?}")).clone()
}

#[test]
fn a_location_that_fails_rests_and_its_claim_tells_for_as_long() {
    let mut lab = Lab::new(5);
    let first = claim("a-server-se-1");
    lab.see(&first);
    let first = fail(&mut lab, &first);
    let backoff = first.reason.as_ref().unwrap().backoff.unwrap();
    assert_eq!((backoff.until, backoff.failures, backoff.pool), (testing::wall() + s(5), 1, false));
    // Another session there is told at once, and another place is none of it.
    lab.now = 1;
    lab.see(&renewed(&claim("b-server-se-1"), 1));
    lab.see(&renewed(&claim("b-server-se-2"), 1));
    let actions = lab.plan();
    let told = find(&actions, |action| matches!(action, Action::PatchClaim { .. }));
    assert_reason(&told, ReasonKind::Rejected, "start_backoff");
    assert_eq!(reason(&told).backoff, Some(backoff));
    let text = &reason(&told).message;
    assert!(text.contains("2027-01-15T08:00:00Z") && text.contains("tunnel_silent"), "{text}");
    assert_eq!(created(&find(&actions, |action| matches!(action, Action::CreatePod(_)))).1, "se-2");
    let second = lab.patched(&told);
    // That one is soon forgotten; the one that records the rest stays as long as it lasts.
    assert!(lab.plan_at(2).is_empty());
    let delete = lab.one_at(3);
    assert!(matches!(&delete, Action::DeleteClaim { claim, .. } if claim.uid == second.uid), "{delete:?}");
    lab.end(&delete, Ok(Answer::Deleted));
    assert!(lab.plan_at(4).is_empty());
    let delete = lab.one_at(5);
    assert!(matches!(&delete, Action::DeleteClaim { claim, .. } if claim.uid == first.uid), "{delete:?}");
    lab.end(&delete, Ok(Answer::Deleted));

    // The first that comes then tries, and the others wait for how that goes.
    let trial = renewed(&claim("c-server-se-1"), 5);
    let other = changed(&renewed(&claim("d-server-se-1"), 5), |claim| claim.created += s(1));
    lab.see(&trial);
    lab.see(&other);
    let actions = lab.plan();
    assert_eq!(created(&find(&actions, |action| matches!(action, Action::CreatePod(_)))).0, trial.uid);
    let waits = find(&actions, |action| matches!(action, Action::PatchClaim { .. }));
    assert_reason(&waits, ReasonKind::Waiting, "start_backoff");
    lab.patched(&waits);
    let pod = pod_of(&trial, Stage::Running);
    lab.see_pod(&pod);
    assert!(lab.plan().is_empty());
    lab.brain.on_health(&pod.view.uid, Health::Silent, lab.time());
    let actions = lab.plan();
    let failed =
        find(&actions, |action| matches!(action, Action::PatchClaim { claim, .. } if claim.uid == trial.uid));
    assert_eq!(reason(&failed).backoff.unwrap().until, testing::wall() + s(15));
    let told =
        find(&actions, |action| matches!(action, Action::PatchClaim { claim, .. } if claim.uid == other.uid));
    assert_reason(&told, ReasonKind::Rejected, "start_backoff");
    assert_eq!(reason(&told).backoff.unwrap().failures, 2);
}

#[test]
fn an_exit_that_comes_up_ends_the_rest() {
    let mut lab = Lab::new(5);
    let first = claim("a-server-se-1");
    lab.see(&first);
    fail(&mut lab, &first);
    lab.now = 1;
    let mut pod = pod_of(&claim("e-country-se"), Stage::Running);
    pod.view.ready = true;
    lab.see(&renewed(&claim("e-country-se"), 1));
    lab.see_pod(&pod);
    let ready = find(&lab.plan(), |action| matches!(action, Action::PatchClaim { .. }));
    lab.patched(&ready);
    lab.see(&renewed(&claim("b-server-se-1"), 1));
    let wait = find(&lab.plan(), |action| matches!(action, Action::PatchClaim { .. }));
    assert_reason(&wait, ReasonKind::Waiting, "server_in_use");
    // Nothing is left to record.
    assert!(matches!(lab.one_at(2), Action::DeleteClaim { why: ClaimEnd::Rejected, .. }));
}

#[test]
fn what_no_server_helps_with_is_the_whole_pools_and_the_next_leader_knows() {
    let mut lab = Lab::new(5);
    let first = claim("a-country-se");
    lab.see(&first);
    let mut pod = pod_of(&first, Stage::Ended);
    pod.ended = Some(Ended { reason: "Error".into(), exit_code: 1 });
    lab.see_pod(&pod);
    let ask = lab.one_at(0);
    lab.end(&ask, Ok(Answer::Cause(Some(FailureClass::BadKey))));
    let rejected = lab.one_at(0);
    assert_reason(&rejected, ReasonKind::Rejected, "bad_key");
    let first = lab.patched(&rejected);
    assert!(first.reason.as_ref().unwrap().backoff.unwrap().pool);

    let elsewhere = renewed(&claim("b-country-no"), 1);
    lab.now = 1;
    lab.see(&elsewhere);
    let told = find(&lab.plan(), |action| matches!(action, Action::PatchClaim { .. }));
    assert_reason(&told, ReasonKind::Rejected, "start_backoff");
    assert!(reason(&told).message.contains("every location"), "{}", reason(&told).message);

    let mut next = Lab::blank(5, 4);
    next.now = 1;
    next.brain.on_pod(Change::Restarted, next.time());
    next.brain.on_pod(Change::Complete, next.time());
    next.brain.on_claim(Change::Restarted, next.time());
    for listed in [&first, &elsewhere] {
        next.brain.on_claim(Change::Listed(record(listed)), next.time());
    }
    next.brain.on_claim(Change::Complete, next.time());
    assert_reason(&next.one_at(1), ReasonKind::Rejected, "start_backoff");
    // The first that comes when the rest is over tries.
    let later = renewed(&claim("c-country-no"), 5);
    next.see(&later);
    let actions = next.plan_at(6);
    assert_eq!(created(&find(&actions, |action| matches!(action, Action::CreatePod(_)))).0, later.uid);
}

#[test]
fn servers_all_over_the_pool_that_fail_alike_are_told_as_one_cause_and_no_more_are_tried() {
    let mut lab = Lab::new(5);
    let silent = |lab: &mut Lab, claim: &Claim, server: &str| {
        let create = find(&lab.plan(), |action| matches!(action, Action::CreatePod(_)));
        let mut pod = pod_of(claim, Stage::Running);
        pod.view.server = Some(server.to_owned());
        lab.end(&create, Ok(Answer::Created { uid: pod.view.uid.clone() }));
        lab.see_pod(&pod);
        lab.brain.on_health(&pod.view.uid, Health::Silent, lab.time());
        find(&lab.plan(), |action| matches!(action, Action::PatchClaim { .. }))
    };
    let mut first = claim("a-country-se");
    lab.see(&first);
    for server in ["se-1", "se-2"] {
        let next = silent(&mut lab, &first, server);
        first = lab.patched(&next);
    }
    let rejected = silent(&mut lab, &first, "se-3");
    assert_eq!(reason(&rejected).backoff, None, "there is another server, and other countries");
    lab.patched(&rejected);
    let second = claim("b-country-no");
    lab.see(&second);
    let rejected = silent(&mut lab, &second, "no-1");
    assert_reason(&rejected, ReasonKind::Rejected, "tunnel_silent");
    assert!(reason(&rejected).message.contains("subscription"), "{}", reason(&rejected).message);
    assert_eq!(reason(&rejected).attempts, 1);
    assert!(reason(&rejected).backoff.unwrap().pool);
}

/// Lets the starts of these servers turn out to be silent, each of a session of its own.
fn silent(lab: &mut Lab, servers: &[&str]) -> Vec<Claim> {
    let failed = servers.iter().map(|server| {
        let claim = renewed(&claim(&format!("a-server-{server}")), lab.now);
        lab.see(&claim);
        let create = find(&lab.plan(), |a| matches!(a, Action::CreatePod(new) if new.claim.uid == claim.uid));
        let mut pod = pod_of(&claim, Stage::Running);
        pod.view.server = Some((*server).to_owned());
        lab.end(&create, Ok(Answer::Created { uid: pod.view.uid.clone() }));
        lab.see_pod(&pod);
        lab.brain.on_health(&pod.view.uid, Health::Silent, lab.time());
        let told =
            find(&lab.plan(), |a| matches!(a, Action::PatchClaim { claim: c, .. } if c.uid == claim.uid));
        let claim = lab.patched(&told);
        lab.see_pod_gone(&pod);
        claim
    });
    failed.collect()
}

fn backoff(claim: &Claim) -> crate::session::claim::Backoff {
    claim.reason.as_ref().unwrap().backoff.unwrap()
}

/// The claim is seen to be deleted.
fn see_gone(lab: &mut Lab, claim: &Claim) {
    let (name, uid) = (claim.name.clone(), claim.uid.clone());
    lab.brain.on_claim(Change::Deleted { name, uid }, lab.time());
}

#[test]
fn a_rest_of_the_pool_stays_one_however_long_ago_the_other_servers_failed() {
    let mut lab = Lab::new(9);
    let claims = silent(&mut lab, &["se-1", "se-2", "no-1"]);
    assert!(backoff(&claims[2]).pool);
    for claim in &claims {
        see_gone(&mut lab, claim);
    }
    // What has failed then tells nothing any more; that the pool rests since does.
    lab.now = 301;
    let trial = silent(&mut lab, &["no-2"]).remove(0);
    let rest = backoff(&trial);
    assert_eq!((rest.pool, rest.failures), (true, 2));
    assert!(trial.reason.unwrap().message.contains("subscription"));
}

#[test]
fn an_exit_that_has_long_been_up_does_not_end_the_rest_for_a_new_leader() {
    let mut lab = Lab::new(5);
    let first = claim("a-server-se-1");
    lab.see(&first);
    let first = fail(&mut lab, &first);
    let mut up = renewed(&claim("e-country-se"), 1);
    up.ready = Some(0);

    let mut next = Lab::blank(5, 4);
    next.now = 1;
    next.brain.on_pod(Change::Restarted, next.time());
    next.brain.on_pod(Change::Listed(Arc::new(ready_pod(&up))), next.time());
    next.brain.on_pod(Change::Complete, next.time());
    next.brain.on_claim(Change::Restarted, next.time());
    for listed in [&first, &up] {
        next.brain.on_claim(Change::Listed(record(listed)), next.time());
    }
    next.brain.on_claim(Change::Complete, next.time());
    assert!(next.plan().is_empty());
    next.see(&renewed(&claim("b-server-se-1"), 1));
    assert_reason(&next.one_at(1), ReasonKind::Rejected, "start_backoff");
}

#[test]
fn a_claim_that_tells_of_a_rest_goes_once_another_has_begun() {
    let mut lab = Lab::new(5);
    let first = claim("a-server-se-1");
    lab.see(&first);
    let first = fail(&mut lab, &first);
    lab.now = 1;
    let told = changed(&renewed(&claim("b-server-se-1"), 1), |claim| claim.no_wait = true);
    lab.see(&told);
    let patch = find(&lab.plan(), |action| matches!(action, Action::PatchClaim { .. }));
    let told = lab.patched(&patch);
    assert_eq!(backoff(&told).until, testing::wall() + s(5));
    lab.now = 5;
    let delete = lab.one_at(5);
    assert!(matches!(&delete, Action::DeleteClaim { claim, .. } if claim.uid == first.uid), "{delete:?}");
    lab.end(&delete, Ok(Answer::Deleted));
    see_gone(&mut lab, &first);
    // The trial fails; whoever asks for the session again is told of that, and not of the first.
    lab.now = 6;
    let trial = renewed(&claim("c-server-se-1"), 6);
    lab.see(&trial);
    let (trial, actions) = fail_and(&mut lab, &trial);
    assert_eq!((backoff(&trial).until, backoff(&trial).failures), (testing::wall() + s(16), 2));
    find(&actions, |action| matches!(action, Action::DeleteClaim { claim, .. } if claim.uid == told.uid));
}

#[test]
fn starts_of_one_round_count_as_one_failure() {
    let mut lab = Lab::new(9);
    // One that takes long to fail begins with the others.
    let slow = claim("b-server-no-4");
    lab.see(&slow);
    let create = lab.one_at(0);
    let mut pod = pod_of(&slow, Stage::Running);
    pod.view.server = Some("no-4".to_owned());
    lab.end(&create, Ok(Answer::Created { uid: pod.view.uid.clone() }));
    lab.see_pod(&pod);
    assert!(lab.plan().is_empty());
    let claims = silent(&mut lab, &["se-1", "se-2", "no-1"]);
    let rest = backoff(&claims[2]);
    assert_eq!((rest.pool, rest.failures, rest.until), (true, 1, testing::wall() + s(5)));
    for claim in &claims {
        see_gone(&mut lab, claim);
    }
    lab.now = 8;
    lab.see(&renewed(&slow, 8));
    lab.brain.on_health(&pod.view.uid, Health::Silent, lab.time());
    let told = find(&lab.plan(), |action| matches!(action, Action::PatchClaim { .. }));
    assert_reason(&told, ReasonKind::Rejected, "tunnel_silent");
    assert_eq!(reason(&told).backoff, None, "the rest is over, and this is none of a trial");
    lab.patched(&told);
    lab.see_pod_gone(&pod);
    let trial = silent(&mut lab, &["no-2"]).remove(0);
    assert_eq!((backoff(&trial).failures, backoff(&trial).until), (2, testing::wall() + s(18)));
}
