//! The management API, row by row of what the original system answered: its clients must not notice the
//! change.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gluetun_gateway::simulator::gluetun::{Fault, FaultRules};
use serde_json::{Value, json};

use crate::support::http::{Answer, connect, get, post};
use crate::support::{Gateway, World, eventually};

/// Starts a pod; the answer's body.
pub async fn start(gateway: &Gateway, body: Value) -> Value {
    let answer = post(gateway.admin, "/start", &body).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    answer.json()
}

/// Destroys a pod.
pub async fn destroy(gateway: &Gateway, id: &Value) -> Answer {
    post(gateway.admin, "/destroy", &json!({ "id": id })).await
}

pub fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_else(|| panic!("{name} is no text in {object}"))
}

/// The status and the error of an answer.
pub fn error(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    assert!(!answer.header("x-request-id").is_empty(), "{answer:?}");
    (answer.status, text(&answer.json(), "error").to_owned())
}

/// Which pod a request with these credentials leaves from.
pub async fn seen_through(proxy: SocketAddr, user: &str, password: &str) -> Result<String, Answer> {
    let mut tunnel = connect(proxy, user, password, "whoami.test:80").await?;
    Ok(text(&tunnel.get("whoami.test").await.json(), "pod").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_filtered_as_the_original_did() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let servers = async |query: &str| get(gateway.admin, &format!("/servers{query}")).await.json();
    let all = servers("").await;
    let all = all.as_object().unwrap();
    assert!(all.len() > 100);
    let record = &all["usa-new-york-ny-us-nyc-wg-301"];
    for name in ["vpn", "country", "city", "hostname", "isp", "wgpubkey", "ips"] {
        assert!(!record[name].is_null(), "{name} of {record}");
    }
    assert!(all.values().all(|record| record["vpn"] == "wireguard"));
    assert!(all.contains_key("sweden-malmö-se-mma-wg-001"));

    let cities = async |query: &str| {
        let found = servers(query).await;
        let cities = found.as_object().unwrap().values().map(|record| text(record, "city").to_owned());
        cities.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    for (query, expected) in [
        ("?country=sweden", &["Gothenburg", "Malmö", "Stockholm"][..]),
        ("?country=SWE", &["Gothenburg", "Malmö", "Stockholm"]),
        ("?country=Sweden&city=malm%C3%B6", &["Malmö"]),
        ("?city=malmo", &["Malmö"]),
        ("?city=new+york+ny", &["New York NY"]),
        ("?city=york", &["New York NY"]),
        ("?city=ny%20new", &["New York NY"]),
        ("?country=republic+czech", &["Prague"]),
        ("?country=&city=Paris&unknown=x", &["Paris"]),
        ("?country=Sweden&city=Paris", &[]),
        ("?country=Atlantis", &[]),
    ] {
        assert_eq!(cities(query).await, expected, "{query}");
    }
    for force in ["true", "1", "yes", "YES", "no"] {
        assert_eq!(servers(&format!("?force={force}")).await.as_object().unwrap().len(), all.len());
    }

    let refreshed = post(gateway.admin, "/servers/refresh", &json!({})).await;
    assert_eq!(refreshed.status, 200);
    assert_eq!(refreshed.json(), json!({ "message": "Server cache refreshed", "server_count": all.len() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_refreshed_leaves_the_old_one() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let count = async |path: &str| {
        let answer = get(gateway.admin, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json().as_object().unwrap().len()
    };
    let all = count("/servers").await;
    std::fs::write(world.path("servers.json"), "[]").unwrap();
    let refused = post(gateway.admin, "/servers/refresh", &json!({})).await;
    assert_eq!(error(&refused), (500, "Failed to refresh server cache".to_owned()));
    assert_eq!(count("/servers?force=true").await, all);
    assert_eq!(get(gateway.admin, "/locations?force=1").await.json()["total_servers"], all);
    assert_eq!(get(gateway.admin, "/health").await.json()["servers_loaded"], true);
    let one = r#"[{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"}]"#;
    std::fs::write(world.path("servers.json"), one).unwrap();
    assert_eq!(count("/servers?force=yes").await, 1);
    let refreshed = post(gateway.admin, "/servers/refresh", &json!({})).await;
    assert_eq!(refreshed.json(), json!({ "message": "Server cache refreshed", "server_count": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn locations_are_sorted_and_add_up() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let servers = get(gateway.admin, "/servers").await.json();
    let locations = get(gateway.admin, "/locations?force=1").await.json();
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|item| text(item, "name").to_owned()).collect()
    };
    let countries = names(&locations["countries"]);
    assert!(countries.is_sorted() && countries.len() > 15, "{countries:?}");
    let (mut cities, mut total) = (0, 0);
    for country in locations["countries"].as_array().unwrap() {
        assert!(names(&country["cities"]).is_sorted(), "{country}");
        let mut of_country = 0;
        for city in country["cities"].as_array().unwrap() {
            let sample = text(city, "sample_hostname");
            let of =
                servers.as_object().unwrap().values().find(|record| record["hostname"] == sample).unwrap();
            assert_eq!((&of["country"], &of["city"]), (&country["name"], &city["name"]));
            of_country += city["server_count"].as_u64().unwrap();
        }
        assert_eq!(country["city_count"], country["cities"].as_array().unwrap().len());
        assert_eq!(country["total_servers"], of_country);
        cities += country["cities"].as_array().unwrap().len();
        total += of_country;
    }
    assert_eq!(locations["total_countries"], countries.len());
    assert_eq!(locations["total_cities"], cities);
    assert_eq!(locations["total_servers"], total);
    assert_eq!(total as usize, servers.as_object().unwrap().len());
}

on_both! {
    async fn a_pods_whole_life(world) {
        let gateway = world.gateway(&[("GATEWAY_URL", "http://gateway.example:8080")]).await;
        let server = "usa-new-york-ny-us-nyc-wg-301";
        let started = start(&gateway, json!({ "server": server, "colour": "ignored" })).await;
        let (id, user, password) = (&started["id"], text(&started, "username"), text(&started, "password"));
        let (name, ip) = (text(&started, "pod_name"), text(&started, "pod_ip"));
        assert_eq!(name, format!("gluetun-{}", id.as_str().unwrap()));
        assert_eq!(text(&started, "proxy"), format!("http://{user}:{password}@{ip}:8888"));
        assert_eq!(text(&started, "service_name"), "gluetun-gateway");
        assert_eq!(text(&started, "service_dns"), "gateway.example");
        assert_eq!(started["service_port"], 8080);
        assert!(started.as_object().unwrap().contains_key("service_cluster_ip"));
        assert_eq!(text(&started, "service_url"), format!("http://{user}:{password}@gateway.example:8080"));

        // The claim is an ordinary one, of the API's own account, and pinned.
        let claims = world.claim_list().await;
        let notes = claims[0].metadata.annotations.clone().unwrap();
        assert_eq!((claims.len(), notes["gluetun-gateway/account"].as_str()), (1, "_api"));
        assert_eq!(notes["gluetun-gateway/pinned"], "true");

        // Both ways in lead to that very pod, at once.
        let own: SocketAddr = format!("{ip}:8888").parse().unwrap();
        assert_eq!(seen_through(own, user, password).await.unwrap(), name);
        assert_eq!(seen_through(gateway.proxy, user, password).await.unwrap(), name);

        let status = get(gateway.admin, "/status").await.json();
        assert_eq!(status.as_object().unwrap().len(), 1);
        let pod = &status[id.as_str().unwrap()];
        for field in [
            "pod_name", "pod_ip", "username", "password", "service_name", "service_cluster_ip", "service_dns",
            "service_port", "service_url",
        ] {
            assert_eq!(pod[field], started[field], "{field}");
        }
        assert_eq!((text(pod, "server"), &pod["port"], text(pod, "status")), (server, &json!(8888), "running"));

        let mut tunnel = connect(gateway.proxy, user, password, "echo-origin.test:7").await.unwrap();
        assert_eq!(tunnel.echo(b"open").await, b"open");
        let destroyed = destroy(&gateway, id).await;
        assert_eq!((destroyed.status, destroyed.json()), (200, json!({ "message": "Pod destroyed" })));
        assert_eq!(get(gateway.admin, "/status").await.json(), json!({}), "not even while it ends");
        tunnel.closed().await;
        let refused = seen_through(gateway.proxy, user, password).await.unwrap_err();
        assert_eq!(refused.status, 407, "{refused:?}");
        assert_eq!(error(&destroy(&gateway, id).await), (404, "Pod not found".to_owned()));
        world.emptied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_start_destroy_and_stop_refuse() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    for (body, text) in [
        (json!({ "server": "no-such-server-123" }), "Invalid server"),
        (
            json!({ "country": "Atlantis", "city": "Malmö" }),
            "No server found for country 'atlantis' and city 'malmö'",
        ),
        (json!({ "country": "Atlantis" }), "No server found for country 'atlantis'"),
        (json!({ "city": "Atlantis" }), "No server found for city 'atlantis'"),
        (json!({}), "Must provide either 'server' or 'country'/'city' parameters"),
        (
            json!({ "server": null, "country": "" }),
            "Must provide either 'server' or 'country'/'city' parameters",
        ),
    ] {
        assert_eq!(error(&post(gateway.admin, "/start", &body).await), (400, text.to_owned()), "{body}");
    }
    let long = "x".repeat(300);
    for body in [
        json!({}),
        json!({ "id": null }),
        json!({ "id": "" }),
        json!({ "id": "non-existent-pod-id-12345" }),
        json!({ "id": "6f9619ff-8b86-d011-b42d-00cf4fc964ff" }),
        json!({ "id": "a,b in (c)" }),
        json!({ "id": long }),
    ] {
        assert_eq!(
            error(&post(gateway.admin, "/destroy", &body).await),
            (404, "Pod not found".to_owned()),
            "{body}"
        );
    }
    for body in [json!({}), json!({ "id": "x" })] {
        let (status, text) = error(&post(gateway.admin, "/stop", &body).await);
        assert_eq!(status, 400);
        assert!(text.contains("not supported for Kubernetes pods") && text.contains("/destroy"), "{text}");
    }
    assert!(world.claim_list().await.is_empty() && world.pod_list().await.is_empty());
}

on_both! {
    async fn at_the_limit_a_start_is_refused_at_once_and_leaves_nothing(world) {
        let gateway = world.gateway(&[("INSTANCE_LIMIT", "2")]).await;
        let first = start(&gateway, json!({ "country": "Sweden" })).await;
        start(&gateway, json!({ "country": "Germany" })).await;
        let begun = Instant::now();
        let full = post(gateway.admin, "/start", &json!({ "country": "Sweden" })).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(error(&full), (429, "Instance limit reached".to_owned()));
        assert!(full.header("retry-after").parse::<u64>().is_ok(), "{full:?}");
        assert_eq!(world.claim_list().await.len(), 2);
        // A place that is being made is waited for: the client has seen it in the answer to /destroy.
        assert_eq!(destroy(&gateway, &first["id"]).await.status, 200);
        start(&gateway, json!({ "country": "Japan" })).await;
        assert_eq!(world.live_pods().await.len(), 2);
    }
}

on_both! {
    async fn starts_that_come_together_share_what_room_there_is(world) {
        let gateway = world.gateway(&[("INSTANCE_LIMIT", "3")]).await;
        let body = json!({ "country": "Norway" });
        let two = [json!({ "country": "USA" }), json!({ "city": "London" })];
        let bodies = [&body, &two[0], &two[1], &body, &two[0], &two[1]];
        let answers = futures::future::join_all(bodies.map(|body| post(gateway.admin, "/start", body))).await;
        let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 200, 429, 429, 429]);
        assert_eq!(world.live_pods().await.len(), 3);
        eventually("the claims of the refused to go", || async { world.claim_list().await.len() == 3 }).await;
        assert_eq!(get(gateway.admin, "/status").await.json().as_object().unwrap().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_use_is_avoided_where_there_is_another() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    // Norway has two.
    let (one, two) = tokio::join!(
        start(&gateway, json!({ "country": "Norway" })),
        start(&gateway, json!({ "country": "norway" })),
    );
    let status = get(gateway.admin, "/status").await.json();
    let server = |started: &Value| text(&status[text(started, "id")], "server").to_owned();
    assert_ne!(server(&one), server(&two));
    let begun = Instant::now();
    let (code, told) = error(&post(gateway.admin, "/start", &json!({ "country": "Norway" })).await);
    assert_eq!(code, 429);
    assert_eq!(told, "Instance limit reached: every server that matches is in use by another pod");
    let same = error(&post(gateway.admin, "/start", &json!({ "server": server(&one) })).await);
    assert_eq!(same, (429, told));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // One that is ending is waited for.
    assert_eq!(destroy(&gateway, &one["id"]).await.status, 200);
    let again = start(&gateway, json!({ "server": server(&one) })).await;
    assert_ne!(again["id"], one["id"]);
    eventually("the claims of the refused to go", || async { world.claim_list().await.len() == 2 }).await;
}

on_both! {
    async fn a_start_that_fails_says_why_and_leaves_nothing(world) {
        let crash = "VPN settings: Wireguard settings: private key is not valid: AAECAwQF".to_owned();
        let fault = Fault { crash: Some(crash), ..Fault::default() };
        world.gluetun.faults().set(FaultRules { all: fault, ..FaultRules::default() });
        let gateway = world.gateway(&[]).await;
        let (status, text) = error(&post(gateway.admin, "/start", &json!({ "country": "Sweden" })).await);
        assert_eq!(status, 500);
        assert!(text.starts_with("Failed to start Gluetun pod: ") && text.ends_with("(bad_key)"), "{text}");
        assert!(!text.contains("AAECAwQF"), "{text}");
        world.emptied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_followed_by_another() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[("START_ATTEMPT_TIMEOUT", "2s")]).await;
    // Norway has two servers. While the pod on the good one is ending, the dead one is drawn first.
    world.gluetun.faults().set_for("no-osl-wg-001", Fault { silent: true, ..Fault::default() });
    for _ in 0..2 {
        let started = start(&gateway, json!({ "country": "Norway" })).await;
        let status = get(gateway.admin, "/status").await.json();
        assert_eq!(text(&status[text(&started, "id")], "server"), "norway-oslo-no-osl-wg-002");
        assert_eq!(destroy(&gateway, &started["id"]).await.status, 200);
    }
    assert!(gateway.metric("gluetun_gateway_exits_failed_total", "").await >= 1.0);
    let key = json!({ "server": "norway-oslo-no-osl-wg-001" });
    let (code, text) = error(&post(gateway.admin, "/start", &key).await);
    assert_eq!(code, 500, "{text}");
    // Starts on it rest for a while, since they fail.
    world.gluetun.faults().clear();
    eventually("the rest to be over", || async { post(gateway.admin, "/start", &key).await.status == 200 })
        .await;
}

on_both! {
    async fn with_an_idle_timeout_it_is_a_session_as_any_other(world) {
        let gateway = world.gateway(&[]).await;
        let started = start(&gateway, json!({ "country": "Sweden", "idle": "40s", "ttl": "2h" })).await;
        let lease = world.claim_list().await.remove(0);
        let notes = lease.metadata.annotations.unwrap();
        assert!(!notes.contains_key("gluetun-gateway/pinned"), "{notes:?}");
        assert_eq!(notes["gluetun-gateway/ttl"], "2h");
        assert_eq!(lease.spec.unwrap().lease_duration_seconds, Some(40));
        let (user, password) = (text(&started, "username"), text(&started, "password"));
        assert_eq!(seen_through(gateway.proxy, user, password).await.unwrap(), text(&started, "pod_name"));
        eventually("its expiry", || async {
            let notes = world.claim_list().await.remove(0).metadata.annotations.unwrap();
            notes.contains_key("gluetun-gateway/expires")
        })
        .await;
        assert_eq!(destroy(&gateway, &started["id"]).await.status, 200);
        world.emptied().await;
    }
}

on_both! {
    async fn a_pod_of_a_proxy_session_is_destroyed_with_its_session(world) {
        let gateway = world.gateway(&[]).await;
        let first = gateway.exit("demo-country-se").await;
        let mut tunnel = gateway.connect("demo-country-se", "echo-origin.test:7").await.unwrap();
        let id = first.pod.strip_prefix("gluetun-").unwrap();
        assert_eq!(destroy(&gateway, &json!(id)).await.status, 200);
        tunnel.closed().await;
        assert_eq!(get(gateway.admin, "/status").await.json(), json!({}));
        let second = gateway.exit("demo-country-se").await;
        assert!(second.cold && second.pod != first.pod);
    }
}

on_both! {
    async fn a_pinned_pod_that_is_lost_is_not_replaced(world) {
        let gateway = world.gateway(&[]).await;
        let started = start(&gateway, json!({ "country": "Sweden" })).await;
        world.delete_pod(text(&started, "pod_name")).await;
        world.emptied().await;
        assert_eq!(get(gateway.admin, "/status").await.json(), json!({}));
    }
}
