//! The gateway's data path on port 0, its session table, and a client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::exits::{Exits, Local};
use super::super::{Deps, Listeners, Proxy, Shared, serve};
use super::Pod;
use crate::accounts::{Accounts, AccountsFile};
use crate::config::{Config, LogFormat, TunDevice};
use crate::drain::Shutdown;
use crate::identity::{Account, Authenticator, Users};
use crate::metrics::Metrics;
use crate::proxy::Destinations;
use crate::proxy::failures::Failures;
use crate::readiness::Liveness;
use crate::secret::Secret;
use crate::selector::{Lifetimes, SessionKey};
use crate::servers::Catalogue;
use crate::session::{AcquireError, Exit, Fault, Grant, InUse, Progress, SessionId};

const SERVERS: &str = r#"[
    {"vpn": "wireguard", "country": "Sweden", "city": "Stockholm", "hostname": "se-sto-wg-001", "wgpubkey": "k", "ips": ["1.2.3.4"]},
    {"vpn": "wireguard", "country": "USA", "city": "New York NY", "hostname": "us-nyc-wg-301", "wgpubkey": "k", "ips": ["1.2.3.5"]}
]"#;

/// A session table with one session, for everybody.
pub(super) struct Table {
    state: watch::Sender<State>,
    waiting: watch::Sender<usize>,
    reports: Mutex<Vec<(SocketAddr, Fault)>>,
    keys: Mutex<Vec<(SessionKey, Lifetimes)>>,
    /// By the numbers of their ids.
    named: Mutex<Vec<SessionKey>>,
}

#[derive(Clone, Default)]
struct State {
    ready: Option<Arc<Exit>>,
    error: Option<AcquireError>,
    /// What takes the place of an exit that is reported.
    replacement: Option<Arc<Exit>>,
}

impl Table {
    fn new(ready: Option<Arc<Exit>>) -> Arc<Self> {
        Arc::new(Self {
            state: watch::Sender::new(State { ready, ..State::default() }),
            waiting: watch::Sender::new(0),
            reports: Mutex::default(),
            keys: Mutex::default(),
            named: Mutex::default(),
        })
    }

    pub(super) fn set_ready(&self, exit: Option<&Arc<Exit>>) {
        self.state.send_modify(|state| state.ready = exit.cloned());
    }

    pub(super) fn set_replacement(&self, exit: &Arc<Exit>) {
        self.state.send_modify(|state| state.replacement = Some(Arc::clone(exit)));
    }

    pub(super) fn fail(&self, error: AcquireError) {
        self.state.send_modify(|state| state.error = Some(error));
    }

    pub(super) async fn until_waiting(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        tokio::time::timeout(Duration::from_secs(20), waiting.wait_for(|now| *now == count))
            .await
            .expect("waiters")
            .unwrap();
    }

    pub(super) fn reports(&self) -> Vec<(SocketAddr, Fault)> {
        self.reports.lock().unwrap().clone()
    }

    /// What was asked for last.
    pub(super) fn asked(&self) -> (String, Lifetimes) {
        let keys = self.keys.lock().unwrap();
        let (key, lifetimes) = keys.last().unwrap();
        (key.canonical(), *lifetimes)
    }
}

fn grant(exit: &Arc<Exit>, waited: Option<Duration>) -> Grant {
    Grant {
        exit: InUse::of(exit),
        idle: Duration::from_secs(300),
        expires: None,
        cold_start: waited.is_some(),
        waited: waited.unwrap_or_default(),
    }
}

impl Exits for Table {
    fn id(&self, key: &SessionKey) -> SessionId {
        let mut named = self.named.lock().unwrap();
        named.push(key.clone());
        SessionId::of(named.len() as u64 - 1)
    }

    fn hit(&self, id: SessionId) -> Option<Grant> {
        let key = self.named.lock().unwrap()[usize::try_from(id.number()).unwrap()].clone();
        self.keys.lock().unwrap().push((key, Lifetimes::default()));
        self.state.borrow().ready.as_ref().map(|exit| grant(exit, None))
    }

