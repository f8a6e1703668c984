//! The program's other commands.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use crate::support::process::{program, run};
use crate::support::{World, http};

#[tokio::test(flavor = "multi_thread")]
async fn hash_password_writes_a_line_that_lets_its_user_in() {
    let world = World::embedded().await;
    let mut child = program(&Default::default())
        .args(["hash-password", "--user", "carol"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"correct horse\n").await.unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.starts_with("carol:$argon2id$"), "{line}");
    std::fs::write(world.path("users"), &line).unwrap();
    let gateway = world.gateway(&[]).await;
    let tunnel = http::connect(gateway.proxy, "carol-country-se", "correct horse", "whoami.test:80").await;
    assert!(tunnel.is_ok(), "{tunnel:?}");
    let refused = http::connect(gateway.proxy, "carol", "wrong", "whoami.test:80").await.unwrap_err();
    assert_eq!(refused.status, 407);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_users_file_counts_within_seconds() {
    let world = World::embedded().await;
    let gateway = world.gateway(&[]).await;
    gateway.exit("alice-country-se").await;
    let kept: String = std::fs::read_to_string(world.path("users"))
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("alice:"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(world.path("users"), kept).unwrap();
    crate::support::eventually("alice to be refused", || async {
        gateway.connect("alice-country-se", "whoami.test:80").await.is_err_and(|a| a.status == 407)
    })
    .await;
    gateway.exit("bob-country-se").await;
    // A mistake keeps what was there.
    std::fs::write(world.path("users"), "bob:plain-text\n").unwrap();
    crate::support::eventually("the mistake to be counted", || async {
        gateway.metric("gluetun_gateway_reload_errors_total", "users").await >= 1.0
    })
    .await;
    gateway.exit("bob-country-se").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_told() {
    let output = run(&Default::default(), &["--version"]).await;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("gluetun-gateway {}\n", env!("CARGO_PKG_VERSION"))
    );
}

/// Called by the name of Gluetun's own program, it is the look-alike: what an image of it is made of.
#[tokio::test(flavor = "multi_thread")]
async fn by_the_name_of_gluetuns_program_it_is_the_look_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gluetun-entrypoint");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_gluetun-gateway"), &path).unwrap();
    let run = |arguments: &[&str], start: &str| {
        let mut command = tokio::process::Command::new(&path);
        command.env_clear().env("LOOKALIKE_START", start).args(arguments).kill_on_drop(true);
        async move { command.output().await.unwrap() }
    };
    let printed = run(&["format-servers", "-mullvad", "-format", "json"], "20ms").await;
    assert!(printed.status.success(), "{printed:?}");
    let servers: Vec<serde_json::Value> = serde_json::from_slice(&printed.stdout).unwrap();
    assert!(servers.len() > 100 && servers.iter().all(|server| server["hostname"].is_string()));
    let unknown = run(&["format-servers", "-mulvad"], "20ms").await;
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    // As the VPN client it lacks the right, the device, or the settings, wherever this runs.
    let client = run(&[], "20ms").await;
    let said = String::from_utf8_lossy(&client.stdout);
    assert_eq!(client.status.code(), Some(1), "{said}");
    assert!(said.contains(" ERROR "), "{said}");
    let mistaken = run(&[], "soon").await;
    assert_eq!(mistaken.status.code(), Some(64), "{mistaken:?}");
    assert!(String::from_utf8_lossy(&mistaken.stderr).contains("such as 800ms"), "{mistaken:?}");
}
