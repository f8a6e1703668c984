//! The admin port over real sockets: what comes back for good and bad requests.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{Config, LogFormat, TunDevice};
use crate::readiness::Condition;
use crate::secret::Secret;
use crate::servers::{Origin, SourceKind};

/// An admin port and what it tells of.
struct Port {
    addr: SocketAddr,
    readiness: Readiness,
    liveness: Liveness,
    catalogue: watch::Sender<Arc<Catalogue>>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    _pods: Option<Condition>,
}

pub(crate) fn config(tokens: &[&str]) -> Config {
    Config {
        proxy_addr: ([127, 0, 0, 1], 0).into(),
        admin_addr: ([127, 0, 0, 1], 0).into(),
        users_file: "users".into(),
        accounts_file: None,
        account_drain_timeout: std::time::Duration::from_secs(25),
        admin_tokens: tokens.iter().map(|token| Secret::from(*token)).collect(),
        admin_token_file: None,
        cors_origins: Vec::new(),
        namespace: "vpn".to_owned(),
        identity: "test".to_owned(),
        instance_limit: 5,
        idle_timeout: Duration::from_secs(300),
        max_idle_timeout: Duration::from_secs(3600),
        start_timeout: Duration::from_secs(90),
        start_attempt_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(25),
        exit_ipv6: false,
        tun_device: TunDevice::HostPath,
        gluetun_image: "gluetun".to_owned(),
        pod_template: None,
        vpn_provider: "mullvad".to_owned(),
        vpn_type: "wireguard".to_owned(),
        firewall_input_ports: Vec::new(),
        gateway_url: "http://gluetun-gateway.vpn.svc.cluster.local:8080".to_owned(),
        service_cluster_ip: None,
        allow_destinations: Vec::new(),
        deny_destinations: Vec::new(),
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::ZERO,
        max_connections: 100,
        max_unauthenticated: 250,
        auth_throttle: None,
        forwarding_headers: Default::default(),
        data_threads: 1,
        servers: None,
        servers_refresh: Duration::ZERO,
        log_level: "INFO".to_owned(),
        log_format: LogFormat::Json,
    }
}

/// A client of an API server that never answers.
fn nobody() -> kube::Client {
    let service = tower::service_fn(|_: axum::http::Request<kube::client::Body>| async {
        std::future::pending::<Result<axum::http::Response<kube::client::Body>, std::io::Error>>().await
    });
    kube::Client::new(service, "vpn")
}

