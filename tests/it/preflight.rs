//! What is known before the first request: the preflight against both API servers, `check --cluster`,
//! `manifest`, and the operator's template on pods that run.

use gluetun_gateway::config::{Config, Environment};
use gluetun_gateway::controller::sample::sample;
use gluetun_gateway::metrics::Metrics;
use gluetun_gateway::preflight::{Finding, Preflight, Verdict};
use gluetun_gateway::servers::Catalogue;
use gluetun_gateway::simulator::api::{Match, Refusal, Verb};
use gluetun_gateway::simulator::gluetun::SERVERS_JSON;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::support::World;
use crate::support::process::run;

const TEMPLATE: &str = "
metadata:
  labels: {team: scraping}
spec:
  nodeSelector: {}
  tolerations: [{key: vpn, operator: Exists}]
  containers:
  - name: gluetun
    env: [{name: TZ, value: UTC}]
    resources: {limits: {cpu: '1'}}
  - name: exporter
    image: exporter:1
    securityContext:
      runAsNonRoot: true
      runAsUser: 65534
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}
";

fn config(world: &World, settings: &[(&str, &str)]) -> Config {
    let mut variables = world.variables();
    variables.extend(settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    Config::load(&Environment::of(variables)).unwrap_or_else(|e| panic!("{e}"))
}

async fn preflight(world: &World, settings: &[(&str, &str)]) -> Vec<Finding> {
    let config = config(world, settings);
    let catalogue = Catalogue::parse(SERVERS_JSON).unwrap();
    let pod = sample(&config, &catalogue, "demo-country-se").unwrap();
    let metrics = Metrics::new().unwrap();
    let preflight = Preflight { config: &config, client: world.client.clone(), metrics: &metrics };
    let mut findings = preflight.run(&pod, None).await;
    findings.push(preflight.secret().await);
    findings
}

fn verdict<'a>(findings: &'a [Finding], what: &str) -> &'a Verdict {
    let found = findings.iter().find(|finding| finding.what.contains(what));
    &found.unwrap_or_else(|| panic!("nothing about {what}: {findings:?}")).verdict
}

on_both! {
    async fn a_cluster_that_will_do(world) {
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
        secrets.delete("gluetun-wireguard-credentials", &DeleteParams::default()).await.ok();
        let findings = preflight(&world, &[]).await;
        let Verdict::Bad(missing) = verdict(&findings, "Secret") else { panic!("{findings:?}") };
        assert!(missing.contains("kubectl -n"), "{missing}");
        let but: Vec<_> = findings.iter().filter(|f| f.verdict != Verdict::Good).collect();
        assert_eq!(but.len(), 1, "{but:?}");

        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "gluetun-wireguard-credentials"},
            "stringData": {"wireguard-private-key": "a"},
        }))
        .unwrap();
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        let findings = preflight(&world, &[]).await;
        assert_eq!(
            *verdict(&findings, "Secret"),
            Verdict::Bad("it lacks wireguard-addresses".to_owned())
        );
        secrets.delete("gluetun-wireguard-credentials", &DeleteParams::default()).await.unwrap();
        secret.string_data.as_mut().unwrap().insert("wireguard-addresses".to_owned(), "b".to_owned());
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        let findings = preflight(&world, &[]).await;
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:?}");
        assert!(world.pod_list().await.is_empty(), "nothing is made");
    }
}

on_both! {
    async fn a_template_is_in_the_pods_that_run(world) {
        let file = world.path("template.yaml");
        std::fs::write(&file, TEMPLATE).unwrap();
        let findings = preflight(&world, &[("POD_TEMPLATE_FILE", &file)]).await;
        assert_eq!(*verdict(&findings, "admitted"), Verdict::Good, "{findings:?}");
        let gateway = world.gateway(&[("POD_TEMPLATE_FILE", &file)]).await;
        gateway.exit("demo-country-se").await;
        let pod = world.pod_list().await.pop().expect("a pod");
        assert_eq!(pod.metadata.labels.as_ref().unwrap()["team"], "scraping");
        let spec = pod.spec.unwrap();
        assert!(spec.tolerations.unwrap().iter().any(|t| t.key.as_deref() == Some("vpn")));
        let names: Vec<_> = spec.containers.iter().map(|container| container.name.as_str()).collect();
        assert_eq!(names, ["gluetun", "exporter"]);
        let limits = spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
        assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("1", "256Mi"));
    }
}