    fn acquire<'a>(
        &'a self,
        key: &'a SessionKey,
        lifetimes: &'a Lifetimes,
        deadline: Instant,
        _tell: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Local<'a, Result<Grant, AcquireError>> {
        struct Waiter<'a>(&'a Table);
        impl Drop for Waiter<'_> {
            fn drop(&mut self) {
                self.0.waiting.send_modify(|waiting| *waiting -= 1);
            }
        }
        Box::pin(async move {
            self.keys.lock().unwrap().push((key.clone(), *lifetimes));
            let begun = Instant::now();
            if deadline <= begun {
                return Err(AcquireError::Starting { retry_after: Duration::from_secs(2) });
            }
            self.waiting.send_modify(|waiting| *waiting += 1);
            let _waiter = Waiter(self);
            let mut state = self.state.subscribe();
            let done = state.wait_for(|state| state.ready.is_some() || state.error.is_some());
            match tokio::time::timeout_at(deadline, done).await {
                Ok(state) => {
                    let state = state.unwrap();
                    match (&state.ready, &state.error) {
                        (_, Some(error)) => Err(error.clone()),
                        (Some(exit), None) => Ok(grant(exit, Some(begun.elapsed()))),
                        (None, None) => unreachable!(),
                    }
                }
                Err(_) => Err(AcquireError::StartTimeout { last: None }),
            }
        })
    }

    fn by_pod_credentials(&self, user: &str, password: &Secret) -> Option<Grant> {
        let good = user == "pod.abc" && password.expose() == "sesame";
        self.state.borrow().ready.as_ref().filter(|_| good).map(|exit| grant(exit, None))
    }

    fn await_pod_credentials<'a>(&'a self, user: &'a str, password: &'a Secret) -> Local<'a, Option<Grant>> {
        Box::pin(std::future::ready(self.by_pod_credentials(user, password)))
    }

    fn pod_owner(&self, user: &str) -> Option<Account> {
        (user == "pod.abc").then(|| Account::parse("demo").unwrap())
    }

    fn report(&self, exit: &Arc<Exit>, why: Fault) {
        self.reports.lock().unwrap().push((exit.proxy_addr, why));
        self.state.send_modify(|state| {
            if state.ready.as_ref().is_some_and(|ready| Arc::ptr_eq(ready, exit)) {
                state.ready = state.replacement.take();
            }
        });
    }
}

fn config() -> Config {
    Config {
        proxy_addr: "127.0.0.1:0".parse().unwrap(),
        admin_addr: "127.0.0.1:0".parse().unwrap(),
        users_file: "users".into(),
        accounts_file: None,
        account_drain_timeout: std::time::Duration::from_secs(25),
        admin_tokens: Vec::new(),
        admin_token_file: None,
        cors_origins: Vec::new(),
        namespace: "test".to_owned(),
        identity: "test".to_owned(),
        instance_limit: 5,
        idle_timeout: Duration::from_secs(300),
        max_idle_timeout: Duration::from_secs(3600),
        start_timeout: Duration::from_secs(20),
        start_attempt_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(10),
        exit_ipv6: false,
        tun_device: TunDevice::None,
        gluetun_image: String::new(),
        pod_template: None,
        vpn_provider: "mullvad".to_owned(),
        vpn_type: "wireguard".to_owned(),
        firewall_input_ports: Vec::new(),
        gateway_url: "http://gluetun-gateway.vpn.svc.cluster.local:8080".to_owned(),
        service_cluster_ip: None,
        allow_destinations: Vec::new(),
        deny_destinations: Vec::new(),
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(25),
        max_connections: 1000,
        max_unauthenticated: 250,
        auth_throttle: None,
        forwarding_headers: Default::default(),
        data_threads: 2,
        servers: None,
        servers_refresh: Duration::ZERO,
        log_level: "info".to_owned(),
        log_format: LogFormat::Text,
    }
}

/// A running data path.
pub(super) struct Gateway {
    pub(super) addr: SocketAddr,
    pub(super) table: Arc<Table>,
    pub(super) shutdown: Shutdown,
    pub(super) proxy: Option<Proxy>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    _catalogue: watch::Sender<Arc<Catalogue>>,
    accounts: watch::Sender<Arc<Accounts>>,
}

impl Gateway {
    /// With this pod as the exit of every session, or none yet.
    pub(super) fn start(pod: Option<&Pod>) -> Self {
        Self::with(pod, |_| {})
    }

    /// With something changed before it starts.
    pub(super) fn with(pod: Option<&Pod>, change: impl FnOnce(&mut Shared)) -> Self {
        Self::threads(2, pod, change)
    }

    /// With so many data threads.
    pub(super) fn threads(threads: usize, pod: Option<&Pod>, change: impl FnOnce(&mut Shared)) -> Self {
        Self::made(threads, pod, "", change)
    }

    /// With this accounts file.
    pub(super) fn with_policy(pod: Option<&Pod>, policy: &str) -> Self {
        Self::made(2, pod, policy, |_| {})
    }

