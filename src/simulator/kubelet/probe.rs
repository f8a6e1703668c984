//! Probes: what a container's probes ask for, when they ask, and what they conclude. Each probe of a
//! container is a task that the pod's worker starts with it and drops with it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::faults::{Faults, Subject};

/// Bytes of an answer that are read: what a kubelet reads at most.
const BODY_LIMIT: usize = 10 * 1024;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events spell it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// As the event of a container that is killed for it spells it.
    pub(super) fn lower(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

/// What a probe tells the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// One try failed; the text for the event.
    Failed(Kind, String),
    /// As many tries in a row as it takes had this result.
    Concluded(Kind, bool),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Check {
    Http {
        to: SocketAddr,
        url: String,
        request: String,
    },
    Tcp {
        to: SocketAddr,
    },
    /// Nothing that can be asked: the text says why.
    Unsupported(String),
}

/// One probe of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    kind: Kind,
    check: Check,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    success_threshold: u32,
    failure_threshold: u32,
}

impl Plan {
    /// The probe of that kind, if the container has one.
    pub(super) fn of(kind: Kind, container: &Container, pod_ip: IpAddr) -> Option<Self> {
        let probe = match kind {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }?;
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(
                value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default),
            )
        };
        let times = |value: Option<i32>, default: u32| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Some(Self {
            kind,
            check: check(probe, container, pod_ip),
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: times(probe.success_threshold, 1),
            failure_threshold: times(probe.failure_threshold, 3),
        })
    }
}

fn check(probe: &Probe, container: &Container, pod_ip: IpAddr) -> Check {
    let target = |host: &Option<String>, port: &IntOrString| -> Result<(SocketAddr, String), String> {
        let port = port_number(port, container)?;
        let ip = match host.as_deref() {
            None | Some("") => pod_ip,
            Some(host) => {
                host.parse().map_err(|_| format!("host {host:?} of the probe is not an IP address"))?
            }
        };
        let to = SocketAddr::new(ip, port);
        Ok((to, to.to_string()))
    };
    if let Some(get) = &probe.http_get {
        if get.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
            return Check::Unsupported("this kubelet asks over plain HTTP only".to_owned());
        }
        return match target(&get.host, &get.port) {
            Err(error) => Check::Unsupported(error),
            Ok((to, authority)) => {
                let path = get.path.as_deref().unwrap_or("/");
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
                let headers = get.http_headers.as_deref().unwrap_or_default();
                let mut lines =
                    vec![("User-Agent", "kube-probe/1.33"), ("Accept", "*/*"), ("Host", &authority)];
                for header in headers {
                    lines.retain(|(name, _)| !name.eq_ignore_ascii_case(&header.name));
                }
                lines.extend(headers.iter().map(|header| (header.name.as_str(), header.value.as_str())));
                lines.push(("Connection", "close"));
                let lines: String =
                    lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let request = format!("GET {path} HTTP/1.1\r\n{lines}\r\n");
                Check::Http { to, url: format!("http://{authority}{path}"), request }
            }
        };
    }
    if let Some(socket) = &probe.tcp_socket {
        return match target(&socket.host, &socket.port) {
            Ok((to, _)) => Check::Tcp { to },
            Err(error) => Check::Unsupported(error),
        };
    }
    Check::Unsupported("this kubelet has httpGet and tcpSocket probes only".to_owned())
}

fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or_default();
            match ports.iter().find(|port| port.name.as_ref() == Some(name)) {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("couldn't find port {name:?} in the container"))?,
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

