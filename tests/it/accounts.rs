//! Accounts: what each may do, over the whole gateway and through real sockets; and what a change of the
//! two files does.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;

use crate::support::http::connect;
use crate::support::process::run;
use crate::support::{World, eventually};

/// A directory as the kubelet mounts a ConfigMap: files are links into `..data`, which is swapped.
struct Mount {
    dir: PathBuf,
    version: std::cell::Cell<u32>,
}

impl Mount {
    fn new(world: &World, name: &str, files: &[(&str, &str)]) -> Self {
        let dir = PathBuf::from(world.path(name));
        std::fs::create_dir(&dir).unwrap();
        for (file, _) in files {
            std::os::unix::fs::symlink(Path::new("..data").join(file), dir.join(file)).unwrap();
        }
        let mount = Self { dir, version: 0.into() };
        mount.publish(files);
        mount
    }

    fn publish(&self, files: &[(&str, &str)]) {
        self.version.set(self.version.get() + 1);
        let version = format!("..{}", self.version.get());
        std::fs::create_dir(self.dir.join(&version)).unwrap();
        for (file, text) in files {
            std::fs::write(self.dir.join(&version).join(file), text).unwrap();
        }
        std::os::unix::fs::symlink(&version, self.dir.join("..data_tmp")).unwrap();
        std::fs::rename(self.dir.join("..data_tmp"), self.dir.join("..data")).unwrap();
    }

    fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }
}

fn write(world: &World, text: &str) -> String {
    std::fs::write(world.path("accounts"), text).unwrap();
    world.path("accounts")
}

/// The users file without some.
fn users_without(world: &World, names: &[&str]) -> String {
    let text = std::fs::read_to_string(world.path("users")).unwrap();
    let kept = text.lines().filter(|line| !names.iter().any(|name| line.starts_with(&format!("{name}:"))));
    kept.map(|line| format!("{line}\n")).collect()
}

