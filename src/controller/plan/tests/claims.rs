//! How claims end: unwanted, idle, rejected; and pods that belong to nobody.

use super::*;
use crate::session::api::ApiError;

#[test]
fn a_claim_without_a_pod_goes_when_nobody_has_renewed_it_for_a_while() {
    let mut lab = Lab::new(0);
    let first = claim("a");
    lab.see(&first);
    let wait = lab.one_at(0);
    let first = lab.patched(&wait);
    lab.now = 10;
    lab.see(&renewed(&first, 10));
    assert!(lab.plan_at(24).is_empty());
    let delete = lab.one_at(25);
    assert_claim_deleted(&delete, true, ClaimEnd::Unwanted);
    // A renewal won.
    lab.end(&delete, Err(ApiError::Conflict));
    assert!(lab.plan().is_empty());
    lab.see(&renewed(&renewed(&first, 10), 25));
    assert!(lab.plan_at(39).is_empty());

    let mut lab = Lab::new(0);
    lab.see(&changed(&claim("a"), |claim| claim.no_wait = true));
    let wait = lab.one_at(0);
    lab.patched(&wait);
    assert!(lab.plan_at(29).is_empty());
    assert_claim_deleted(&lab.one_at(30), true, ClaimEnd::Unwanted);
}

#[test]
fn a_new_leader_makes_no_pod_for_a_claim_that_nobody_may_want() {
    let mut lab = Lab::blank(5, 4);
    lab.brain.on_pod(Change::Restarted, lab.time());
    lab.brain.on_pod(Change::Complete, lab.time());
    lab.brain.on_claim(Change::Restarted, lab.time());
    let old = changed(&claim("a"), |claim| claim.renewed -= s(3600));
    lab.brain.on_claim(Change::Listed(record(&old)), lab.time());
    lab.brain.on_claim(Change::Complete, lab.time());
    assert!(lab.plan().is_empty());
    // Somebody does, and only his clock is wrong.
    lab.now = 5;
    lab.see(&changed(&old, |claim| claim.renewed += s(5)));
    assert_eq!(created(&lab.one_at(5)).0, "a");
}

#[test]
fn idle_needs_the_clock_and_what_this_leader_has_seen() {
    // The clock alone does not do: the leader has seen it for too short a time.
    let mut lab = Lab::new(5);
    let mut old = claim("a");
    old.renewed -= s(600);
    lab.ready_with(old);
    assert!(lab.plan_at(29).is_empty());
    assert_claim_deleted(&lab.one_at(30), true, ClaimEnd::Idle);

    // Nor does what it has seen.
    let mut lab = Lab::new(5);
    lab.ready("a");
    assert!(lab.plan_at(59).is_empty());
    assert_claim_deleted(&lab.one_at(60), true, ClaimEnd::Idle);
}

#[test]
fn a_renewal_that_crosses_a_reaping_wins() {
    let mut lab = Lab::new(5);
    let (claim, _) = lab.ready("a");
    let delete = lab.one_at(60);
    lab.end(&delete, Err(ApiError::Conflict));
    lab.see(&renewed(&claim, 60));
    assert!(lab.plan_at(119).is_empty());
    assert_claim_deleted(&lab.one_at(120), true, ClaimEnd::Idle);
}

#[test]
fn an_idle_claims_pod_goes_after_it_without_another_look() {
    let mut lab = Lab::new(5);
    let (claim, pod) = lab.ready("a");
    let delete = lab.one_at(60);
    assert!(lab.plan().is_empty());
    lab.end(&delete, Ok(Answer::Deleted));
    assert_pod_deleted(&lab.one_at(60), &pod, PodEnd::NoClaim);
    lab.brain.on_claim(Change::Deleted { name: claim.name, uid: claim.uid }, lab.time());
    assert!(lab.plan().is_empty());
}

#[test]
fn a_reaped_claim_whose_end_is_seen_before_the_answer_is_not_looked_for() {
    let mut lab = Lab::new(5);
    let (claim, pod) = lab.ready("a");
    let delete = lab.one_at(60);
    lab.brain.on_claim(Change::Deleted { name: claim.name, uid: claim.uid }, lab.time());
    assert!(lab.plan().is_empty());
    lab.end(&delete, Ok(Answer::Deleted));
    assert_pod_deleted(&lab.one_at(60), &pod, PodEnd::NoClaim);
}