/// Asks over and over, from `first` after the call on, and tells `notes` about it, until nobody
/// listens. Liveness and readiness wait for `started`; a startup probe ends with its first conclusion.
pub(super) async fn run(
    plan: Plan,
    first: Duration,
    mut started: watch::Receiver<bool>,
    faults: Faults,
    pod: Subject,
    notes: mpsc::Sender<Note>,
) {
    let begin = Instant::now();
    let waits = plan.kind != Kind::Startup && !*started.borrow();
    if plan.kind != Kind::Startup && started.wait_for(|started| *started).await.is_err() {
        return;
    }
    // After a startup probe the others begin at once; otherwise at the kubelet's next turn.
    if !waits {
        sleep(first.max(plan.initial_delay)).await;
    } else {
        sleep(plan.initial_delay.saturating_sub(begin.elapsed())).await;
    }
    let mut ticks = interval(plan.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tally = Tally::new(&plan);
    loop {
        ticks.tick().await;
        let result = if plan.kind == Kind::Readiness && faults.is_never_ready(&pod) {
            Err("HTTP probe failed with statuscode: 500".to_owned())
        } else {
            ask(&plan.check, plan.timeout).await
        };
        let success = result.is_ok();
        if let Err(text) = result {
            let text = match plan.check {
                Check::Unsupported(_) => format!("{} probe errored: {text}", plan.kind.as_str()),
                Check::Http { .. } | Check::Tcp { .. } => {
                    format!("{} probe failed: {text}", plan.kind.as_str())
                }
            };
            if notes.send(Note::Failed(plan.kind, text)).await.is_err() {
                return;
            }
        }
        if let Some(conclusion) = tally.count(success) {
            if notes.send(Note::Concluded(plan.kind, conclusion)).await.is_err() {
                return;
            }
            if plan.kind == Kind::Startup {
                return;
            }
        }
    }
}

/// Counts results until they mean something.
struct Tally {
    success_threshold: u32,
    failure_threshold: u32,
    concluded: Option<bool>,
    last: bool,
    in_a_row: u32,
}

impl Tally {
    fn new(plan: &Plan) -> Self {
        Self {
            success_threshold: plan.success_threshold,
            failure_threshold: plan.failure_threshold,
            // Until a probe has spoken, a container is alive, not started and not ready.
            concluded: match plan.kind {
                Kind::Startup => None,
                Kind::Liveness => Some(true),
                Kind::Readiness => Some(false),
            },
            last: false,
            in_a_row: 0,
        }
    }

    /// A conclusion, if it is a new one.
    fn count(&mut self, success: bool) -> Option<bool> {
        self.in_a_row = if success == self.last { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = success;
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.in_a_row < threshold || self.concluded == Some(success) {
            return None;
        }
        self.concluded = Some(success);
        Some(success)
    }
}

/// Asks once. The error is the text that follows "probe failed: ".
async fn ask(check: &Check, limit: Duration) -> Result<(), String> {
    match check {
        Check::Unsupported(why) => Err(why.clone()),
        Check::Tcp { to } => match timeout(limit, TcpStream::connect(to)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(dial_error(*to, &error)),
            Err(_) => Err(format!("dial tcp {to}: i/o timeout")),
        },
        Check::Http { to, url, request } => match timeout(limit, get(*to, request)).await {
            Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
            Ok(Ok(status)) => Err(format!("HTTP probe failed with statuscode: {status}")),
            Ok(Err(error)) => Err(format!("Get {url:?}: {error}")),
            Err(_) => Err(format!(
                "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            )),
        },
    }
}

/// Asks over HTTP and returns the status.
async fn get(to: SocketAddr, request: &str) -> Result<u16, String> {
    let mut stream = TcpStream::connect(to).await.map_err(|error| dial_error(to, &error))?;
    // The whole head at once: Gluetun's health server waits 100 ms for it.
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let mut status = None;
    loop {
        let read = stream.read_buf(&mut answer).await;
        if status.is_none() {
            status = parse_status(&answer)?;
        }
        // With a status in hand, the rest is read only so that the server can send it.
        match (read, status) {
            (Ok(0) | Err(_), Some(status)) => return Ok(status),
            (Ok(0), None) => return Err("EOF".to_owned()),
            (Err(error), None) => return Err(error.to_string()),
            (Ok(_), Some(status)) if answer.len() > BODY_LIMIT => return Ok(status),
            (Ok(_), None) if answer.len() > BODY_LIMIT => return Err("malformed HTTP response".to_owned()),
            (Ok(_), _) => {}
        }
    }
}

/// The status of an answer, once its first line is there.
fn parse_status(answer: &[u8]) -> Result<Option<u16>, String> {
    let Some(end) = answer.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line = String::from_utf8_lossy(&answer[..end]);
    let malformed = || format!("malformed HTTP response {:?}", line.trim_end());
    let rest = line.strip_prefix("HTTP/1.").ok_or_else(malformed)?;
    let status = rest.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
    status.map(Some).ok_or_else(malformed)
}

/// Go's text for a failed dial.
fn dial_error(to: SocketAddr, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => format!("dial tcp {to}: connect: connection refused"),
        std::io::ErrorKind::HostUnreachable => format!("dial tcp {to}: connect: no route to host"),
        _ => format!("dial tcp {to}: connect: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::kubelet::faults::{Fault, Pods};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    fn plan(kind: Kind, probe: Value) -> Plan {
        let field = format!("{}Probe", kind.lower());
        let container: Container = serde_json::from_value(json!({
            "name": "c", field: probe, "ports": [{"name": "health", "containerPort": 9999}],
        }))
        .unwrap();
        Plan::of(kind, &container, "127.0.0.1".parse().unwrap()).unwrap()
    }

    fn subject() -> Subject {
        Subject { uid: "u".into(), name: "p".into(), server: None }
    }

    /// A server that answers each connection with the next of `answers`; empty: closes at once.
    async fn server(answers: &'static [&'static str]) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 1024];
                let n = stream.read(&mut head).await.unwrap();
                asked.push(String::from_utf8_lossy(&head[..n]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (port, serving)
    }

    #[test]
    fn reads_a_probe_and_its_defaults() {
        let plan = plan(
            Kind::Readiness,
            json!({"httpGet": {"port": "health", "path": "ok", "httpHeaders": [{"name": "host", "value": "h"}]}}),
        );
        assert_eq!((plan.period, plan.timeout), (Duration::from_secs(10), Duration::from_secs(1)));
        assert_eq!((plan.success_threshold, plan.failure_threshold), (1, 3));
        let Check::Http { to, url, request } = plan.check else { panic!("{:?}", plan.check) };
        assert_eq!((to.to_string().as_str(), url.as_str()), ("127.0.0.1:9999", "http://127.0.0.1:9999/ok"));
        assert_eq!(
            request,
            "GET /ok HTTP/1.1\r\nUser-Agent: kube-probe/1.33\r\nAccept: */*\r\nhost: h\r\nConnection: close\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn says_what_a_kubelet_says() {
        let answers = ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 500 x\r\n\r\nbody", "", "nonsense\r\n"];
        let (port, serving) = server(Box::leak(Box::new(answers))).await;
        let http = plan(Kind::Readiness, json!({"httpGet": {"port": port}})).check;
        let limit = Duration::from_secs(5);
        let url = format!("\"http://127.0.0.1:{port}/\"");
        for expected in [
            Ok(()),
            Err("HTTP probe failed with statuscode: 500".to_owned()),
            Err(format!("Get {url}: EOF")),
            Err(format!("Get {url}: malformed HTTP response \"nonsense\"")),
        ] {
            assert_eq!(ask(&http, limit).await, expected);
        }
        assert_eq!(serving.await.unwrap().len(), 4);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(ask(&http, limit).await, Err(format!("Get {url}: {refused}")));
        let tcp = plan(Kind::Readiness, json!({"tcpSocket": {"port": port}})).check;
        assert_eq!(ask(&tcp, limit).await, Err(refused));
        let exec = plan(Kind::Readiness, json!({"exec": {"command": ["true"]}})).check;
        assert!(ask(&exec, limit).await.is_err());
        let unknown = plan(Kind::Readiness, json!({"tcpSocket": {"port": "nope"}})).check;
        assert_eq!(ask(&unknown, limit).await, Err("couldn't find port \"nope\" in the container".into()));
    }

    #[tokio::test]
    async fn a_silent_server_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = plan(Kind::Readiness, json!({"httpGet": {"port": port}}));
        let error = ask(&plan.check, Duration::from_millis(20)).await.unwrap_err();
        assert!(error.ends_with("(Client.Timeout exceeded while awaiting headers)"), "{error}");
    }

    #[test]
    fn concludes_at_the_thresholds_and_only_anew() {
        let plan = plan(
            Kind::Readiness,
            json!({"tcpSocket": {"port": 1}, "successThreshold": 2, "failureThreshold": 2}),
        );
        let mut tally = Tally::new(&plan);
        let results = [false, false, true, true, true, false, true, false, false, false, true, true];
        let told: Vec<_> = results.into_iter().map(|result| tally.count(result)).collect();
        let (up, down) = (Some(true), Some(false));
        assert_eq!(told, [None, None, None, up, None, None, None, None, down, None, None, up]);
        let mut startup = Tally::new(&Plan { kind: Kind::Startup, ..plan });
        assert_eq!([startup.count(false), startup.count(false)], [None, Some(false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_start_and_obeys_a_fault() {
        let plan = plan(Kind::Readiness, json!({"tcpSocket": {"port": 1}, "periodSeconds": 1}));
        let (started, starting) = watch::channel(false);
        let (notes, mut told) = mpsc::channel(8);
        let faults = Faults::default();
        faults.inject(Pods::Any, Fault::NeverReady);
        let probe = tokio::spawn(run(plan, Duration::ZERO, starting, faults, subject(), notes));
        assert!(timeout(Duration::from_secs(60), told.recv()).await.is_err(), "not before it has started");
        started.send_replace(true);
        let text = "Readiness probe failed: HTTP probe failed with statuscode: 500".to_owned();
        assert_eq!(told.recv().await, Some(Note::Failed(Kind::Readiness, text)));
        drop(told);
        probe.await.unwrap();
    }
}
