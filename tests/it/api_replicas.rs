//! The management API of several replicas: whichever answers, all of them keep its word.

use std::time::{Duration, Instant};

use gluetun_gateway::simulator::api::WatchFilter;
use kube::api::PostParams;
use serde_json::json;

use crate::api::{destroy, error, seen_through, start, text};
use crate::support::http::{connect, get, post};
use crate::support::{Options, World, eventually, foreign_pod};

on_both! {
    async fn a_service_url_works_everywhere_within_a_second_and_nowhere_after_destroy(world: Options {
        // The kubelet says Ready a second after the pod is: the other replica must find out by itself.
        kubelet: |kubelet| kubelet.first_probe = Duration::from_secs(3),
        ..Options::default()
    }) {
        let one = world.gateway(&[("POD_NAME", "gateway-1")]).await;
        let two = world.gateway(&[("POD_NAME", "gateway-2")]).await;
        let started = start(&one, json!({ "country": "Sweden" })).await;
        let answered = Instant::now();
        let (user, password) = (text(&started, "username"), text(&started, "password"));
        let name = text(&started, "pod_name");
        assert_eq!(seen_through(two.proxy, user, password).await.unwrap(), name);
        assert!(answered.elapsed() < Duration::from_secs(1), "{:?}", answered.elapsed());
        assert_eq!(seen_through(one.proxy, user, password).await.unwrap(), name);
        assert_eq!(get(two.admin, "/status").await.json()[text(&started, "id")]["service_url"], started["service_url"]);

        let mut here = connect(one.proxy, user, password, "echo-origin.test:7").await.unwrap();
        let mut there = connect(two.proxy, user, password, "echo-origin.test:7").await.unwrap();
        assert_eq!((here.echo(b"a").await, there.echo(b"b").await), (b"a".to_vec(), b"b".to_vec()));
        // Destroyed by the one that has not started it.
        assert_eq!(destroy(&two, &started["id"]).await.status, 200);
        assert_eq!(get(two.admin, "/status").await.json(), json!({}));
        here.closed().await;
        there.closed().await;
        let refused = seen_through(two.proxy, user, password).await.unwrap_err();
        assert_eq!(refused.status, 407, "{refused:?}");
        // The other learns of it by its watch.
        eventually("the other to refuse", || async {
            seen_through(one.proxy, user, password).await.is_err_and(|refused| refused.status == 407)
        })
        .await;
        assert_eq!(get(one.admin, "/status").await.json(), json!({}));
        assert_eq!(error(&destroy(&one, &started["id"]).await).0, 404);
        world.emptied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_waits_for_a_watch_that_lags_and_a_wrong_one_no_longer() {
    let world = World::embedded().await;
    let one = world.gateway(&[("POD_NAME", "gateway-1")]).await;
    let two = world.gateway(&[("POD_NAME", "gateway-2")]).await;
    let faults = world.api().faults();
    // A login waits a second for the pod that it names: a machine that is slower than that has another try.
    let mut tries = 5;
    let user = loop {
        faults.stall_watches(&WatchFilter::all().from_agent("gateway-2"));
        let started = start(&one, json!({ "country": "Sweden" })).await;
        let (user, password) = (text(&started, "username"), text(&started, "password"));
        // Its pod is not known there, nor can it be shown by any list: the request is held, not refused.
        let begun = Instant::now();
        let held = seen_through(two.proxy, user, password);
        let release = async {
            eventually("the request", || async {
                two.metric("gluetun_gateway_connections_open", "").await == 1.0
            })
            .await;
            faults.release_watches(&WatchFilter::all());
            begun.elapsed()
        };
        let (seen, released) = tokio::join!(held, release);
        tries -= 1;
        match seen {
            Ok(pod) => {
                assert_eq!(pod, text(&started, "pod_name"));
                break user.to_owned();
            }
            Err(refused) => assert!(
                tries > 0 && refused.status == 407 && released > Duration::from_millis(500),
                "{} after {released:?}",
                refused.status
            ),
        }
        assert_eq!(destroy(&one, &started["id"]).await.status, 200);
        eventually("its end", || async { world.live_pods().await.is_empty() }).await;
    };
    let user = user.as_str();

    // A pod that another replica has started just now can be destroyed by one that has not seen it.
    faults.stall_watches(&WatchFilter::all().from_agent("gateway-2"));
    let unseen = start(&one, json!({ "country": "Germany" })).await;
    assert_eq!(destroy(&two, &unseen["id"]).await.status, 200);
    faults.release_watches(&WatchFilter::all());
    eventually("its end", || async { world.live_pods().await.len() == 1 }).await;
    assert_eq!(get(two.admin, "/status").await.json().as_object().unwrap().len(), 1);

    // Whether the user exists shows neither in the answer nor in its time.
    let mut times = Vec::new();
    let mut bodies = Vec::new();
    for (user, password) in [(user, "wrong"), ("pod.00000000000000000000", "wrong")] {
        let begun = Instant::now();
        let refused = seen_through(one.proxy, user, password).await.unwrap_err();
        times.push(begun.elapsed());
        assert_eq!(refused.status, 407);
        let mut body = refused.json();
        body.as_object_mut().unwrap().remove("request_id");
        bodies.push(body);
    }
    assert!(times.iter().all(|time| *time >= Duration::from_secs(1)), "{times:?}");
    assert_eq!(bodies[0], bodies[1]);
}

on_both! {
    async fn pods_of_another_system_are_shown_count_and_can_be_destroyed(world) {
        world.pods().create(&PostParams::default(), &foreign_pod("no-osl-wg-001")).await.unwrap();
        let gateway = world.gateway(&[("INSTANCE_LIMIT", "2")]).await;
        let id = "11111111-2222-3333-4444-555555555555";
        eventually("it to run", || async {
            get(gateway.admin, "/status").await.json()[id]["status"] == "running"
        })
        .await;
        let status = get(gateway.admin, "/status").await.json();
        assert_eq!(text(&status[id], "server"), "norway-oslo-no-osl-wg-001");
        assert_eq!((text(&status[id], "username"), text(&status[id], "password")), ("old", "old-password"));
        assert!(status[id]["service_url"].is_null(), "its credentials do not work at the gateway");
        // Its server is avoided, and it takes a place.
        let started = start(&gateway, json!({ "country": "Norway" })).await;
        let status = get(gateway.admin, "/status").await.json();
        assert_eq!(text(&status[text(&started, "id")], "server"), "norway-oslo-no-osl-wg-002");
        let full = post(gateway.admin, "/start", &json!({ "country": "Sweden" })).await;
        assert_eq!(error(&full), (429, "Instance limit reached".to_owned()));
        assert_eq!(destroy(&gateway, &json!(id)).await.status, 200);
        assert!(get(gateway.admin, "/status").await.json().get(id).is_none());
        start(&gateway, json!({ "country": "Sweden" })).await;
        eventually("it to be gone", || async { world.pods().get_opt("gluetun-11111111-2222-3333-4444-555555555555").await.unwrap().is_none() }).await;
    }
}
