//! kubectl's everyday verbs against the embedded cluster. Needs `kubectl` on the path; passes without
//! having run where there is none.

use std::process::Output;

use tokio::process::Command;

use crate::support::World;

async fn kubectl(world: &World, arguments: &[&str]) -> Output {
    let kubeconfig = world.path("kubeconfig");
    std::fs::write(&kubeconfig, world.api().kubeconfig(&world.namespace)).unwrap();
    Command::new("kubectl").args(["--kubeconfig", &kubeconfig]).args(arguments).output().await.unwrap()
}

/// What it printed; it must have succeeded.
async fn prints(world: &World, arguments: &[&str]) -> String {
    let output = kubectl(world, arguments).await;
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_verbs_work_and_events_tell_the_story() {
    if std::process::Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        return;
    }
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    let seen = gateway.exit("demo-country-se").await;
    let pod = seen.pod.as_str();

    prints(&world, &["wait", "--for=condition=Ready", "--timeout=20s", &format!("pod/{pod}")]).await;
    let table = prints(&world, &["get", "pods,leases", "-o", "wide"]).await;
    for word in [
        "NAME",
        "READY",
        "STATUS",
        "1/1",
        "Running",
        pod,
        seen.server.as_str(),
        "HOLDER",
        "gw-",
        "demo-country-se",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
    crate::support::eventually("events", || async {
        let story = prints(&world, &["describe", "pod", pod]).await;
        ["Scheduled", "Started", "ExitReady"].iter().all(|word| story.contains(word))
    })
    .await;
    assert!(
        prints(&world, &["logs", pod]).await.contains("Gluetun")
            || prints(&world, &["logs", pod]).await.contains("INFO")
    );
    prints(&world, &["label", "pod", pod, "team=red"]).await;
    prints(&world, &["annotate", "pod", pod, "note=kept"]).await;
    let yaml = prints(&world, &["get", "pod", pod, "-o", "yaml"]).await;
    assert!(yaml.contains("team: red") && yaml.contains("note: kept"), "{yaml}");
    prints(&world, &["delete", "pod", pod, "--timeout=30s"]).await;
    let gone = kubectl(&world, &["get", "pod", pod]).await;
    assert!(String::from_utf8_lossy(&gone.stderr).contains("NotFound"));
}