#[test]
fn broken_watches_put_a_reaping_off() {
    let mut lab = Lab::new(5);
    let mut old = claim("a");
    old.renewed -= s(600);
    let (old, _) = lab.ready_with(old);
    lab.now = 25;
    lab.brain.on_broken_watch(lab.time());
    assert!(lab.plan_at(54).is_empty());
    lab.brain.on_claim(Change::Restarted, lab.time());
    lab.brain.on_claim(Change::Listed(record(&old)), lab.time());
    lab.brain.on_claim(Change::Complete, lab.time());
    assert!(lab.plan_at(83).is_empty());
    assert_claim_deleted(&lab.one_at(84), true, ClaimEnd::Idle);
}

#[test]
fn a_pinned_claim_is_never_idle() {
    let mut lab = Lab::new(5);
    let mut pinned = claim("_api");
    pinned.pinned = true;
    lab.ready_with(pinned);
    assert!(lab.plan_at(100_000).is_empty());
}

#[test]
fn a_rejected_claim_is_kept_for_those_who_read_it_and_its_pod_is_not() {
    let mut lab = Lab::new(5);
    let waiting = claim("a");
    lab.see(&waiting);
    let pod = pod_of(&waiting, Stage::Running);
    lab.see_pod(&pod);
    let rejected = changed(&waiting, |claim| {
        claim.reason = Some(Reason {
            kind: ReasonKind::Rejected,
            code: "bad_key".into(),
            message: String::new(),
            transition: 0,
            attempts: 1,
            servers: Vec::new(),
            backoff: None,
        });
    });
    lab.see(&rejected);
    let delete = lab.one_at(0);
    assert_pod_deleted(&delete, &pod, PodEnd::GivenUp);
    lab.end(&delete, Ok(Answer::Deleted));
    assert!(lab.plan_at(1).is_empty());
    // Whoever waits renews it all the time.
    lab.see(&renewed(&rejected, 1));
    assert_claim_deleted(&lab.one_at(2), false, ClaimEnd::Rejected);
}

#[test]
fn a_pod_without_a_claim_is_swept_after_a_look_at_the_api() {
    let mut lab = Lab::new(5);
    let gone = claim("a");
    let pod = pod_of(&gone, Stage::Running);
    lab.see_pod(&pod);
    let find = lab.one_at(0);
    assert!(matches!(find, Action::FindClaim { .. }), "{find:?}");
    assert!(lab.plan().is_empty());
    // The watch was behind.
    lab.end(&find, Ok(Answer::Found(Some(gone.uid.clone()))));
    assert!(lab.plan_at(4).is_empty());
    let find = lab.one_at(5);
    lab.end(&find, Ok(Answer::Found(Some("another".into()))));
    assert_pod_deleted(&lab.one_at(5), &pod, PodEnd::NoClaim);
}

#[test]
fn a_claim_of_another_uid_does_not_keep_the_pod() {
    let mut lab = Lab::new(5);
    let pod = pod_of(&claim("a"), Stage::Running);
    lab.see_pod(&pod);
    let again = Claim { uid: "again".into(), ..claim("a") };
    lab.see(&again);
    let actions = lab.plan();
    let find = actions.iter().find(|action| matches!(action, Action::FindClaim { .. })).unwrap();
    lab.end(find, Ok(Answer::Found(Some("again".into()))));
    assert_pod_deleted(&lab.one_at(0), &pod, PodEnd::NoClaim);
}

#[test]
fn foreign_pods_and_those_of_unreadable_leases_are_left_alone() {
    let mut lab = Lab::new(5);
    let unreadable = claim("a");
    let pod = pod_of(&unreadable, Stage::Ended);
    lab.see_pod(&pod);
    let record = ClaimRecord {
        name: unreadable.name.clone(),
        uid: unreadable.uid.clone(),
        claim: Err("annotation does not match".into()),
    };
    lab.brain.on_claim(Change::Applied(Arc::new(record)), lab.time());
    let mut foreign = pod_of(&claim("b"), Stage::Ended);
    foreign.view.binding = None;
    lab.see_pod(&foreign);
    assert!(lab.plan_at(1000).is_empty());
    let stories = lab.brain.take_stories();
    assert_eq!(stories.len(), 1, "told once: {stories:?}");
}
