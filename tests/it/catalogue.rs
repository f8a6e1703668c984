//! The server list: the Job that prints it, the ConfigMap that keeps it, and what happens when either
//! fails. The Job's controller is the embedded kubelet's on both API servers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gluetun_gateway::config::{Config, Environment};
use gluetun_gateway::metrics::Metrics;
use gluetun_gateway::servers::{
    CONFIG_MAP, Catalogue, JobFailure, Keeper, RefreshError, Refresher, SourceKind,
};
use gluetun_gateway::simulator::api::{Match, Refusal, Verb};
use gluetun_gateway::simulator::gluetun::{Fault, FaultRules, ListFault, SERVERS_JSON};
use gluetun_gateway::simulator::kubelet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use tokio::sync::watch;

use crate::support::http::get;
use crate::support::{Gateway, Options, World, eventually};

/// A world whose jobs' pods go with them, as in a real cluster.
fn collecting() -> Options {
    Options { kubelet: |options| options.garbage_collect = true, ..Options::default() }
}

/// No list but what a Job brings.
const NO_LIST: (&str, &str) = ("SERVERS_FILE_PATH", "");
/// Only when asked.
const NEVER: (&str, &str) = ("SERVERS_REFRESH", "0");

/// What a replica has of the server list, without the rest of a gateway.
struct Replica {
    list: watch::Receiver<Arc<Catalogue>>,
    refresher: Refresher,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Replica {
    fn start(world: &World, settings: &[(&str, &str)]) -> Self {
        let mut variables = world.variables();
        variables.extend(settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let config = Arc::new(Config::load(&Environment::of(variables)).unwrap_or_else(|e| panic!("{e}")));
        let first = match &config.servers {
            Some(source) => gluetun_gateway::servers::load(source).unwrap(),
            None => Catalogue::default(),
        };
        let (published, list) = watch::channel(Arc::new(first));
        let (keeper, refresher) = Keeper::new(config, published, Arc::new(Metrics::new().unwrap()));
        let (client, second) = (world.client.clone(), Duration::from_secs(1));
        Self { list, refresher, task: tokio::spawn(keeper.run(client, second, second)) }
    }

    /// Waits until the list in use comes from there.
    async fn until(&mut self, source: SourceKind) -> Arc<Catalogue> {
        let there = self.list.wait_for(|list| list.origin().is_some_and(|o| o.source == source));
        Arc::clone(&*tokio::time::timeout(crate::support::PATIENCE, there).await.expect("in time").unwrap())
    }

    fn source(&self) -> Option<SourceKind> {
        self.list.borrow().origin().map(|origin| origin.source)
    }
}

fn jobs(world: &World) -> Api<Job> {
    Api::namespaced(world.client.clone(), &world.namespace)
}

fn maps(world: &World) -> Api<ConfigMap> {
    Api::namespaced(world.client.clone(), &world.namespace)
}

async fn job_pods(world: &World) -> Vec<Pod> {
    let ours = ListParams::default().labels("batch.kubernetes.io/job-name=gluetun-gateway-servers");
    world.pods().list(&ours).await.unwrap().items
}

/// Has `format-servers` do this from now on.
fn prints(world: &World, fault: Option<ListFault>) {
    world
        .gluetun
        .faults()
        .set(FaultRules { all: Fault { list: fault, ..Fault::default() }, ..FaultRules::default() });
}

fn text(text: impl Into<String>, code: i32) -> Option<ListFault> {
    Some(ListFault::Print { text: text.into(), code })
}

async fn source_of(gateway: &Gateway) -> String {
    get(gateway.admin, "/health").await.json()["servers_source"].as_str().unwrap_or_default().to_owned()
}

on_both! {
    async fn a_first_start_fetches_the_list_and_a_restart_needs_no_job(world: collecting()) {
        let gateway = world.gateway(&[NO_LIST]).await;
        eventually("the Job's list", || async { source_of(&gateway).await == "job" }).await;
        let health = get(gateway.admin, "/health").await.json();
        assert_eq!((&health["status"], &health["servers_loaded"]), (&"healthy".into(), &true.into()));
        assert_eq!(health["servers_count"], Catalogue::parse(SERVERS_JSON).unwrap().len());
        assert!(health["servers_age_seconds"].as_u64().unwrap() < 60, "{health}");
        assert_eq!(gateway.metric("gluetun_gateway_servers_refreshes_total", "outcome=\"ok\"").await, 1.0);
        let metrics = get(gateway.admin, "/metrics").await.text();
        assert!(metrics.contains("gluetun_gateway_servers_age_seconds{source=\"job\"}"), "{metrics}");
        assert_eq!(gateway.exit("demo-country-se").await.country, "Sweden");

        // Its pod is none of ours: it neither counts nor shows.
        assert_eq!(world.pod_list().await.len(), 1);
        let status = get(gateway.admin, "/status").await.json();
        assert_eq!(status.as_object().unwrap().len(), 1, "{status}");

        eventually("the list to be kept", || async {
            maps(&world).get(CONFIG_MAP).await.unwrap().binary_data.is_some()
        })
        .await;
        let kept = maps(&world).get(CONFIG_MAP).await.unwrap();
        assert_eq!(kept.annotations()["gluetun-gateway/provider"], "mullvad");
        assert_eq!(kept.annotations()["gluetun-gateway/image"], "qmcgaw/gluetun:v3.41.3");
        let first = jobs(&world).get("gluetun-gateway-servers").await.unwrap().uid();

        drop(gateway);
        let again = world.gateway(&[NO_LIST, ("POD_NAME", "gateway-2")]).await;
        eventually("the kept list", || async { source_of(&again).await == "cached" }).await;
        assert_eq!(again.exit("demo-country-se").await.country, "Sweden");
        assert_eq!(again.metric("gluetun_gateway_servers_refreshes_total", "").await, 0.0);
        let now = jobs(&world).get_opt("gluetun-gateway-servers").await.unwrap();
        assert!(now.is_none_or(|job| job.uid() == first), "no second Job");
    }
}

on_both! {
    async fn replicas_that_refresh_at_once_share_one_job_and_the_others_get_its_list(world: collecting()) {
        let mut idle = Replica::start(&world, &[NO_LIST, NEVER]);
        let (one, two) = (Replica::start(&world, &[NO_LIST, NEVER]), Replica::start(&world, &[NO_LIST, NEVER]));
        idle.until(SourceKind::BuiltIn).await;
        let (a, b) = tokio::join!(one.refresher.refresh(), two.refresher.refresh());
        assert_eq!(a.unwrap().len(), b.unwrap().len());
        assert_eq!(job_pods(&world).await.len(), 1);
        assert!(world.pod_list().await.is_empty(), "they wear no label of ours");
        let list = idle.until(SourceKind::Cached).await;
        assert_eq!(list.len(), Catalogue::parse(SERVERS_JSON).unwrap().len());
        // Of the two, one may have found the other's in the ConfigMap.
        for replica in [one, two] {
            assert!(matches!(replica.source(), Some(SourceKind::Job | SourceKind::Cached)));
        }
    }
}

on_both! {
    async fn a_finished_job_is_replaced_and_bad_lists_are_refused_with_the_reason(world: collecting()) {
        let replica = Replica::start(&world, &[NO_LIST, NEVER]);
        let good = replica.refresher.refresh().await.unwrap();
        let complete = |job: Job| {
            let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
            conditions.iter().any(|c| matches!(c.type_.as_str(), "Complete" | "Failed"))
        };
        let truncated = &SERVERS_JSON[..SERVERS_JSON.len() / 2];
        for (printed, part) in [
            (text("2026 ERROR reading servers: no such file\nINFO Shutdown successful", 1), "ERROR reading servers"),
            (text("flag provided but not defined: -mulvad\nUsage of format-servers:\n  -airvpn", 2), "-mulvad"),
            (text("", 3), "printed nothing"),
            (text("no list at all", 0), "not JSON"),
            (text(truncated, 0), "not JSON"),
            (text("[]", 0), "empty"),
            (text("{\"data\":[]}", 0), "without \"servers\""),
            (text("[{\"vpn\":\"openvpn\",\"hostname\":\"a\",\"country\":\"A\"}]", 0), "WireGuard"),
        ] {
            eventually("the last Job to be over", || async {
                jobs(&world).get_opt("gluetun-gateway-servers").await.unwrap().is_none_or(complete)
            })
            .await;
            prints(&world, printed);
            let error = replica.refresher.refresh().await.unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
            assert!(Arc::ptr_eq(&*replica.list.borrow(), &good), "the old list stays");
        }
        eventually("the last Job to be over", || async {
            jobs(&world).get_opt("gluetun-gateway-servers").await.unwrap().is_none_or(complete)
        })
        .await;
        // Strange and duplicate records are left out, the others taken.
        prints(&world, text(r#"[
            {"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"},
            {"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"},
            {"vpn":"wireguard","city":"Malmö","hostname":"se-mma-wg-002"},
            {"vpn":"wireguard","country":"Norway","hostname":"no-osl-wg-001"}
        ]"#, 0));
        let list = replica.refresher.refresh().await.unwrap();
        assert_eq!((list.len(), list.merged(), list.skipped()), (2, 1, 1));
    }
}

on_both! {
    async fn a_job_that_hangs_is_given_up_before_its_deadline_takes_the_reason(world: collecting()) {
        let replica = Replica::start(&world, &[NO_LIST, NEVER]);
        prints(&world, Some(ListFault::Hang));
        let begun = Instant::now();
        let error = replica.refresher.refresh().await.unwrap_err();
        let RefreshError::Job(error) = error else { panic!("{error}") };
        assert_eq!(error.kind, JobFailure::Deadline);
        assert!(error.text.contains("did not end within 55 s"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert_eq!(replica.source(), Some(SourceKind::BuiltIn));
        // The deadline ends the container, and the Job goes when its time is over.
        eventually("the pod to go", || async {
            job_pods(&world).await.iter().all(|pod| pod.metadata.deletion_timestamp.is_some())
        })
        .await;
    }
}

on_both! {
    async fn a_pod_that_cannot_start_says_why(world: collecting()) {
        let replica = Replica::start(&world, &[NO_LIST, NEVER]);
        world.kubelet.faults().inject(kubelet::Pods::Any, kubelet::Fault::ImagePull { message: None });
        let error = replica.refresher.refresh().await.unwrap_err();
        let RefreshError::Job(error) = error else { panic!("{error}") };
        assert_eq!(error.kind, JobFailure::ImagePull, "{error}");
        assert!(error.text.contains("cannot be pulled"), "{error}");
    }
}

on_both! {
    async fn a_job_and_its_pod_go_30_seconds_after_its_end(world: collecting()) {
        let replica = Replica::start(&world, &[NO_LIST, NEVER]);
        replica.refresher.refresh().await.unwrap();
        let job = jobs(&world).get("gluetun-gateway-servers").await.unwrap();
        let begun = Instant::now();
        eventually("the Job to go", || async { jobs(&world).get_opt(&job.name_any()).await.unwrap().is_none() }).await;
        assert!(begun.elapsed() > Duration::from_secs(25), "{:?}", begun.elapsed());
        eventually("its pod to go", || async { job_pods(&world).await.is_empty() }).await;
    }
}

on_both! {
    async fn without_the_config_map_the_list_is_fetched_all_the_same(world: collecting()) {
        maps(&world).delete(CONFIG_MAP, &DeleteParams::default()).await.unwrap();
        let mut replica = Replica::start(&world, &[NO_LIST]);
        let list = replica.until(SourceKind::Job).await;
        assert_eq!(list.len(), Catalogue::parse(SERVERS_JSON).unwrap().len());
        assert!(maps(&world).get_opt(CONFIG_MAP).await.unwrap().is_none(), "it is not the gateway's to create");
    }
}

on_both! {
    async fn ten_thousand_servers_go_through_the_log_and_into_the_config_map(world: collecting()) {
        use base64::Engine as _;
        let record = |n: usize| {
            let key = base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 32]>());
            serde_json::json!({
                "vpn": "wireguard", "country": format!("Land {}", n % 90), "city": format!("Ort {}", n % 700),
                "isp": "M247", "hostname": format!("x{n}-wg-001"), "wgpubkey": key,
                "ips": [format!("10.{}.{}.{}", n % 251, n % 241, n % 239)],
            })
        };
        let records: Vec<_> = (0..10_000).map(record).collect();
        prints(&world, text(serde_json::to_string_pretty(&records).unwrap(), 0));
        let one = Replica::start(&world, &[NO_LIST, NEVER]);
        let list = one.refresher.refresh().await.unwrap();
        assert_eq!(list.len(), 10_000);
        let mut two = Replica::start(&world, &[NO_LIST, NEVER]);
        let kept = two.until(SourceKind::Cached).await;
        assert_eq!(kept.len(), 10_000);
        assert!(kept.servers().iter().zip(list.servers()).all(|(a, b)| a.key == b.key));
        let packed: usize =
            maps(&world).get(CONFIG_MAP).await.unwrap().binary_data.unwrap().values().map(|b| b.0.len()).sum();
        assert!(packed < 800 << 10, "{packed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_reads_the_file_again_and_a_variable_is_what_it_is() {
    let world = World::embedded().await;
    let path = world.path("own.json");
    let one = r#"[{"vpn":"wireguard","country":"Sweden","hostname":"se-1"}]"#;
    std::fs::write(&path, one).unwrap();
    let replica = Replica::start(&world, &[("SERVERS_FILE_PATH", &path)]);
    assert_eq!(replica.source(), Some(SourceKind::File));
    std::fs::write(&path, one.replace("se-1", "se-2")).unwrap();
    let list = replica.refresher.refresh().await.unwrap();
    assert_eq!(list.servers()[0].hostname.as_str(), "se-2", "at once, not at the next look");
    std::fs::write(&path, "[]").unwrap();
    let error = replica.refresher.refresh().await.unwrap_err();
    assert!(matches!(&error, RefreshError::File(text) if text.contains("empty")), "{error}");
    assert_eq!(replica.list.borrow().servers()[0].hostname.as_str(), "se-2");

    let fixed = Replica::start(&world, &[("SERVERS_JSON", one)]);
    assert_eq!(fixed.source(), Some(SourceKind::Variable));
    assert_eq!(fixed.refresher.refresh().await.unwrap().servers()[0].hostname.as_str(), "se-1");
    assert!(jobs(&world).list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_could_not_be_read_is_asked_for_once_more() {
    let world = World::embedded_with(collecting()).await;
    let replica = Replica::start(&world, &[NO_LIST, NEVER]);
    let (faults, log) = (world.api().faults(), Match::on(Verb::Get, "pods/log"));
    // A 500: this client itself would ask again after a 503.
    let once = faults.fail_next(1, log.clone(), Refusal::internal());
    replica.refresher.refresh().await.unwrap();
    assert_eq!((faults.hits(once), job_pods(&world).await.len()), (1, 1), "no other Job was needed");
    faults.fail_next(2, log, Refusal::internal());
    let RefreshError::Job(error) = replica.refresher.refresh().await.unwrap_err() else { panic!() };
    assert_eq!(error.kind, JobFailure::Log, "{error}");
    replica.refresher.refresh().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_named_and_those_to_the_config_map_are_not_needed() {
    let world = World::embedded_with(collecting()).await;
    let faults = world.api().faults();
    let refused = |verb, resource: &str, group: &str| {
        let refusal = Refusal::rbac(verb, resource, group, &world.namespace);
        faults.fail_next(u64::MAX, Match::on(verb, resource), refusal)
    };
    let no_get = refused(Verb::Get, "configmaps", "");
    let replica = Replica::start(&world, &[NO_LIST, NEVER]);
    replica.refresher.refresh().await.unwrap();
    assert!(maps(&world).get(CONFIG_MAP).await.is_err());
    faults.remove(no_get);
    assert!(maps(&world).get(CONFIG_MAP).await.unwrap().binary_data.is_none());

    jobs(&world).delete("gluetun-gateway-servers", &DeleteParams::background()).await.unwrap();
    for (verb, right, resource, group) in [
        (Verb::Create, "create jobs", "jobs", "batch"),
        (Verb::List, "list pods", "pods", ""),
        (Verb::Get, "get pods/log", "pods/log", ""),
    ] {
        let rule = refused(verb, resource, group);
        let RefreshError::Job(error) = replica.refresher.refresh().await.unwrap_err() else {
            panic!("{resource}")
        };
        assert_eq!(error.kind, JobFailure::Forbidden, "{error}");
        assert!(error.text.contains(&format!("the right to {right}")), "{error}");
        faults.remove(rule);
    }
    replica.refresher.refresh().await.unwrap();
}
