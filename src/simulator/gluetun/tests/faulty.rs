//! Faults: dead exits, silent tunnels, slow and failed starts.

use super::*;
use crate::simulator::gluetun::{Fault, FaultRules};

/// Long enough to be out of the way of a paused clock.
const NEVER: Duration = Duration::from_secs(1_000_000);

fn dead_for_long() -> Options {
    Options { dead_health: NEVER, ..instant() }
}

#[tokio::test]
async fn a_dead_exit_calls_itself_healthy_and_answers_late() {
    for (dns, text, after) in [
        ("plain", "dial tcp: lookup whoami.test on 127.0.0.1:53: server misbehaving\n", 4),
        ("dot", "->127.0.0.1:53: i/o timeout\n", 10),
    ] {
        let gluetun = Arc::new(Gluetun::new(dead_for_long()));
        let mut pod = Pod::run(&gluetun, spec(&[("DNS_UPSTREAM_RESOLVER_TYPE", dns)]));
        pod.logged("healthy!").await;
        gluetun.faults().set_for(SERVER, Fault::dead());
        assert_eq!(pod.health().await.0, 200);
        let mut clients = [pod.ask("whoami.test:80", "").await, pod.ask("192.0.2.1:80", ANNOUNCED).await];
        tokio::time::pause();
        let asked = Instant::now();
        let reply = clients[0].reply().await;
        assert!(reply.status == 503 && reply.body.ends_with(text), "{reply:?}");
        took(asked, after);
        let reply = clients[1].reply().await;
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (503, "dial tcp 192.0.2.1:80: connect: connection timed out\n")
        );
        took(asked, 134);
        assert_eq!(pod.health().await.0, 200);
        tokio::time::resume();
        // The control server needs no tunnel.
        pod.tunnel("127.0.0.1:8000").await;
    }
}