on_both! {
    async fn every_rule_of_an_account_holds(world) {
        let file = write(&world, "
defaults: {max_sessions: 4}
accounts:
  alice:
    selector: country-se
    places: {allow: [country-se, country-us-city-new_york], deny: [server-se-sto-wg-001]}
    max_idle: 10m
    max_ttl: 1h
    max_wait: 20s
    destinations: {deny: [refused.test]}
    ports: {deny: [25]}
  bob: {sessions: false}
");
        let gateway = world.gateway(&[("ACCOUNTS_FILE", &file)]).await;
        for (user, target, status, code) in [
            ("alice-country-de", "whoami.test:80", 403, "location_forbidden"),
            ("alice-server-se-sto-wg-001", "whoami.test:80", 403, "location_forbidden"),
            ("alice-idle-11m", "whoami.test:80", 400, "bad_parameter"),
            ("alice-ttl-2h", "whoami.test:80", 400, "bad_parameter"),
            ("alice-wait-21s", "whoami.test:80", 400, "bad_parameter"),
            ("alice", "refused.test:80", 403, "destination_denied"),
            ("alice", "whoami.test:25", 403, "destination_denied"),
            ("bob-session-a", "whoami.test:80", 400, "bad_parameter"),
        ] {
            let refused = gateway.connect(user, target).await.unwrap_err();
            assert_eq!((refused.status, refused.code()), (status, code), "{user} {target}: {}", refused.text());
        }
        let forbidden = gateway.connect("alice-country-de", "whoami.test:80").await.unwrap_err();
        let hint = forbidden.json()["hint"].as_str().unwrap().to_owned();
        assert!(hint.contains("country-se, country-us-city-new_york"), "{hint}");
        // A plain request is under the same rules.
        assert_eq!(gateway.get("alice-country-de", "http://whoami.test/").await.code(), "location_forbidden");
        assert!(world.claim_list().await.is_empty(), "nothing of it has reached the cluster");
        // The account's own selector, any place it may use, and a country of which it may use one city.
        assert_eq!(gateway.exit("alice").await.country, "Sweden");
        let any = gateway.exit("alice-country-any").await;
        assert!(any.country == "Sweden" || any.city == "New York NY", "{any:?}");
        assert_eq!(gateway.exit("alice-country-us").await.city, "New York NY");
        assert_eq!(gateway.exit("bob-country-de").await.country, "Germany");
        let names: Vec<String> = world.claim_list().await.iter().map(|claim| claim.metadata.annotations.as_ref().unwrap()["gluetun-gateway/key"].clone()).collect();
        for key in ["alice-country-se", "alice", "alice-country-us", "bob-country-de"] {
            assert!(names.iter().any(|name| name == key), "{key}: {names:?}");
        }
    }
}

on_both! {
    async fn tunnels_and_their_rate_are_limited_on_each_replica(world) {
        let file = write(&world, "accounts: {alice: {max_tunnels: 2}, bob: {tunnels_per_second: 0.02, burst: 1}}");
        let gateway = world.gateway(&[("ACCOUNTS_FILE", &file)]).await;
        let mut one = gateway.connect("alice-country-se", "echo-origin.test:7").await.unwrap();
        let two = gateway.connect("alice-country-se", "echo-origin.test:7").await.unwrap();
        let over = gateway.connect("alice-country-se", "echo-origin.test:7").await.unwrap_err();
        assert_eq!((over.status, over.code()), (429, "account_quota"));
        assert!(over.text().contains("2 of 2 tunnels") && over.header("retry-after") == "10", "{over:?}");
        assert_eq!(one.echo(b"x").await, b"x");
        drop(two);
        eventually("a tunnel's end", || async { gateway.metric("gluetun_gateway_tunnels_open", "").await == 1.0 }).await;
        assert!(gateway.connect("alice-country-se", "echo-origin.test:7").await.is_ok());
        assert!(gateway.connect("bob-country-se", "echo-origin.test:7").await.is_ok());
        let over = gateway.get("bob-country-se", "http://whoami.test/").await;
        assert_eq!((over.status, over.code()), (429, "account_quota"), "{}", over.text());
        assert!((40..=50).contains(&over.header("retry-after").parse::<u64>().unwrap()), "{over:?}");
        assert_eq!(gateway.metric("gluetun_gateway_account_quota_total", "limit=\"tunnels\"").await, 1.0);
        assert_eq!(gateway.metric("gluetun_gateway_account_quota_total", "limit=\"rate\"").await, 1.0);
    }
}

on_both! {
    async fn the_quota_of_sessions_is_exact_over_two_gateways(world) {
        let file = write(&world, "accounts: {alice: {max_sessions: 2}}");
        let settings = |name| [("POD_NAME", name), ("ACCOUNTS_FILE", file.as_str()), ("INSTANCE_LIMIT", "8"), ("IDLE_TIMEOUT", "2s")];
        let one = world.gateway(&settings("gateway-1")).await;
        let two = world.gateway(&settings("gateway-2")).await;
        let tunnels = (0..6).map(|n| {
            let gateway = if n % 2 == 0 { &one } else { &two };
            async move { gateway.connect(&format!("alice-country-us-session-s{n}"), "echo-origin.test:7").await }
        });
        let others = (0..2).map(|n| {
            let gateway = if n % 2 == 0 { &two } else { &one };
            async move { gateway.connect(&format!("bob-country-us-session-s{n}"), "echo-origin.test:7").await }
        });
        let (mut tunnels, others) =
            tokio::join!(futures::future::join_all(tunnels), futures::future::join_all(others));
        assert!(others.iter().all(Result::is_ok), "nobody else is held up: {others:?}");
        for refused in tunnels.iter().filter_map(|tunnel| tunnel.as_ref().err()) {
            assert_eq!((refused.status, refused.code()), (429, "account_quota"), "{}", refused.text());
            assert!(refused.text().contains("2 of 2 sessions of 'alice'"), "{}", refused.text());
            assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|s| s > 0));
        }
        tunnels.retain(Result::is_ok);
        assert_eq!(tunnels.len(), 2);
        assert_eq!(world.live_pods().await.len(), 4);
        // A session that has ended makes room, also for a request by another replica.
        drop(tunnels);
        eventually("room", || async {
            two.connect("alice-country-us-session-new", "whoami.test:80").await.is_ok()
        })
        .await;
        // One that does not wait is told when it comes again.
        let _kept = [
            one.connect("alice-country-us-session-new", "echo-origin.test:7").await.unwrap(),
        ];
        eventually("the second", || async {
            one.connect("alice-country-us-session-other", "whoami.test:80").await.is_ok()
        })
        .await;
        let _other = one.connect("alice-country-us-session-other", "echo-origin.test:7").await.unwrap();
        eventually("the refusal", || async {
            let refused = one.connect("alice-country-us-session-third-wait-0s", "whoami.test:80").await.unwrap_err();
            assert!(["starting", "account_quota"].contains(&refused.code()), "{}", refused.text());
            refused.code() == "account_quota"
        })
        .await;
    }
}