    fn made(threads: usize, pod: Option<&Pod>, policy: &str, change: impl FnOnce(&mut Shared)) -> Self {
        let table = Table::new(pod.map(|pod| Arc::clone(&pod.exit)));
        // The least cost that bcrypt has: it is not what is tested here.
        let hash = bcrypt::hash("open:sesame", 4).unwrap();
        let users = Users::parse(&format!("demo:{hash}\n")).unwrap();
        let catalogue = watch::Sender::new(Arc::new(Catalogue::parse(SERVERS).unwrap()));
        let metrics = Arc::new(Metrics::new().unwrap());
        let shutdown = Shutdown::new();
        let config = config();
        let listeners = Listeners::bind(config.proxy_addr, threads).unwrap();
        let destinations = Destinations::parse(&["127.0.0.0/8".to_owned()], &[])
            .unwrap()
            .with_own(&config.gateway_url, &[listeners.addr()]);
        let exits: Arc<dyn Exits> = Arc::clone(&table) as _;
        let accounts = Accounts::new(&users, &AccountsFile::parse(policy).unwrap());
        let accounts = watch::Sender::new(Arc::new(accounts));
        let liveness = Liveness::new();
        let deps = Deps {
            // Not used: `exits` stands in for it.
            sessions: crate::session::sessions(Arc::clone(&metrics), config.idle_timeout).0,
            authenticator: Authenticator::new(users).unwrap(),
            accounts: accounts.subscribe(),
            catalogue: catalogue.subscribe(),
            destinations,
            metrics: Arc::clone(&metrics),
            shutdown: shutdown.clone(),
            liveness: liveness.clone(),
            failures: Failures::new(2),
        };
        let mut shared = Shared::new(&config, exits, deps).unwrap();
        change(&mut shared);
        let shared = Arc::new(shared);
        let proxy = serve(Arc::clone(&shared), listeners, &liveness).unwrap();
        Self {
            addr: proxy.addr(),
            table,
            shutdown,
            proxy: Some(proxy),
            shared,
            metrics,
            _catalogue: catalogue,
            accounts,
        }
    }

    /// Another accounts file, and nobody at all when there is none.
    pub(super) fn set_policy(&self, policy: Option<&str>) {
        let name = if policy.is_some() { "demo" } else { "nobody" };
        let users = Users::parse(&format!("{name}:{}\n", bcrypt::hash("open:sesame", 4).unwrap())).unwrap();
        let file = AccountsFile::parse(policy.unwrap_or_default()).unwrap();
        let next = self.accounts.borrow().next(&users, &file);
        self.accounts.send_replace(Arc::new(next));
    }

    /// Ends what is open of accounts that are gone.
    pub(super) fn end_accounts(&self) {
        self.accounts.borrow().end_due(Duration::ZERO);
    }

    /// A client's connection.
    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends a request on a connection of its own and reads the answer.
    pub(super) async fn ask(&self, request: &str) -> (TcpStream, Answer) {
        let mut stream = self.connect().await;
        let answer = ask(&mut stream, request).await;
        (stream, answer)
    }

    /// CONNECT with good credentials.
    pub(super) async fn tunnel(&self, target: &str) -> (TcpStream, Answer) {
        self.ask(&connect(target, "demo")).await
    }

    /// How many requests of a kind ended so.
    pub(super) fn requests(&self, kind: &str, outcome: &str) -> u64 {
        self.metrics.requests.with_label_values(&[kind, outcome]).get()
    }

    /// Size of the future that serves a connection.
    pub(super) async fn task_size(&self) -> usize {
        let (shared, stream) = (Arc::clone(&self.shared), self.connect().await);
        let thread =
            super::super::thread::Thread::new(shared, super::super::balance::balances(1).remove(0).0);
        let connection = super::super::thread::Connection::new(&thread, None);
        size_of_val(&super::super::connection::serve(thread, stream, self.addr, connection))
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.force();
        if let Some(proxy) = self.proxy.take() {
            assert_eq!(proxy.join(), Ok(()));
        }
    }
}

/// The header for a username.
pub(super) fn basic(username: &str, password: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    format!("Proxy-Authorization: Basic {pair}\r\n")
}

/// A CONNECT by a username with the right password.
pub(super) fn connect(target: &str, username: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", basic(username, "open:sesame"))
}

/// An answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(super) fn code(&self) -> &str {
        self.header("x-gateway-error").unwrap_or("-")
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends a request and reads its answer.
pub(super) async fn ask(stream: &mut TcpStream, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(stream).await
}

/// Reads an answer: its head byte by byte, so that nothing behind it is taken, then its body.
pub(super) async fn answer(stream: &mut TcpStream) -> Answer {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut body = Vec::new();
        if let Some(length) = headers.get("content-length") {
            body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
        } else if headers.get("transfer-encoding").is_some_and(|v| v == "chunked") {
            loop {
                let mut size = Vec::new();
                while !size.ends_with(b"\r\n") {
                    size.push(stream.read_u8().await.unwrap());
                }
                let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk).await.unwrap();
                body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        }
        Answer { status, head: head.clone(), headers, body }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer in time")
}

/// Reads until the end; a reset is an end too.
pub(super) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("an end in time");
    rest
}

/// A server that sends back what it gets.
pub(super) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut input, mut output) = stream.split();
                let _ = tokio::io::copy(&mut input, &mut output).await;
                let _ = output.shutdown().await;
            });
        }
    });
    addr
}

/// Waits for a condition.
pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