#[tokio::test]
async fn open_tunnels_stall_and_go_on_after_a_revival() {
    let (listener, mut options) = origin("far.example").await;
    options.dead_health = NEVER;
    let pod = Pod::up(options).await;
    let mut client = pod.tunnel("far.example:80").await;
    let (mut server, _) = listener.accept().await.unwrap();
    let faults = pod.gluetun.faults();
    faults.set(FaultRules { all: Fault::dead(), ..FaultRules::default() });
    // A lookup that fails proves that the fault is in force.
    tokio::time::pause();
    assert_eq!(pod.answer("whoami.test:80").await.0, 503);
    client.send("up").await;
    server.write_all(b"down").await.unwrap();
    let mut nothing = [0; 8];
    assert!(tokio::time::timeout(Duration::from_secs(100), client.stream.peek(&mut nothing)).await.is_err());
    assert!(tokio::time::timeout(Duration::from_secs(100), server.peek(&mut nothing)).await.is_err());
    tokio::time::resume();
    faults.clear();
    assert_eq!(client.bytes(4).await, "down");
    let mut up = [0; 2];
    server.read_exact(&mut up).await.unwrap();
    assert_eq!(&up, b"up");
    assert_eq!(pod.health().await.0, 200);
    pod.tunnel("whoami.test:80").await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stalled_tunnel_ends_it() {
    let (listener, mut options) = origin("far.example").await;
    options.dead_health = NEVER;
    let pod = Pod::up(options).await;
    let mut client = pod.tunnel("far.example:80").await;
    let (mut server, _) = listener.accept().await.unwrap();
    pod.gluetun.faults().set_for("gluetun-1", Fault::dead());
    client.send("lost").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "");
    server.read_to_end(&mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_hanging_dial_goes_on_at_its_next_syn() {
    let pod = Pod::up(dead_for_long()).await;
    pod.gluetun.faults().set_for(SERVER, Fault::dead());
    let mut client = pod.ask("1.1.1.1:53", ANNOUNCED).await;
    tokio::time::pause();
    let asked = Instant::now();
    let revived = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        pod.gluetun.faults().clear();
    };
    let ((), head) = tokio::join!(revived, client.head());
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    took(asked, 7);
}

#[tokio::test]
async fn a_noticed_death_is_a_500_and_breaks_old_tunnels() {
    let mut pod = Pod::up(instant()).await;
    let mut old = pod.tunnel("echo.test:7").await;
    pod.gluetun.faults().set_for(SERVER, Fault { healthy_for_ms: Some(1), ..Fault::dead() });
    pod.logged("failed to pass the healthcheck").await;
    let (status, body) = pod.health().await;
    assert_eq!(status, 500);
    assert!(body.starts_with("startup check: all check tries failed: "), "{body}");
    pod.gluetun.faults().clear();
    assert_eq!(old.rest().await, "");
    assert_eq!(pod.health().await, (200, String::new()));
    let mut new = pod.tunnel("echo.test:7").await;
    new.send("hi").await;
    assert_eq!(new.bytes(2).await, "hi");
}

#[tokio::test(start_paused = true)]
async fn death_is_noticed_after_150_seconds() {
    let mut pod = Pod::run(&Arc::new(Gluetun::default()), spec(&[]));
    pod.logged("healthy!").await;
    let died = Instant::now();
    pod.gluetun.faults().set_for(SERVER, Fault::dead());
    pod.logged("failed to pass the healthcheck").await;
    took(died, 150);
}

#[tokio::test]
async fn a_silent_tunnel_says_so_and_recovers() {
    for fault in [Fault { silent: true, ..Fault::default() }, Fault::dead()] {
        let gluetun = Arc::new(Gluetun::new(Options { silent_check: Duration::from_millis(1), ..instant() }));
        gluetun.faults().set_for(SERVER, fault);
        let mut pod = Pod::run(&gluetun, spec(&[]));
        pod.logged("failed to pass the healthcheck").await;
        let reason = "startup check: all check tries failed: parallel attempt 1/2 failed: dialing: dial tcp4 \
                      1.1.1.1:443: i/o timeout, parallel attempt 2/2 failed: dialing: dial tcp4 8.8.8.8:443: i/o timeout\n";
        assert_eq!(pod.health().await, (500, reason.to_owned()));
        gluetun.faults().clear();
        pod.logged("healthy!").await;
        assert_eq!(pod.health().await, (200, String::new()));
    }
}

#[tokio::test(start_paused = true)]
async fn silence_shows_6_seconds_after_it_listens_and_a_delay_is_kept() {
    let gluetun = Arc::new(Gluetun::default());
    gluetun.faults().set_for("us-nyc-wg-301", Fault { silent: true, ..Fault::default() });
    gluetun.faults().set_for("gb-lon-wg-001", Fault { delay_ms: Some(3000), ..Fault::default() });
    for (server, line, at) in [
        ("us-nyc-wg-301", "failed to pass the healthcheck", 1400 + 6100),
        ("gb-lon-wg-001", "healthy!", 5000),
        (SERVER, "healthy!", 2000),
    ] {
        let exec = Instant::now();
        let mut pod = Pod::run(&gluetun, spec(&[("SERVER_HOSTNAMES", server)]));
        pod.logged(line).await;
        took_ms(exec, at);
    }
}

#[tokio::test]
async fn a_running_exit_does_not_mind_a_fault_of_starts() {
    let pod = Pod::up(instant()).await;
    let faults = pod.gluetun.faults();
    let crash = Some("creating tun device: made up".to_owned());
    faults.set(FaultRules {
        all: Fault { silent: true, never_healthy: true, crash, ..Fault::default() },
        ..FaultRules::default()
    });
    pod.tunnel("whoami.test:80").await;
    assert_eq!(pod.health().await.0, 200);
    let second = Pod::run(&pod.gluetun, spec(&[]));
    let log = second.log.clone();
    assert_eq!(second.ended().await, Exit::code(1));
    assert!(log.lines().iter().any(|line| line.ends_with(" ERROR creating tun device: made up")));
}

#[tokio::test]
async fn filters_that_no_server_matches_never_become_healthy() {
    let mut pod = Pod::run(&Arc::new(Gluetun::new(instant())), spec(&[("SERVER_COUNTRIES", "Japan")]));
    pod.logged("ERROR [vpn] finding a valid server connection: no server found").await;
    assert_eq!(pod.health().await, (500, "healthcheck did not run yet\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_faults_holds_for_the_very_next_request() {
    let pod =
        Pod::up(Options { lookup_timeout: Duration::from_millis(1), dead_health: NEVER, ..instant() }).await;
    for _ in 0..100 {
        pod.gluetun.faults().set_for(SERVER, Fault { healthy_for_ms: Some(0), ..Fault::dead() });
        assert_eq!(pod.answer("whoami.test:80").await.0, 503);
        pod.gluetun.faults().clear();
        assert_eq!(pod.answer("whoami.test:80").await.0, 200);
        assert_eq!(pod.health().await.0, 200);
    }
}