on_both! {
    async fn the_judged_user_is_the_one_that_is_spoken_for(world) {
        let config = config(&world, &[]);
        let metrics = Metrics::new().unwrap();
        let judged = |kube: kube::Config| {
            let preflight = Preflight { config: &config, client: Client::try_from(kube).unwrap(), metrics: &metrics };
            async move { preflight.judged().await.unwrap() }
        };
        let gateway = format!("system:serviceaccount:{}:gluetun-gateway", world.namespace);
        let own = judged(world.config.clone()).await;
        assert_eq!(own.instead.as_ref(), Some(&gateway), "{own:?}");
        let mut kube = world.config.clone();
        kube.auth_info.impersonate = Some(gateway.clone());
        let other = judged(kube.clone()).await;
        assert_eq!((other.user.as_str(), other.instead), (gateway.as_str(), None));
        kube.auth_info.impersonate = Some("bob".to_owned());
        kube.auth_info.impersonate_groups = Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(judged(kube).await.user, "bob");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_refuses_is_told() {
    let world = World::embedded().await;
    let faults = world.api().faults();
    let all = u64::MAX;
    let rbac = |verb, resource, group| Refusal::rbac(verb, resource, group, &world.namespace);
    let rule = faults.fail_next(
        all,
        Match::on(Verb::Patch, "leases"),
        rbac(Verb::Patch, "leases", "coordination.k8s.io"),
    );
    let findings = preflight(&world, &[]).await;
    let Verdict::Bad(why) = verdict(&findings, "may patch leases") else { panic!("{findings:?}") };
    assert!(why.contains("k8s/02-rbac.yaml"), "{why}");
    faults.remove(rule);
    let rule = faults.fail_next(all, Match::on(Verb::Create, "pods"), Refusal::pod_security("gluetun-x"));
    let findings = preflight(&world, &[]).await;
    let Verdict::Bad(why) = verdict(&findings, "admitted") else { panic!("{findings:?}") };
    assert!(why.contains("violates PodSecurity") && why.contains("k8s/00-namespace.yaml"), "{why}");
    faults.remove(rule);
    faults.set_down(true);
    let findings = preflight(&world, &[]).await;
    assert!(matches!(verdict(&findings, "admitted"), Verdict::Unknown(_)), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands() {
    let world = World::embedded().await;
    let mut variables = world.variables();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    let output = run(&variables, &["manifest", "--user", "demo-country-se-city-malmo"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let pod: serde_json::Value = serde_saphyr::from_str(&text(&output.stdout)).unwrap();
    assert_eq!(pod["kind"], "Pod");
    assert_eq!(pod["metadata"]["annotations"]["gluetun-gateway/city"], "Malmö");
    let output = run(&variables, &["manifest", "--user", "demo-country-nowhere"]).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("nowhere"), "{}", text(&output.stderr));
    // Without a list every user's place is that of another one, and that is said in the same words.
    let list = variables.remove("SERVERS_FILE_PATH");
    for (user, found) in [
        ("demo", true),
        ("demo-country-se", true),
        ("demo-country-xx", false),
        ("demo-city-nowhere", false),
        ("demo-country-se-city-nowhere", false),
        ("demo-server-xx-wg-001", false),
    ] {
        let output = run(&variables, &["manifest", "--user", user]).await;
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(if found { 0 } else { 64 }), "{user}: {told}");
        assert!(
            told.starts_with("note: no server list is given") && told.contains("SERVERS_FILE_PATH"),
            "{told}"
        );
        assert_eq!(told.contains(&format!("--user {user}: that list has no such place")), !found, "{told}");
    }
    variables.extend(list.map(|path| ("SERVERS_FILE_PATH".to_owned(), path)));

    let kubeconfig = world.path("kubeconfig");
    std::fs::write(&kubeconfig, world.api().kubeconfig(&world.namespace)).unwrap();
    variables.insert("KUBECONFIG".to_owned(), kubeconfig);
    let output = run(&variables, &["check", "--cluster"]).await;
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let told = text(&output.stdout);
    assert!(told.contains("ok       may create leases"), "{told}");
    // Nobody in particular is not the gateway, whose account it names.
    let gateway = format!("system:serviceaccount:{}:gluetun-gateway", world.namespace);
    let judged = "rights and admission are judged as";
    assert!(told.contains(&format!("warning  {judged} system:anonymous: ")), "{told}");
    assert!(told.contains(&format!("check --cluster --as {gateway}\n")), "{told}");
    assert!(told.contains("ok       a VPN pod would be admitted, made by system:anonymous\n"), "{told}");
    assert!(told.ends_with("would do for system:anonymous\n"), "{told}");
    let output = run(&variables, &["check", "--cluster", "--as", &gateway]).await;
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", text(&output.stderr));
    assert!(told.starts_with(&format!("ok       {judged} {gateway}\n")), "{told}");
    assert!(told.contains(&format!("ok       a VPN pod would be admitted, made by {gateway}\n")), "{told}");
    assert!(told.ends_with("and the cluster will do\n"), "{told}");

    // A template with mistakes ends any of them, with the field's path.
    let file = world.path("template.yaml");
    std::fs::write(&file, "spec: {hostNetwork: true, containers: [{name: gluetun, image: x}]}").unwrap();
    variables.insert("POD_TEMPLATE_FILE".to_owned(), file);
    let output = run(&variables, &["check"]).await;
    assert_eq!(output.status.code(), Some(64));
    let told = text(&output.stderr);
    assert!(told.contains("spec.hostNetwork") && told.contains("spec.containers[gluetun].image"), "{told}");
    assert!(told.contains("GLUETUN_IMAGE"), "{told}");
}
