//! The commands `simulator` and `demo` as processes: their flags, their ends, and what they leave behind.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::http::raw;
use crate::support::process::{program, run};
use crate::support::{PATIENCE, eventually};

/// A command that runs, with what it has told at its start. Dropped, it is killed.
struct Running {
    child: Child,
    told: String,
}

impl Running {
    /// Starts it with `dir` for its temporary files, and waits until it has told all.
    async fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut command = program(&Default::default());
        command.args(arguments).env("TMPDIR", dir).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = String::new();
        let telling = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                told.push_str(&line);
                told.push('\n');
                if line == "Ctrl-C ends it." {
                    return;
                }
            }
            panic!("it ended: {told}");
        };
        tokio::time::timeout(PATIENCE, telling).await.expect("it starts");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, told }
    }

    /// What stands behind a name in its banner.
    fn word(&self, name: &str) -> &str {
        let line = self.told.lines().find_map(|line| line.trim().strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next())
            .unwrap_or_else(|| panic!("{name}: {}", self.told))
    }

    /// Sends a signal, and waits for the end; the exit code, none where the signal ended it.
    async fn end(&mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap().code()
    }
}

/// A POST of JSON to a path of the API server; the answer's status and body.
async fn post(url: &str, path: &str, body: &str) -> (u16, String) {
    let address = url.strip_prefix("http://").unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(address.parse().unwrap(), request.as_bytes()).await;
    (answer.status, answer.text())
}

/// Whether a process of this id runs; one that has ended and not been waited for does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

const POD: &str = r#"{"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i",
    "env": [{"name": "GREETING", "value": "hello"}]}]}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_command_gets_its_environment_and_ends_with_the_simulator_however_that_ends() {
    let dir = tempfile::tempdir().unwrap();
    for (number, signal, code) in [(0, "-TERM", Some(0)), (1, "-INT", Some(0)), (2, "-KILL", None)] {
        let file = dir.path().join(format!("pod-{number}"));
        let command =
            format!("echo $$ $GREETING $POD_IP >>{0}.new; mv {0}.new {0}; sleep 600", file.display());
        let cidr = format!("127.46.{number}.0/24");
        let arguments =
            ["simulator", "--listen", "127.0.0.1:0", "--pod-cidr", &cidr, "--pod-command", &command];
        let mut simulator = Running::start(dir.path(), &arguments).await;
        let url = simulator.word("API server").to_owned();
        let (status, answer) = post(&url, "/api/v1/namespaces/gluetun-system/pods", POD).await;
        assert_eq!(status, 201, "{answer}");
        eventually("the pod's process to run", || async { file.exists() }).await;
        let said = std::fs::read_to_string(&file).unwrap();
        let [pid, greeting, address] = said.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{said}")
        };
        assert_eq!((greeting, address), ("hello", format!("127.46.{number}.1").as_str()));
        assert!(runs(pid));
        assert_eq!(simulator.end(signal).await, code);
        eventually("the pod's process to end", || async { !runs(pid) }).await;
        std::fs::remove_file(&file).unwrap();
        assert!(is_empty(dir.path()), "{signal} leaves nothing behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubeconfig_and_the_faults_of_a_simulator_are_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let (path, cidr) = (kubeconfig.to_str().unwrap(), "127.46.3.0/24");
    let arguments = ["simulator", "--listen", "127.0.0.1:0", "--pod-cidr", cidr, "--kubeconfig-out", path];
    let mut simulator = Running::start(dir.path(), &arguments).await;
    assert_eq!(simulator.word("kubeconfig"), path);
    let url = simulator.word("API server").to_owned();
    let read = kube::config::Kubeconfig::read_from(&kubeconfig).unwrap();
    assert_eq!(read.clusters[0].cluster.as_ref().unwrap().server.as_ref(), Some(&url));
    assert_eq!(post(&url, "/simulator/pods/rules", r#"{"fault": "never_ready"}"#).await.0, 200);
    assert_eq!(post(&url, "/simulator/pods/strike", r#"{"blow": "kill"}"#).await.1, r#"{"struck":0}"#);

    // Another one on the same port cannot start, and says why.
    let taken = url.strip_prefix("http://").unwrap();
    let output = run(&Default::default(), &["simulator", "--listen", taken]).await;
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert!(why.contains(taken) && why.contains("in use"), "{why}");
    assert_eq!(simulator.end("-TERM").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_leaves_nothing_behind_however_it_ends() {
    for (number, signal, code) in [(4, "-TERM", Some(0)), (5, "-KILL", None)] {
        let dir = tempfile::tempdir().unwrap();
        let cidr = format!("127.46.{number}.0/24");
        let arguments =
            ["demo", "--proxy-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--pod-cidr", &cidr];
        let mut demo = Running::start(dir.path(), &arguments).await;
        assert!(Path::new(demo.word("kubeconfig")).starts_with(dir.path()));
        assert_eq!(demo.end(signal).await, code);
        eventually("its directory to go", || async { is_empty(dir.path()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_the_flags_are_named_with_a_fix() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, code, texts) in [
        (&["simulator", "--listen", "here"][..], 64, &["--listen", "ADDRESS:PORT"][..]),
        (&["simulator", "--pod-cidr", "127.0.0.1"], 64, &["--pod-cidr", "127.42.0.0/16"]),
        (&["simulator", "--pod-cidr", "192.0.2.0/24"], 64, &["--pod-cidr", "192.0.2.1", "127.42.0.0/16"]),
        (&["simulator", "--pod-start", "5"], 64, &["--pod-start", "2s"]),
        (&["simulator", "--log-level", "loud"], 64, &["--log-level", "WARNING"]),
        (&["simulator", "--listen", "127.0.0.1:0", "--kubeconfig-out", "/nowhere/x"], 1, &["/nowhere/x"]),
        (
            &["demo", "--idle-timeout", "1s", "--instance-limit", "0"],
            64,
            &["--idle-timeout", "--instance-limit"],
        ),
        (&["demo", "--proxy-addr", "127.0.0.1:0", "--admin-addr", &taken], 1, &["--admin-addr", &taken]),
    ] {
        let output = run(&Default::default(), arguments).await;
        let why = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {why}");
        assert!(texts.iter().all(|text| why.contains(text)), "{arguments:?}: {why}");
    }
}