impl Port {
    async fn open(tokens: &[&str]) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (sessions, _driver) = crate::session::sessions(Arc::clone(&metrics), Duration::from_secs(300));
        let (catalogue, receiver) = watch::channel(Arc::new(Catalogue::default()));
        let readiness = Readiness::new();
        let pods = readiness.require("pods");
        let liveness = Liveness::new();
        let admin = Admin {
            config: Arc::new(config(tokens)),
            metrics,
            readiness: readiness.clone(),
            liveness: liveness.clone(),
            sessions: sessions.clone(),
            refresher: Refresher::fixed(receiver.clone()),
            manager: Manager::new(sessions.clone(), nobody(), "vpn"),
            tokens: watch::channel(Arc::new(tokens.iter().map(|token| Secret::from(*token)).collect())).1,
            catalogue: receiver,
            failures: Failures::new(1),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router(admin), stop.clone()));
        Self { addr, readiness, liveness, catalogue, stop, server, _pods: Some(pods) }
    }

    /// Sends bytes and reads until the server closes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn ask(&self, line: &str, headers: &str) -> Answer {
        let text =
            self.raw(&format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")).await;
        Answer::read(&text)
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "").await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        assert!(self.head.contains("\r\ncontent-type: application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }
}

#[tokio::test]
async fn health_is_as_the_original_had_it() {
    let port = Port::open(&[]).await;
    let answer = port.get("/health").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, r#"{"status":"healthy","servers_loaded":false}"#);
    let list = r#"[{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"}]"#;
    port.catalogue.send_replace(Arc::new(Catalogue::parse(list).unwrap()));
    assert_eq!(port.get("/health").await.body, r#"{"status":"healthy","servers_loaded":true}"#);
    let mut origin = Origin::now(SourceKind::Cached);
    origin.since -= Duration::from_secs(90);
    port.catalogue.send_replace(Arc::new(Catalogue::parse(list).unwrap().from_origin(origin)));
    let told = port.get("/health").await.json();
    assert_eq!((&told["servers_source"], &told["servers_count"]), (&"cached".into(), &1.into()));
    assert!((90..95).contains(&told["servers_age_seconds"].as_u64().unwrap()), "{told}");
    let metrics = port.get("/metrics").await.body;
    assert!(metrics.contains("gluetun_gateway_servers_age_seconds{source=\"cached\"} 9"), "{metrics}");
}

#[tokio::test]
async fn readyz_names_what_it_waits_for() {
    let mut port = Port::open(&[]).await;
    let answer = port.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["waiting_for"], serde_json::json!(["pods"]));
    port._pods.take().unwrap().met();
    let answer = port.get("/readyz").await;
    assert_eq!((answer.status, &answer.json()["ready"]), (200, &Value::Bool(true)));
    port.readiness.drain();
    let answer = port.get("/readyz").await;
    assert_eq!((answer.status, &answer.json()["draining"]), (503, &Value::Bool(true)));
}

#[tokio::test]
async fn livez_is_about_event_loops_alone() {
    let port = Port::open(&[]).await;
    let _beating = port.liveness.register("data-0");
    let answer = port.get("/livez").await;
    assert_eq!(answer.status, 200, "not ready, and alive");
    assert_eq!(answer.json()["alive"], true);
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let port = Port::open(&["a-token-of-the-api"]).await;
    let answer = port.get("/metrics").await;
    assert_eq!(answer.status, 200, "no token needed");
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.body.contains("\ngluetun_gateway_pods_limit 5\n"), "{}", answer.body);
    assert!(answer.body.contains("\nprocess_resident_memory_bytes "), "{}", answer.body);
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let port = Port::open(&[]).await;
    let id = |answer: &Answer| answer.header("x-request-id").to_owned();
    let (first, second) = (id(&port.get("/health").await), id(&port.get("/nowhere").await));
    assert!(uuid::Uuid::parse_str(&first).is_ok() && uuid::Uuid::parse_str(&second).is_ok());
    assert_ne!(first, second);
    assert_eq!(id(&port.ask("GET /status", "X-Request-Id: abc-1.2_3\r\n").await), "abc-1.2_3");
    let long = format!("X-Request-Id: {}\r\n", "x".repeat(65));
    for bad in ["X-Request-Id: a b\r\n", "X-Request-Id: \r\n", &long] {
        assert!(uuid::Uuid::parse_str(&id(&port.ask("GET /status", bad).await)).is_ok(), "{bad}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_in_json() {
    let port = Port::open(&[]).await;
    for (line, status) in [
        ("GET /", 404),
        ("GET /status/", 404),
        ("POST /nowhere", 404),
        ("POST /status", 405),
        ("DELETE /health", 405),
        ("PUT /metrics", 405),
    ] {
        let answer = port.ask(line, "Content-Length: 0\r\n").await;
        assert_eq!(answer.status, status, "{line}");
        assert!(!answer.json()["error"].as_str().unwrap().is_empty(), "{line}");
        assert_eq!(answer.header("cache-control"), "no-store", "{line}");
    }
    assert!(port.ask("POST /status", "Content-Length: 0\r\n").await.header("allow").contains("get"));
}

#[tokio::test]
async fn the_api_is_open_without_a_token_and_closed_with_one() {
    let port = Port::open(&[]).await;
    let answer = port.get("/status").await;
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({})));

    let port = Port::open(&["first-token-0123", "second-token-4567"]).await;
    for headers in ["", "Authorization: Bearer wrong-token-0000\r\n", "Authorization: Basic eDp5\r\n"] {
        let answer = port.ask("GET /status", headers).await;
        assert_eq!(answer.status, 401, "{headers}");
        assert!(answer.header("www-authenticate").starts_with("bearer"), "{headers}");
        assert!(answer.json()["error"].is_string());
    }
    for token in ["first-token-0123", "second-token-4567"] {
        let answer = port.ask("GET /status", &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(answer.status, 200, "{token}");
    }
    for open in ["/health", "/livez", "/metrics"] {
        assert_eq!(port.get(open).await.status, 200, "{open}");
    }
    assert_eq!(port.get("/readyz").await.status, 503);
}

#[tokio::test]
async fn too_much_of_a_head_is_refused() {
    let port = Port::open(&[]).await;
    let many = "X-A: b\r\n".repeat(100);
    assert_eq!(port.ask("GET /health", &many).await.status, 431);
    let text = port.raw("nonsense\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
}

#[tokio::test]
async fn idle_connections_end_with_the_server() {
    let port = Port::open(&[]).await;
    let mut idle = TcpStream::connect(port.addr).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 1024];
    assert!(idle.read(&mut buffer).await.unwrap() > 0);
    port.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), port.server).await.unwrap().unwrap();
    assert_eq!(idle.read(&mut buffer).await.unwrap(), 0, "closed");
}
