//! The real program as a process of its own, for what only a process can show: signals, exit codes,
//! `kill -9`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{World, eventually, http};

/// A gateway in a process of its own. Dropped, it is killed.
pub struct Process {
    child: Child,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
}

/// The program, with nothing of this process's environment but the path.
pub fn program(variables: &HashMap<String, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gluetun-gateway"));
    command.env_clear().envs(variables).kill_on_drop(true).stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs the program to its end.
pub async fn run(variables: &HashMap<String, String>, arguments: &[&str]) -> Output {
    program(variables).args(arguments).output().await.expect("the program runs")
}

impl Process {
    /// A gateway in `world`, ready.
    pub async fn start(world: &World, settings: &[(&str, &str)]) -> Self {
        let kubeconfig = world.path("kubeconfig");
        std::fs::write(&kubeconfig, world.api().kubeconfig(&world.namespace)).expect("a kubeconfig");
        let mut variables = world.variables();
        variables.insert("KUBECONFIG".to_owned(), kubeconfig);
        variables.insert("LOG_FORMAT".to_owned(), "json".to_owned());
        variables.extend(settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let mut child =
            program(&variables).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        // The addresses are in the log: port 0 is only known there.
        let listening = async {
            while let Some(line) = lines.next_line().await.expect("a line") {
                let Ok(value) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
                let addr = |name: &str| value[name].as_str().and_then(|a| a.parse::<SocketAddr>().ok());
                if let (Some(proxy), Some(admin)) = (addr("proxy"), addr("admin")) {
                    return (proxy, admin);
                }
            }
            let mut why = String::new();
            while let Ok(Some(line)) = errors.next_line().await {
                why.push_str(&line);
            }
            panic!("it ended before it listened: {why}");
        };
        let (proxy, admin) =
            tokio::time::timeout(super::PATIENCE, listening).await.expect("it listens in time");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        tokio::spawn(async move { while let Ok(Some(_)) = errors.next_line().await {} });
        eventually("the gateway to be ready", || async { http::get(admin, "/readyz").await.status == 200 })
            .await;
        Self { child, proxy, admin }
    }

    /// Sends a signal by name.
    pub async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().await.expect("kill(1)");
        assert!(sent.success());
    }

    /// Waits for its end; its exit code, none where a signal ended it.
    pub async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(super::PATIENCE, self.child.wait())
            .await
            .expect("in time")
            .expect("a status")
            .code()
    }
}