on_both! {
    async fn a_share_group_has_its_exits_in_common(world) {
        let file = write(&world, "
groups: {team: {max_sessions: 1, places: {allow: [country-se]}}}
accounts: {alice: {share: team}, bob: {share: team}}
");
        let gateway = world.gateway(&[("ACCOUNTS_FILE", &file)]).await;
        let first = gateway.exit("alice-country-se").await;
        assert_eq!(gateway.exit("bob-country-se").await.pod, first.pod);
        assert_ne!(gateway.exit("demo-country-se").await.pod, first.pod);
        let over = gateway.connect("bob-country-se-session-own", "whoami.test:80").await.unwrap_err();
        assert_eq!(over.code(), "account_quota", "{}", over.text());
        assert!(over.text().contains("1 of 1 sessions of 'team'"), "{}", over.text());
        assert_eq!(gateway.connect("bob-country-us", "whoami.test:80").await.unwrap_err().code(), "location_forbidden");
        // One of two goes: what the group has stays.
        std::fs::write(world.path("users"), users_without(&world, &["alice"])).unwrap();
        eventually("alice to be refused", || async {
            gateway.connect("alice-country-se", "whoami.test:80").await.is_err_and(|a| a.status == 407)
        })
        .await;
        assert_eq!(gateway.exit("bob-country-se").await.pod, first.pod);
    }
}

on_both! {
    async fn a_removed_account_loses_requests_tunnels_sessions_and_pods(world) {
        let text = std::fs::read_to_string(world.path("users")).unwrap();
        let mount = Mount::new(&world, "mounted", &[("users", &text), ("accounts", "defaults: {max_tunnels: 9}")]);
        let (users, accounts) = (mount.path("users"), mount.path("accounts"));
        let settings = |name| [("POD_NAME", name), ("USERS_FILE", users.as_str()), ("ACCOUNTS_FILE", accounts.as_str()), ("ACCOUNT_DRAIN_TIMEOUT", "1s")];
        let one = world.gateway(&settings("gateway-1")).await;
        let two = world.gateway(&settings("gateway-2")).await;
        let mut tunnel = one.connect("alice-country-se", "echo-origin.test:7").await.unwrap();
        let status = crate::support::http::get(one.admin, "/status").await.json();
        let pod = status.as_object().unwrap().values().next().unwrap();
        let (user, password) = (pod["username"].as_str().unwrap(), pod["password"].as_str().unwrap());
        let mut other = two.connect("alice-country-us", "echo-origin.test:7").await.unwrap();
        let mut bobs = two.connect("bob-country-se", "echo-origin.test:7").await.unwrap();
        assert!(connect(one.proxy, user, password, "whoami.test:80").await.is_ok());

        mount.publish(&[("users", &users_without(&world, &["alice"])), ("accounts", "defaults: {max_tunnels: 9}")]);
        for gateway in [&one, &two] {
            eventually("alice to be refused", || async {
                gateway.connect("alice-country-se", "whoami.test:80").await.is_err_and(|a| a.code() == "auth_failed")
            })
            .await;
        }
        assert_eq!(connect(one.proxy, user, password, "whoami.test:80").await.unwrap_err().status, 407);
        tunnel.closed().await;
        other.closed().await;
        eventually("alice's sessions and pods to go", || async {
            world.claim_list().await.len() == 1 && world.pod_list().await.len() == 1
        })
        .await;
        assert_eq!(bobs.echo(b"undisturbed").await, b"undisturbed");
    }
}

on_both! {
    async fn a_place_that_is_taken_away_is_left(world) {
        let mount = Mount::new(&world, "mounted", &[("accounts", "accounts: {alice: {places: {allow: [country-se]}}}")]);
        let gateway = world.gateway(&[("ACCOUNTS_FILE", &mount.path("accounts"))]).await;
        let first = gateway.exit("alice").await;
        assert_eq!(first.country, "Sweden");
        let mut tunnel = gateway.connect("alice", "echo-origin.test:7").await.unwrap();
        mount.publish(&[("accounts", "accounts: {alice: {places: {allow: [country-us]}}}")]);
        eventually("the refusal of the old place", || async {
            gateway.connect("alice-country-se", "whoami.test:80").await.is_err_and(|a| a.code() == "location_forbidden")
        })
        .await;
        eventually("an exit in the new place", || async { gateway.exit("alice").await.country == "USA" }).await;
        assert_eq!(tunnel.echo(b"goes on").await, b"goes on");
        assert!(gateway.metric("gluetun_gateway_exits_failed_total", "reason=\"forbidden\"").await >= 1.0);
    }
}

on_both! {
    async fn a_mistake_keeps_everything_and_is_told_by_a_metric_and_an_event(world) {
        let text = std::fs::read_to_string(world.path("users")).unwrap();
        let mount = Mount::new(&world, "mounted", &[("users", &text), ("accounts", "accounts: {bob: {disabled: true}}")]);
        let gateway = world.gateway(&[("USERS_FILE", &mount.path("users")), ("ACCOUNTS_FILE", &mount.path("accounts"))]).await;
        assert_eq!(gateway.metric("gluetun_gateway_accounts", "").await, 2.0);
        let known = gateway.connect("bob", "whoami.test:80").await.unwrap_err();
        let unknown = gateway.connect("nobody", "whoami.test:80").await.unwrap_err();
        assert_eq!((known.status, known.code()), (407, "auth_failed"));
        assert_eq!(known.json()["message"], unknown.json()["message"]);
        // Alice is removed, and the other file is wrong: neither is taken.
        mount.publish(&[("users", &users_without(&world, &["alice"])), ("accounts", "accounts: {bob: {disabled: ja}}")]);
        eventually("the mistake to be counted", || async {
            gateway.metric("gluetun_gateway_reload_errors_total", "file=\"accounts\"").await == 1.0
        })
        .await;
        assert_eq!(gateway.metric("gluetun_gateway_reload_errors_total", "file=\"users\"").await, 0.0);
        gateway.exit("alice-country-se").await;
        let events: Api<Event> = Api::namespaced(world.client.clone(), &world.namespace);
        eventually("the Event", || async {
            let list = events.list(&ListParams::default()).await.unwrap().items;
            list.iter().any(|event| {
                let message = event.message.as_deref().unwrap_or_default();
                event.reason.as_deref() == Some("AccountsNotTaken")
                    && event.type_.as_deref() == Some("Warning")
                    && event.involved_object.name.as_deref() == Some("gluetun-gateway-leader")
                    && message.contains("line 1, column 28: write true or false, not 'ja'")
            })
        })
        .await;
        // The cure takes both.
        mount.publish(&[("users", &users_without(&world, &["alice"])), ("accounts", "accounts: {bob: {disabled: false}}")]);
        eventually("bob to be let in", || async { gateway.connect("bob-country-se", "whoami.test:80").await.is_ok() }).await;
        assert_eq!(gateway.connect("alice-country-se", "whoami.test:80").await.unwrap_err().status, 407);
        assert_eq!(gateway.metric("gluetun_gateway_accounts", "").await, 2.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_every_mistake_of_both_files() {
    let world = World::embedded().await;
    let mut variables = world.variables();
    std::fs::write(world.path("users"), format!("{}  Zoe:x\n", users_without(&world, &[]))).unwrap();
    let file =
        write(&world, "defaults: {max_idel: 1h}\naccounts:\n  alice: {places: {allow: [country-swden]}}\n");
    variables.insert("ACCOUNTS_FILE".to_owned(), file);
    let output = run(&variables, &["check"]).await;
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("USERS_FILE: ") && text.contains("line 4, column 3: "), "{text}");
    assert!(
        text.contains("line 1, column 12: 'defaults' has no field 'max_idel': did you mean 'max_idle'?"),
        "{text}"
    );
    assert!(text.contains("line 3, column 28: no country 'swden' in the server list"), "{text}");

    std::fs::write(world.path("users"), users_without(&world, &["Zoe", "  Zoe"])).unwrap();
    write(&world, "accounts:\n  alice: {places: {allow: [country-swden]}}\n  alcie: {}\n");
    let output = run(&variables, &["check"]).await;
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("line 2, column 28: no country 'swden' in the server list; did you mean se (sweden)?"),
        "{text}"
    );
    // The gateway itself starts all the same.
    let file = world.path("accounts");
    let gateway = world.gateway(&[("ACCOUNTS_FILE", &file)]).await;
    assert_eq!(gateway.connect("alice", "whoami.test:80").await.unwrap_err().code(), "location_forbidden");
    assert!(gateway.connect("bob-country-se", "whoami.test:80").await.is_ok());

    write(&world, "accounts:\n  alcie: {}\n");
    let output = run(&variables, &["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.starts_with("warning: ACCOUNTS_FILE: ") && text.contains("did you mean 'alice'?"), "{text}");
}
