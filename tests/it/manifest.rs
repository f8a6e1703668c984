//! The pod's manifest before a real API server: accepted by a server-side dry run, for each way of
//! getting the tun device, and kept as it was written.

use gluetun_gateway::config::{Config, Environment};
use gluetun_gateway::controller::manifest::{Credentials, pod};
use gluetun_gateway::servers::Catalogue;
use gluetun_gateway::session::claim::Claim;
use k8s_openapi::api::core::v1::EnvVar;
use kube::api::PostParams;

on_both! {
    async fn it_is_accepted_by_a_server_side_dry_run(world) {
        let gateway = world.gateway(&[]).await;
        gateway.exit("demo-country-se").await;
        let claim = Claim::read(&world.claim_list().await.pop().expect("a claim")).unwrap();
        let catalogue = Catalogue::parse(gluetun_gateway::simulator::gluetun::SERVERS_JSON).unwrap();
        // Non-ASCII names belong into annotations: as labels they would be refused.
        let server = catalogue.servers().iter().find(|s| !s.city.is_ascii()).expect("a city such as Malmö");
        for device in ["hostPath", "mknod", "none", "squat.ai/tun"] {
            let mut variables = world.variables();
            variables.insert("TUN_DEVICE".to_owned(), device.to_owned());
            let config = Config::load(&Environment::of(variables)).unwrap();
            let pod = pod(&config, &claim, 7, server, &Credentials::random());
            let dry = PostParams { dry_run: true, ..PostParams::default() };
            let made = world.pods().create(&dry, &pod).await.unwrap_or_else(|e| panic!("{device}: {e}"));
            let (sent, kept) = (pod.spec.unwrap(), made.spec.unwrap());
            let (sent, kept) = (&sent.containers[0], &kept.containers[0]);
            // An empty value comes back as none.
            let plain = |env: &Option<Vec<EnvVar>>| {
                let mut env = env.clone().unwrap_or_default();
                env.iter_mut().for_each(|var| var.value = var.value.take().filter(|value| !value.is_empty()));
                env
            };
            assert_eq!(plain(&sent.env), plain(&kept.env), "{device}");
            assert_eq!(sent.security_context, kept.security_context, "{device}");
            assert_eq!(made.metadata.labels, pod.metadata.labels, "{device}");
        }
        assert_eq!(world.pod_list().await.len(), 1, "a dry run makes nothing");
    }
}
