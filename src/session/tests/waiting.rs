//! Of those who wait for an exit, or say that they will not: what they are told, and when. On the world of `tests`.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_thousand_waiters_make_one_request_and_all_get_the_exit() {
    let mut world = World::new();
    let waiting: Vec<_> = (0..1000).map(|_| world.asks()).collect();
    while world.sessions.waiting() < 1000 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(world.commands.try_recv(), Ok(Command::Ensure(_))));
    assert!(world.commands.try_recv().is_err(), "one start, one command");
    world.claim();
    world.pod(0, true);
    for waiter in waiting {
        let grant = waiter.await.unwrap().unwrap();
        assert!(grant.cold_start);
    }
    assert_eq!(world.sessions.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn too_many_waiters_are_told_so_at_once() {
    let world = World::new();
    let waiting: Vec<_> = (0..crate::session::WAITERS_PER_SESSION).map(|_| world.asks()).collect();
    while world.sessions.waiting() < crate::session::WAITERS_PER_SESSION {
        tokio::task::yield_now().await;
    }
    assert!(matches!(world.asks().await.unwrap(), Err(AcquireError::QueueFull { .. })));
    assert_eq!(
        world.sessions.waiting(),
        crate::session::WAITERS_PER_SESSION,
        "the refused one is not counted"
    );
    for waiter in waiting {
        waiter.abort();
        assert!(waiter.await.unwrap_err().is_cancelled());
    }
    assert_eq!(world.sessions.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_leader_says_wakes_those_who_wait() {
    for (kind, code, expected) in [
        (
            ReasonKind::Rejected,
            "queue_full",
            AcquireError::QueueFull { message: "because of queue_full".into() },
        ),
        (
            ReasonKind::Rejected,
            "image_pull",
            AcquireError::StartFailed {
                class: crate::session::FailureClass::ImagePull,
                message: "because of image_pull".into(),
                retry_after: None,
            },
        ),
        (ReasonKind::Lost, "exit_lost", AcquireError::ExitLost),
    ] {
        let mut world = World::new();
        world.claim();
        let waiter = world.asks();
        while world.sessions.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let before = Instant::now();
        world.claim_with(|lease| annotate(lease, note::REASON, reason(kind, code, 0)));
        assert_eq!(waiter.await.unwrap().unwrap_err(), expected);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_time_is_over_the_last_reason_is_told() {
    for (code, expected) in [
        ("capacity_full", AcquireError::CapacityFull { message: "because of capacity_full".into() }),
        ("server_in_use", AcquireError::CapacityFull { message: "because of server_in_use".into() }),
        ("no_server", AcquireError::StartTimeout { last: Some("because of no_server".into()) }),
    ] {
        let mut world = World::new();
        world.claim_with(|lease| annotate(lease, note::REASON, reason(ReasonKind::Waiting, code, 0)));
        let before = Instant::now();
        let error = world.sessions.acquire(&key(), &Lifetimes::default(), soon()).await.unwrap_err();
        assert_eq!(error, expected);
        assert_eq!(before.elapsed(), Duration::from_secs(90));
    }
    // A reason of an earlier transition says nothing about this one.
    let mut world = World::new();
    world.claim_with(|lease| {
        lease.spec.get_or_insert_default().lease_transitions = Some(1);
        annotate(lease, note::REASON, reason(ReasonKind::Rejected, "image_pull", 0));
    });
    let error = world.sessions.acquire(&key(), &Lifetimes::default(), soon()).await.unwrap_err();
    assert_eq!(error, AcquireError::StartTimeout { last: None });
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_wait_starts_the_exit_and_is_told_so() {
    let mut world = World::new();
    let error = world.sessions.acquire(&key(), &Lifetimes::default(), Instant::now()).await.unwrap_err();
    assert_eq!(error, AcquireError::Starting { retry_after: Duration::from_secs(3) });
    assert!(matches!(world.commands.try_recv(), Ok(Command::Ensure(_))));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_wait_gets_an_exit_whose_claim_is_only_to_be_renewed() {
    let starting = Err(AcquireError::Starting { retry_after: Duration::from_secs(3) });
    let told = |answer: Result<crate::session::Grant, _>| answer.map(|grant| grant.exit.pod.to_string());

    let mut world = World::new();
    world.pod(0, true);
    world.quiet_claim();
    let asking = world.unwilling().await;
    world.claim();
    assert_eq!(told(asking.await.unwrap()), Ok(pod_name(UID, 0)));

    // The renewal finds that it is gone.
    let mut world = World::new();
    world.pod(0, true);
    world.quiet_claim();
    let asking = world.unwilling().await;
    let before = Instant::now();
    world.shared.index().remove_claim(&world.shared.table, &key().claim_name(), UID, false);
    assert_eq!(told(asking.await.unwrap()), starting);
    assert_eq!(before.elapsed(), Duration::ZERO);

    // It is not answered: the exit is used as it is.
    let mut world = World::new();
    world.pod(0, true);
    world.quiet_claim();
    let asking = world.unwilling().await;
    let before = Instant::now();
    assert_eq!(told(asking.await.unwrap()), Ok(pod_name(UID, 0)));
    assert!(before.elapsed() <= Duration::from_secs(3), "{:?}", before.elapsed());

    // One that is past its `ttl` is no exit for new requests.
    let mut world = World::new();
    world.pod(0, true);
    let past = crate::session::claim::format_time(SystemTime::now() - Duration::from_secs(1));
    world.claim_with(|lease| annotate(lease, note::EXPIRES, past));
    let asking = world.unwilling().await;
    let before = Instant::now();
    assert_eq!(told(asking.await.unwrap()), starting);
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn closing_sends_those_who_wait_away() {
    let world = World::new();
    let waiter = world.asks();
    while world.sessions.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    world.sessions.close();
    assert_eq!(waiter.await.unwrap().unwrap_err(), AcquireError::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_to_those_who_wait_and_tried_anew_for_those_who_come_later() {
    use crate::session::entry::ControlError;
    let world = World::new();
    let refused = world.asks();
    while world.sessions.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let entry = world.shared.table.entry(&key());
    entry.set_control_error(Some(ControlError::Forbidden("create leases".to_owned())));
    let error = refused.await.unwrap().unwrap_err();
    assert_eq!(error, AcquireError::ControlPlaneForbidden { message: "create leases".to_owned() });
    let before = Instant::now();
    let error = world.asks().await.unwrap().unwrap_err();
    assert_eq!(error, AcquireError::StartTimeout { last: None });
    assert_eq!(before.elapsed(), Duration::from_secs(90));
}

#[tokio::test]
async fn another_replicas_word_that_an_exit_is_dead_reaches_those_who_wait_for_its_answer() {
    let mut world = World::new();
    world.claim();
    world.pod(0, true);
    let exit = world.hit(&key()).unwrap().exit;
    let say = |world: &mut World, why: &str| {
        let word = serde_json::to_string(&Replace { transition: 0, why: why.to_owned() }).unwrap();
        world.claim_with(|lease| annotate(lease, note::REPLACE, word));
    };
    say(&mut world, "expired");
    assert!(!exit.dead.is_cancelled());
    say(&mut world, "dead");
    assert!(exit.dead.is_cancelled());
    assert!(!exit.gone.is_cancelled(), "its tunnels stay");
}

#[tokio::test(start_paused = true)]
async fn a_rest_is_told_to_those_who_come_during_it_and_the_failure_to_those_who_waited() {
    let until = SystemTime::now() + Duration::from_secs(40);
    let failed = |lease: &mut Lease| {
        let backoff =
            crate::session::claim::Backoff { since: SystemTime::now(), until, failures: 3, pool: false };
        let mut reason: Reason =
            serde_json::from_str(&reason(ReasonKind::Rejected, "tunnel_silent", 0)).unwrap();
        reason.backoff = Some(backoff);
        annotate(lease, note::REASON, serde_json::to_string(&reason).unwrap());
    };
    let mut world = World::new();
    world.claim();
    let waiter = world.asks();
    while world.sessions.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    world.claim_with(failed);
    let AcquireError::StartFailed { retry_after: Some(rest), .. } = waiter.await.unwrap().unwrap_err() else {
        panic!()
    };
    assert!(rest > Duration::from_secs(35) && rest <= Duration::from_secs(40), "{rest:?}");
    for deadline in [soon(), Instant::now()] {
        let error = world.sessions.acquire(&key(), &Lifetimes::default(), deadline).await.unwrap_err();
        let AcquireError::StartBackoff { message, retry_after } = error else { panic!("{error:?}") };
        assert!(retry_after > Duration::from_secs(35), "{retry_after:?}");
        assert!(message.contains("3 times") && message.contains("tunnel_silent"), "{message}");
    }
}
