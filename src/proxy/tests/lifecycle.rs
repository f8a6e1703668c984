//! Connections from accept to close: time limits, numbers and the drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::rig::{answer, ask, connect, rest};
use super::*;
use crate::drain::{Drained, Phase};

#[tokio::test]
async fn a_slow_head_is_timed_out() {
    let gateway = Gateway::with(None, |shared| shared.timings.head = Duration::from_millis(300));
    let mut silent = gateway.connect().await;
    let mut slow = gateway.connect().await;
    slow.write_all(b"CONNECT a:1 HTTP/1.1\r\nHost").await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let answer = answer(stream).await;
        assert_eq!((answer.status, answer.code()), (408, "head_timeout"));
        assert_eq!(rest(stream).await, b"");
    }
    // Also behind a challenge, and behind a plain request.
    let (mut after, _) = gateway.ask("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    after.write_all(b"CONNECT").await.unwrap();
    assert_eq!(answer(&mut after).await.code(), "head_timeout");
    let (mut plain, _) = gateway.ask("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    plain.write_all(b"GET http").await.unwrap();
    let told = answer(&mut plain).await;
    assert_eq!((told.status, told.code()), (408, "head_timeout"));
    assert_eq!(rest(&mut plain).await, b"");
    // A client that says nothing of its own is no request.
    drop(gateway.connect().await);
    eventually("their ends", || gateway.metrics().connections_open.get() == 0).await;
    assert_eq!(gateway.requests("none", "head_timeout"), 4);
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let pod = Pod::start().await;
    let gateway = Gateway::with(Some(&pod), |shared| {
        shared.timings.keep_alive = Duration::from_millis(400);
        shared.timings.head = Duration::from_millis(200);
    });
    for first in ["CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let (mut stream, _) = gateway.ask(first).await;
        let begun = Instant::now();
        assert_eq!(rest(&mut stream).await, b"");
        assert!(begun.elapsed() >= Duration::from_millis(350), "{first}: {:?}", begun.elapsed());
    }
    // An answer may take longer than either limit.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    pod.route("slow.test:80", Route::To(listener.local_addr().unwrap()));
    let mut stream = gateway.connect().await;
    let auth = basic("demo", "open:sesame");
    stream
        .write_all(format!("GET http://slow.test/ HTTP/1.1\r\nHost: a\r\n{auth}\r\n").as_bytes())
        .await
        .unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    origin.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(answer(&mut stream).await.text(), "ok");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_one_to_end() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::with(Some(&pod), |shared| shared.slots = std::sync::Arc::new(Semaphore::new(2)));
    let (first, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!(answer.status, 200);
    let (_second, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!(answer.status, 200);
    let mut third = gateway.connect().await;
    third.write_all(connect("echo.test:7", "demo").as_bytes()).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), third.read_u8()).await;
    assert!(early.is_err(), "served over the limit");
    assert_eq!(gateway.metrics().connections_open.get(), 2);
    drop(first);
    assert_eq!(super::rig::answer(&mut third).await.status, 200);
}

#[tokio::test]
async fn a_drain_serves_what_is_queued_tells_waiters_and_waits_for_tunnels() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let mut gateway = Gateway::start(Some(&pod));
    let (mut tunnel, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!(answer.status, 200);
    gateway.table.set_ready(None);
    let mut waiter = gateway.connect().await;
    waiter.write_all(connect("echo.test:7", "demo").as_bytes()).await.unwrap();
    gateway.table.until_waiting(1).await;
    let (mut idle, _) = gateway.ask("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut challenged, _) = gateway.ask("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").await;

    // Lame: new connections are still served.
    gateway.shutdown.advance(Phase::Lame);
    let (mut late, answer) = gateway.ask("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.status, 407);
    // What is in the queue when it closes is served.
    let queued: Vec<TcpStream> = futures::future::join_all((0..20).map(|_| gateway.connect())).await;
    let drain = tokio::spawn({
        let shutdown = gateway.shutdown.clone();
        async move { shutdown.run(Duration::ZERO, Duration::from_secs(60)).await }
    });
    for mut stream in queued {
        let answer = ask(&mut stream, &connect("echo.test:7", "demo")).await;
        assert_eq!((answer.status, answer.code()), (503, "shutting_down"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let told = super::rig::answer(&mut waiter).await;
    assert_eq!(told.code(), "shutting_down");
    for stream in [&mut idle, &mut challenged, &mut late] {
        assert_eq!(rest(stream).await, b"");
    }
    assert!(TcpStream::connect(gateway.addr).await.is_err());
    // The tunnel goes on, and its end is the drain's.
    tunnel.write_all(b"still").await.unwrap();
    tunnel.read_exact(&mut [0; 5]).await.unwrap();
    drop((waiter, idle, challenged, late));
    eventually("all others ended", || gateway.metrics().connections_open.get() == 1).await;
    assert!(!drain.is_finished());
    tunnel.shutdown().await.unwrap();
    assert_eq!(rest(&mut tunnel).await, b"");
    assert_eq!(drain.await.unwrap(), Drained::Clean);
    let proxy = gateway.proxy.take().unwrap();
    assert_eq!(tokio::task::spawn_blocking(|| proxy.join()).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn what_outlasts_the_drain_is_reset_and_recorded() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let mut gateway = Gateway::start(Some(&pod));
    let (mut tunnel, _) = gateway.tunnel("echo.test:7").await;
    let begun = Instant::now();
    let drained = gateway.shutdown.run(Duration::ZERO, Duration::from_millis(200)).await;
    assert_eq!(drained, Drained::Forced(1));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let error = tunnel.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut proxy = gateway.proxy.take().unwrap();
    let mut ended = [proxy.thread_ended().await, proxy.thread_ended().await];
    ended.sort_unstable();
    assert_eq!(ended, [0, 1]);
    assert_eq!(proxy.join(), Ok(()));
    assert_eq!(gateway.requests("connect", "cut"), 1);
    assert_eq!(gateway.metrics().connections_open.get(), 0);
    assert_eq!(gateway.metrics().tunnels_open.get(), 0);
}

#[tokio::test]
async fn those_who_have_not_logged_in_make_room_for_newer_ones() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::threads(1, Some(&pod), |shared| {
        shared.most_newcomers = 3;
        shared.slots = Arc::new(Semaphore::new(5));
    });
    let open = || gateway.metrics().connections_open.get();
    let (mut tunnel, _) = gateway.tunnel("echo.test:7").await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(gateway.connect().await);
    }
    let (mut challenged, answer) = gateway.ask("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.status, 407);
    assert_eq!(rest(&mut idle[0]).await, b"", "the oldest of four");
    // Again four of them, until the last has logged in.
    let (_second, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!(answer.status, 200);
    assert_eq!(rest(&mut idle[1]).await, b"");
    let (_third, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!((answer.status, open()), (200, 5));
    // They are few, but the gateway is full.
    let (_fourth, answer) = gateway.tunnel("echo.test:7").await;
    assert_eq!(answer.status, 200);
    assert_eq!(rest(&mut idle[2]).await, b"");
    assert_eq!(ask(&mut challenged, &connect("echo.test:7", "demo")).await.status, 200);
    tunnel.write_all(b"still").await.unwrap();
    tunnel.read_exact(&mut [0; 5]).await.unwrap();
    assert_eq!(open(), 5);
    assert_eq!(gateway.metrics().connections_unauthenticated.get(), 0);
}

/// Of each open connection to a pod, whether the kernel has a timer to ask the pod whether it lives.
#[cfg(target_os = "linux")]
fn asked_for_life(pod: &Pod) -> Vec<bool> {
    let port = format!(":{:04X}", pod.addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    // The columns are remote address, state (1 and 5 are open and half open) and timer (2 is that of keep-alive).
    rows.filter(|row| row[2].ends_with(&port) && ["01", "05"].contains(&row[3]))
        .map(|row| row[5].starts_with("02:"))
        .collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_exit_is_asked_whether_it_lives_by_tunnels_that_last() {
    let pod = Pod::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    pod.route("origin.test:80", Route::To(listener.local_addr().unwrap()));
    let gateway = Gateway::start(Some(&pod));
    let (mut open, _) = gateway.tunnel("origin.test:80").await;
    let (_origin, _) = listener.accept().await.unwrap();
    eventually("no check any more", || asked_for_life(&pod).len() == 1).await;
    open.write_all(b"x").await.unwrap();
    assert_eq!(asked_for_life(&pod), [false]);
    drop((gateway, open));
    eventually("its end", || asked_for_life(&pod).is_empty()).await;

    let gateway = Gateway::with(Some(&pod), |shared| shared.timings.rounds = Duration::from_millis(50));
    let (_open, _) = gateway.tunnel("origin.test:80").await;
    let (mut half, _) = gateway.tunnel("origin.test:80").await;
    half.shutdown().await.unwrap();
    eventually("rounds", || asked_for_life(&pod) == [true, true]).await;

    // What is kept for plain HTTP is asked from its beginning.
    let gateway = Gateway::start(Some(&pod));
    let mut plain = gateway.connect().await;
    let auth = basic("demo", "open:sesame");
    let get = format!("GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n{auth}\r\n");
    plain.write_all(get.as_bytes()).await.unwrap();
    eventually("its connection", || asked_for_life(&pod) == [true, true, true]).await;
}

#[tokio::test]
async fn a_half_open_tunnel_that_falls_silent_ends_though_its_clock_starts_late() {
    let pod = Pod::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    pod.route("silent.test:80", Route::To(listener.local_addr().unwrap()));
    let gateway = Gateway::with(Some(&pod), |shared| {
        shared.timings.rounds = Duration::from_millis(100);
        shared.timings.half_idle = Duration::from_millis(50);
    });
    let (_open, _) = gateway.tunnel("silent.test:80").await;
    let (mut half, _) = gateway.tunnel("silent.test:80").await;
    half.shutdown().await.unwrap();
    eventually("its end", || gateway.requests("connect", "idle") == 1).await;
    assert_eq!(gateway.metrics().tunnels_open.get(), 1);
}

#[tokio::test]
async fn a_connection_that_was_handed_over_is_served_like_any_other() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::start(Some(&pod));
    // Of three connections the third is handed over if a hash has the same thread for all: one time in four.
    for _ in 0..200 {
        let mut tunnels = Vec::new();
        for n in 0..3 {
            let (mut tunnel, answer) = gateway.tunnel("echo.test:7").await;
            assert_eq!(answer.status, 200);
            tunnel.write_all(&[n]).await.unwrap();
            assert_eq!(tunnel.read_u8().await.unwrap(), n);
            tunnels.push(tunnel);
        }
        drop(tunnels);
        eventually("their ends", || gateway.metrics().connections_open.get() == 0).await;
        if gateway.metrics().connections_moved.get() > 0 {
            return;
        }
    }
    panic!("none is handed over");
}

#[tokio::test]
async fn a_place_that_becomes_free_serves_somebody_at_once() {
    let pod = Pod::start().await;
    pod.route("echo.test:7", Route::To(echo().await));
    let gateway = Gateway::with(Some(&pod), |shared| shared.slots = Arc::new(Semaphore::new(3)));
    for _ in 0..40 {
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(gateway.tunnel("echo.test:7").await.0);
        }
        let (mut one, mut other) = (gateway.connect().await, gateway.connect().await);
        for waiting in [&mut one, &mut other] {
            waiting.write_all(connect("echo.test:7", "demo").as_bytes()).await.unwrap();
        }
        drop(open.pop());
        // Whose turn it is, is the kernel's to say: the thread that gets the place may have neither.
        tokio::time::timeout(Duration::from_secs(20), async {
            tokio::select! {
                status = answer(&mut one) => assert_eq!(status.status, 200),
                status = answer(&mut other) => assert_eq!(status.status, 200),
            }
        })
        .await
        .expect("an answer");
        drop((open, one, other));
        eventually("their ends", || gateway.metrics().connections_open.get() == 0).await;
    }
}
