//! Starts that fail again and again: they rest, for longer each time, and everyone is told since when and
//! why; what all servers share is told as one cause.

use std::time::{Duration, SystemTime};

use gluetun_gateway::simulator::gluetun::{Fault, FaultRules};

use crate::support::{Answer, Gateway, Options, World, eventually};

fn quick(o: &mut gluetun_gateway::simulator::gluetun::Options) {
    o.silent_check = Duration::from_millis(50);
}

/// All servers of a country are dead.
fn kill(world: &World, country: &str) {
    for n in 1..=9 {
        for city in ["got", "mma", "sto", "osl"] {
            for number in [n, 100 + n] {
                let server = format!("{country}-{city}-wg-{number:03}");
                world.gluetun.faults().set_for(&server, Fault::dead());
            }
        }
    }
}

async fn refused(gateway: &Gateway, user: &str) -> Answer {
    gateway.connect(user, "whoami.test:80").await.expect_err("no exit")
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").parse().unwrap_or_else(|_| panic!("{answer:?}"))
}

async fn failures(gateway: &Gateway) -> f64 {
    gateway.metric("gluetun_gateway_exits_failed_total", "").await
}

on_both! {
    async fn a_location_whose_servers_all_fail_rests_and_says_since_when(world: Options {
        gluetun: quick, ..Options::default()
    }) {
        let gateway = world.gateway(&[]).await;
        // Something else is up: it is not the key.
        gateway.exit("demo-country-us").await;
        kill(&world, "no");
        let before = SystemTime::now() - Duration::from_secs(2);
        // Norway has two servers. Both are tried, and then it rests.
        let first = refused(&gateway, "demo-country-no").await;
        assert_eq!((first.status, first.code()), (502, "start_failed"), "{}", first.text());
        assert!(first.text().contains("tunnel_silent"), "{}", first.text());
        assert!((1..=5).contains(&retry_after(&first)), "{first:?}");
        let failed = failures(&gateway).await;
        assert_eq!(failed, 2.0);
        // Whoever comes now, in whichever session, is told so at once, and no pod is tried.
        let users = ["demo-country-no", "demo-country-no-session-b", "alice-country-no"];
        let told = futures::future::join_all(users.map(|user| refused(&gateway, user))).await;
        for (user, told) in users.into_iter().zip(told) {
            assert_eq!((told.status, told.code()), (503, "start_backoff"), "{user}: {}", told.text());
            assert!((1..=5).contains(&retry_after(&told)), "{told:?}");
            let message = told.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("tunnel_silent"), "{message}");
            let since = message.split("since ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
            let since = humantime::parse_rfc3339(since).unwrap_or_else(|e| panic!("{e}: {message}"));
            assert!(since >= before && since <= SystemTime::now(), "{message}");
        }
        assert_eq!(failures(&gateway).await, failed);
        assert_eq!(gateway.metric("gluetun_gateway_start_backoffs", "").await, 1.0);
        // Another location is none of it.
        assert!(gateway.exit("demo-country-se").await.cold);
        // When the rest is over one is tried, and the next rest is longer.
        eventually("the next try", || async { refused(&gateway, "demo-country-no").await.code() == "start_failed" })
            .await;
        let told = refused(&gateway, "demo-country-no").await;
        assert_eq!(told.code(), "start_backoff");
        assert!((6..=10).contains(&retry_after(&told)), "{told:?}");
        assert!(told.text().contains("2 times"), "{}", told.text());
        // And when the servers are back, so is the location.
        world.gluetun.faults().clear();
        eventually("the location", || async { gateway.connect("demo-country-no", "whoami.test:80").await.is_ok() })
            .await;
        assert!(gateway.exit("demo-country-no-session-b").await.cold);
        assert_eq!(gateway.metric("gluetun_gateway_start_backoffs", "").await, 0.0);
    }
}

on_both! {
    async fn what_all_servers_share_is_told_as_one_cause(world: Options {
        gluetun: quick, ..Options::default()
    }) {
        let gateway = world.gateway(&[]).await;
        world.gluetun.faults().set(FaultRules { all: Fault::dead(), ..FaultRules::default() });
        // Three of Sweden: that may be Sweden.
        let first = refused(&gateway, "demo-country-se").await;
        assert_eq!(first.code(), "start_failed", "{}", first.text());
        assert!(!first.text().contains("subscription"), "{}", first.text());
        // And one of Norway: now it is what they share. No second is tried.
        let second = refused(&gateway, "demo-country-no").await;
        assert_eq!(second.code(), "start_failed", "{}", second.text());
        assert!(second.text().contains("key") && second.text().contains("subscription"), "{}", second.text());
        assert_eq!(failures(&gateway).await, 4.0);
        // So it is everywhere.
        let third = refused(&gateway, "demo-country-us").await;
        assert_eq!(third.code(), "start_backoff", "{}", third.text());
        assert!(third.text().contains("every location") && third.text().contains("subscription"), "{}", third.text());
        assert_eq!(failures(&gateway).await, 4.0);
    }
}

on_both! {
    async fn the_next_leader_keeps_to_a_rest_and_every_replica_answers_from_it(world) {
        let crash = Some("VPN settings: Wireguard settings: private key is not valid: AAEC".to_owned());
        world.gluetun.faults().set(FaultRules { all: Fault { crash, ..Fault::default() }, ..FaultRules::default() });
        let one = world.gateway(&[("POD_NAME", "gateway-1")]).await;
        eventually("a leader", || async { one.metric("gluetun_gateway_leader", "").await == 1.0 }).await;
        let two = world.gateway(&[("POD_NAME", "gateway-2")]).await;
        // Two rows, so that the rest is long enough to outlive the change of leaders.
        assert_eq!(refused(&one, "demo-country-se").await.code(), "start_failed");
        assert_eq!(refused(&two, "demo-country-se").await.code(), "start_backoff");
        eventually("the second try", || async { refused(&two, "demo-country-se").await.code() == "start_failed" }).await;
        let until = tokio::time::Instant::now() + Duration::from_secs(retry_after(&refused(&two, "demo-country-se").await));
        one.begin_shutdown();
        assert_eq!(one.ended().await, 0);
        eventually("the next leader", || async { two.metric("gluetun_gateway_leader", "").await == 1.0 }).await;
        assert!(tokio::time::Instant::now() + Duration::from_secs(2) < until, "this machine is too slow for the test");
        // A session that nobody has asked for yet: only the leader can tell of the rest.
        let told = refused(&two, "demo-country-us-session-new").await;
        assert_eq!(told.code(), "start_backoff", "{}", told.text());
        assert!(told.text().contains("bad_key") && told.text().contains("2 times"), "{}", told.text());
        assert_eq!(failures(&two).await, 0.0, "it has started nothing");
    }
}
