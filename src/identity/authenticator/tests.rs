//! Logins: what is checked, what is remembered, and how long an answer takes, on a paused clock.

use base64::Engine as _;
use std::task::{Context, Poll, Waker};

use super::*;

fn header(pair: &str) -> Vec<u8> {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)).into_bytes()
}

fn users(pairs: &[(&str, &str)]) -> Users {
    let line = |(name, password): &(&str, &str)| format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap());
    Users::parse(&pairs.iter().map(line).collect::<String>()).unwrap()
}

fn authenticator(pairs: &[(&str, &str)]) -> Authenticator {
    Authenticator::new(users(pairs)).unwrap()
}

/// Where the tests' client is.
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// Begins a future and leaves it where it waits.
fn begin<F: Future>(future: std::pin::Pin<&mut F>) {
    assert!(matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
}

#[tokio::test]
async fn a_right_password_is_let_in_and_remembered() {
    let auth = authenticator(&[("demo", "de:mo")]);
    let header = header("demo-country-se:de:mo");
    assert_eq!(auth.cached(&header), None);
    let login = auth.authenticate(&header).await.unwrap();
    assert_eq!((login.account.as_str(), login.username.as_str()), ("demo", "demo-country-se"));
    assert!(Arc::ptr_eq(&login, &auth.cached(&header).unwrap()));
    assert!(Arc::ptr_eq(&login, &auth.clone().authenticate(&header).await.unwrap()));
}

#[tokio::test]
async fn another_username_of_the_same_credential_costs_no_hash() {
    let auth = authenticator(&[("demo", "demo")]);
    for session in 0..100 {
        let login = auth.authenticate(&header(&format!("demo-session-{session}:demo"))).await.unwrap();
        assert_eq!(login.username, format!("demo-session-{session}"));
    }
    assert_eq!(auth.hashes(), 1);
}

/// Unknown account, wrong password, disabled account, impossible name: the same answer, no sooner than
/// the floor, whether or not it is remembered.
#[tokio::test(start_paused = true)]
async fn failures_are_alike_in_answer_and_in_time() {
    let disabled = format!("off:!{}\n", bcrypt::hash("x", 4).unwrap());
    let enabled = format!("demo:{}\n", bcrypt::hash("demo", 4).unwrap());
    let auth = Authenticator::new(Users::parse(&(disabled + &enabled)).unwrap()).unwrap();
    for pair in ["demo:wrong", "nobody:demo", "off:x", "Demo:demo", ":demo", "demo:", "-country-se:demo"] {
        for _ in 0..2 {
            let start = Instant::now();
            assert_eq!(auth.authenticate(&header(pair)).await, Err(AuthError::Refused), "{pair}");
            assert_eq!(start.elapsed(), FAILURE_FLOOR, "{pair}");
            assert_eq!(auth.cached(&header(pair)), None);
        }
    }
    let long = format!("demo:{}", "x".repeat(256));
    assert_eq!(auth.authenticate(&header(&long)).await, Err(AuthError::Refused));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_credential_is_told_at_once() {
    let auth = authenticator(&[("demo", "demo")]);
    let start = Instant::now();
    assert_eq!(auth.authenticate(b"Bearer x").await, Err(AuthError::Malformed));
    assert_eq!(auth.authenticate(&[b'x'; 5000]).await, Err(AuthError::Malformed));
    assert_eq!(auth.authenticate(&header("demo%2Dx:demo")).await, Err(AuthError::PercentEncoded));
    assert_eq!(auth.cached(&[b'x'; 5000]), None);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_for_ten_seconds() {
    let auth = authenticator(&[("demo", "demo")]);
    for session in 0..20 {
        auth.authenticate(&header(&format!("demo-session-{session}:wrong"))).await.unwrap_err();
    }
    assert_eq!(auth.hashes(), 1);
    tokio::time::advance(REFUSED_FOR).await;
    auth.authenticate(&header("demo:wrong")).await.unwrap_err();
    assert_eq!(auth.hashes(), 2);
}

/// Each way to fail is one hash, also where there is no account to take it from.
#[tokio::test(start_paused = true)]
async fn an_unknown_account_is_as_much_work_as_a_known_one() {
    let auth = authenticator(&[("demo", "demo")]);
    for (n, pair) in (1..).zip(["demo:wrong", "nobody:demo", "Demo:demo", ":demo"]) {
        auth.authenticate(&header(pair)).await.unwrap_err();
        assert_eq!(auth.hashes(), n, "{pair}");
    }
}

/// What an attacker can see of a guess at a name that exists and at one that does not: the answer, the
/// time that it takes, and how long others wait for the verifier meanwhile, which is its hashes.
#[tokio::test(start_paused = true)]
async fn guesses_at_known_and_unknown_accounts_are_equal_work_and_equal_time() {
    let auth = authenticator(&[("demo", "demo"), ("anna", "x")]);
    let mut spent = Vec::new();
    for account in ["demo", "nobody"] {
        let (start, before) = (Instant::now(), auth.hashes());
        for n in 0..20 {
            let guess = header(&format!("{account}-session-{n}:guess{n}"));
            let error = auth.authenticate_from(&guess, Some(HERE)).await.unwrap_err();
            assert_eq!(error, AuthError::Refused);
        }
        spent.push((auth.hashes() - before, start.elapsed()));
    }
    assert_eq!(spent[0], spent[1]);
    assert_eq!(spent[0], (20, FAILURE_FLOOR * 20));
}

#[tokio::test(start_paused = true)]
async fn failures_are_slowed_by_address_and_what_is_remembered_is_not() {
    let rate = "3/30s".parse().unwrap();
    let pairs = [("demo", "demo"), ("anna", "x")];
    let auth = Authenticator::throttled(users(&pairs), Throttle::new(Some(rate))).unwrap();
    let from = async |pair: &str, client: IpAddr| auth.authenticate_from(&header(pair), Some(client)).await;
    let there: IpAddr = "192.0.2.2".parse().unwrap();
    assert!(from("demo-country-se:demo", HERE).await.is_ok());
    for guess in 0..3 {
        assert_eq!(from(&format!("demo:{guess}"), HERE).await, Err(AuthError::Refused));
    }
    let hashes = auth.hashes();
    let begun = Instant::now();
    for pair in ["demo:4", "anna:x", "nobody:x", "demo:", "demo:0"] {
        let Err(AuthError::Throttled { retry_after }) = from(pair, HERE).await else { panic!("{pair}") };
        assert!(retry_after <= Duration::from_secs(10) && retry_after > Duration::from_secs(9));
    }
    assert_eq!((auth.hashes(), begun.elapsed()), (hashes, Duration::ZERO), "it costs nothing");
    // A password that is remembered as right, under any username.
    assert!(from("demo-country-se:demo", HERE).await.is_ok());
    assert!(from("demo-session-new:demo", HERE).await.is_ok());
    // Nobody else is locked out: not the account that was guessed at, nor another address.
    assert!(from("anna:x", there).await.is_ok());
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(from("demo:5", HERE).await, Err(AuthError::Refused));
    assert!(matches!(from("demo:6", HERE).await, Err(AuthError::Throttled { .. })));
}

#[tokio::test]
async fn a_change_of_the_file_is_in_force_at_once() {
    let auth = authenticator(&[("demo", "old"), ("gone", "x")]);
    let old = header("demo:old");
    auth.authenticate(&old).await.unwrap();
    auth.authenticate(&header("gone:x")).await.unwrap();
    auth.authenticate(&header("demo:new")).await.unwrap_err();
    auth.replace(users(&[("demo", "new")]));
    assert_eq!(auth.accounts(), 1);
    assert_eq!((auth.cached(&old), auth.cached(&header("gone:x"))), (None, None));
    assert_eq!(auth.authenticate(&old).await, Err(AuthError::Refused));
    assert_eq!(auth.authenticate(&header("gone:x")).await, Err(AuthError::Refused));
    assert!(auth.authenticate(&header("demo:new")).await.is_ok(), "the refusal was forgotten too");
}

/// A check against accounts that are gone when it ends counts for nothing.
#[tokio::test]
async fn a_change_during_a_check_leaves_nothing_stale() {
    let auth = authenticator(&[("demo", "old")]);
    let old = header("demo:old");
    let mut checking = std::pin::pin!(auth.authenticate(&old));
    {
        let _gate = auth.shared.credentials.hold();
        begin(checking.as_mut());
    }
    auth.replace(users(&[("demo", "new")]));
    assert_eq!(checking.await, Err(AuthError::Refused));
    assert_eq!((auth.cached(&old), auth.hashes()), (None, 2));
}

#[tokio::test]
async fn a_credential_has_one_flight_however_many_wait() {
    let auth = authenticator(&[("demo", "demo")]);
    let headers: Vec<_> = (0..1000).map(|n| header(&format!("demo-session-{n}:demo"))).collect();
    let mut waiting: Vec<_> = headers.iter().map(|header| Box::pin(auth.authenticate(header))).collect();
    {
        let _gate = auth.shared.credentials.hold();
        for wait in &mut waiting {
            begin(wait.as_mut());
        }
        assert_eq!(auth.shared.verifier.in_flight(), 1);
    }
    for (n, wait) in waiting.into_iter().enumerate() {
        assert_eq!(wait.await.unwrap().username, format!("demo-session-{n}"));
    }
    assert_eq!((auth.hashes(), auth.shared.verifier.in_flight()), (1, 0));
}

#[tokio::test]
async fn a_full_queue_says_so_and_checks_nothing_for_clients_that_have_left() {
    let auth = authenticator(&[("demo", "demo")]);
    let first = header("demo:demo");
    let mut first = std::pin::pin!(auth.authenticate(&first));
    let headers: Vec<_> = (0..80).map(|n| header(&format!("demo:{n}"))).collect();
    let mut waiting: Vec<_> = headers.iter().map(|header| Box::pin(auth.authenticate(header))).collect();
    {
        let _gate = auth.shared.credentials.hold();
        begin(first.as_mut());
        let mut busy = 0;
        for wait in &mut waiting {
            match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => {}
                Poll::Ready(Err(AuthError::Busy)) => busy += 1,
                Poll::Ready(other) => panic!("{other:?}"),
            }
        }
        // 64 wait in the queue: with or without the first, which the thread may have taken already.
        assert!((16..=17).contains(&busy), "{busy}");
        drop(waiting);
    }
    assert!(first.await.is_ok());
    // One behind all those that were given up. The queue may still be full of them.
    while auth.authenticate(&header("demo:last")).await == Err(AuthError::Busy) {
        tokio::task::yield_now().await;
    }
    assert_eq!((auth.hashes(), auth.shared.verifier.in_flight()), (2, 0));
}

#[tokio::test]
async fn works_from_any_thread_and_ends_its_own() {
    let auth = authenticator(&[("demo", "demo")]);
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let auth = auth.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    auth.authenticate(&header(&format!("demo-session-{n}:demo"))).await.unwrap();
                    auth.authenticate(&header("demo:wrong")).await.unwrap_err();
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let credentials = Arc::downgrade(&auth.shared.credentials);
    drop(auth);
    // The thread holds the last reference until it notices that its queue is closed.
    while credentials.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn debug_shows_no_secret() {
    assert_eq!(format!("{:?}", authenticator(&[("demo", "demo")])), "Authenticator { accounts: 1, .. }");
}
