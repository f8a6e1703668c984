//! The gateway as a process of its own, so that its memory and its CPU time are its alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::cluster::{Cluster, PASSWORD, address};

/// Nothing here takes longer; what does is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// A gateway. Dropped, it is killed.
pub struct Gateway {
    child: Child,
    pid: u32,
    proxy: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts one, and waits until it is ready.
    pub async fn start(cluster: &Cluster) -> Self {
        let program =
            std::env::var_os("GATEWAY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_gluetun-gateway").into());
        let mut child = Command::new(program)
            .env_clear()
            .envs(&cluster.settings)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        // The addresses are in the log: port 0 is only known there.
        let listening = async {
            while let Some(line) = lines.next_line().await.expect("a line") {
                let line = serde_json::from_str(&line).unwrap_or_default();
                if let (Some(proxy), Some(admin)) = (address(&line, "proxy"), address(&line, "admin")) {
                    return (proxy, admin);
                }
            }
            panic!("it ended before it listened");
        };
        let (proxy, admin) = tokio::time::timeout(PATIENCE, listening).await.expect("it listens");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let pid = child.id().expect("it runs");
        let gateway = Self { child, pid, proxy, admin };
        gateway.until("it to be ready", |gateway| async { gateway.get("/readyz").await.0 == 200 }).await;
        gateway
    }

    /// Tells it to end, and waits until it has.
    pub async fn stop(&mut self) {
        let told = Command::new("kill").arg(self.pid.to_string()).status().await.expect("kill(1)");
        assert!(told.success());
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends");
        assert!(ended.expect("a status").success(), "it ends in good order");
    }

    async fn until<F: Future<Output = bool>>(&self, what: &str, mut holds: impl FnMut(&'_ Self) -> F) {
        let begun = Instant::now();
        while !holds(self).await {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it is the leader and knows how many pods there are, which its first plan tells.
    pub async fn leads(&self) {
        let begun = Instant::now();
        while self.metric("gluetun_gateway_leader").await != 1.0 {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for it to lead");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it leads, and a while in which it does what there is to do after a start.
    pub async fn settled(&self, cluster: &Cluster) {
        self.leads().await;
        let pods = |line: &str| line.starts_with("gluetun_gateway_pods{") && !line.ends_with(" 0");
        let begun = Instant::now();
        while cluster.size.pods > 0 && !self.get("/metrics").await.1.lines().any(pods) {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for its first plan");
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    /// Status and body of what the admin port answers.
    async fn get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(self.admin).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it is open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer)
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.1;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        lines.next().and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Requests to the API server by its own counters, which watches are not in.
    pub async fn requests(&self) -> BTreeMap<String, u64> {
        const NAME: &str = "gluetun_gateway_kubernetes_requests_total";
        let text = self.get("/metrics").await.1;
        let lines = text.lines().filter_map(|line| line.strip_prefix(NAME)?.rsplit_once(' '));
        lines.map(|(labels, value)| (labels.to_owned(), value.parse::<f64>().unwrap_or(0.0) as u64)).collect()
    }

    /// An open tunnel of a session that has an exit.
    pub async fn tunnel(&self, user: String) -> TcpStream {
        let authorization = STANDARD.encode(format!("{user}:{PASSWORD}"));
        let head = format!(
            "CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n\
             Proxy-Authorization: Basic {authorization}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(self.proxy).await.expect("it listens");
        stream.write_all(head.as_bytes()).await.expect("it is open");
        let mut answer = Vec::with_capacity(1024);
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.expect("an answer") > 0, "closed without an answer");
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        stream
    }

    /// Memory in MiB: now, and at most so far.
    pub fn memory(&self) -> (f64, f64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("Linux");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is told");
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().expect("a number")
        };
        (kib("VmRSS") / 1024.0, kib("VmHWM") / 1024.0)
    }

    /// CPU time of its threads so far.
    pub fn cpu(&self) -> Cpu {
        let mut used = Cpu::default();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid)).expect("Linux").flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let nanos = read("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
            let kind = match read("comm").trim() {
                "control" => &mut used.control,
                name if name.starts_with("proxy-") => &mut used.data,
                _ => &mut used.others,
            };
            *kind += Duration::from_nanos(nanos);
        }
        used
    }
}

/// CPU time by what threads are for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub control: Duration,
    pub data: Duration,
    pub others: Duration,
}

impl Cpu {
    pub fn total(self) -> Duration {
        self.control + self.data + self.others
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            control: self.control.saturating_sub(before.control),
            data: self.data.saturating_sub(before.data),
            others: self.others.saturating_sub(before.others),
        }
    }
}
