//! The data path: from a client's connection to the tunnel through an exit. `app` binds
//! [`Listeners`] and starts a [`Proxy`]; the session table tells it which exit, and it never sees the
//! Kubernetes client.
//!
//! ```text
//! listener ─▶ connection ─┬─ CONNECT ──────────────────────▶ connect ─▶ upstream ─▶ relay
//!                         ├─ direct ─▶ rewrite ─▶ origin ───────┤
//!                         └─ plain (hyper) ─▶ forward ─▶ pool ──┘
//! ```
//!
//! One data thread a core, each with its own runtime and listener (`SO_REUSEPORT`): a connection lives
//! and dies on the thread that accepted it, so nothing crosses threads but the session table, the
//! counters and the drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::accounts::Accounts;
use crate::config::{Config, Forwarding};
use crate::drain::Shutdown;
use crate::identity::Authenticator;
use crate::metrics::Metrics;
use crate::readiness::Liveness;
use crate::selector::Limits;
use crate::servers::Catalogue;
use crate::session::Sessions;

mod address;
mod balance;
pub mod buffers;
mod check;
pub mod chunks;
mod client_io;
mod connect;
mod connection;
mod content;
pub mod destination;
mod direct;
pub mod error;
mod event;
mod exits;
pub mod failures;
mod forward;
pub mod gate;
mod gluetun;
pub mod head;
mod headers;
mod lines;
mod listener;
mod newcomers;
mod origin;
mod plain;
mod pool;
mod record;
pub mod relay;
mod reply;
mod response;
mod rewrite;
mod socket;
mod stage;
pub mod target;
mod thread;
pub mod trail;
mod tunnel;
mod upstream;
mod wish;

#[cfg(test)]
mod tests;

pub use destination::{
    AccountDestinations, DestinationError, Destinations, Ports, Rules as DestinationRules,
};
pub use error::{ALL_CODES, Code, ProxyError};

use exits::Exits;
use failures::Failures;
use target::Target;

/// How long things may take. The settings that are a user's come from [`Config`]; the others have their
/// reasons here.
#[derive(Clone, Debug)]
struct Timings {
    /// A head, from the connection's begin (later: from its first byte).
    head: Duration,
    /// A connection between two requests.
    keep_alive: Duration,
    /// A client after an error, until it has read the answer and closed.
    linger: Duration,
    /// One dial to an exit: it is in the same cluster.
    dial: Duration,
    /// Pauses between dials.
    dial_pauses: [Duration; 2],
    /// Pause before another exit is asked for.
    exit_pause: Duration,
    /// An exit's answer to a CONNECT (`CONNECT_TIMEOUT`).
    connect: Duration,
    /// After so long without an answer the exit is checked.
    silent: Duration,
    /// The check of an exit.
    check: Duration,
    /// What the check asks for: a public resolver, by address, so that no name is looked up.
    check_target: Target,
    /// What an exit that has never reached that is asked for besides: an address of Gluetun's own health
    /// check (`HEALTH_TARGET_ADDRESSES` of the pods).
    second_check_target: Target,
    /// A tunnel for plain HTTP without a request. Origins keep connections for 5 s and more.
    pooled: Duration,
    /// A tunnel of which one side has ended and in which nothing moves.
    half_idle: Duration,
    /// How often those tunnels are looked for that are new no longer: their exits are asked from then on whether they
    /// live, and the silence of a half-open one is counted.
    rounds: Duration,
}

impl Timings {
    fn new(connect: Duration) -> Option<Self> {
        Some(Self {
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            linger: Duration::from_millis(1500),
            dial: Duration::from_secs(2),
            dial_pauses: [Duration::from_millis(50), Duration::from_millis(100)],
            exit_pause: Duration::from_millis(200),
            connect,
            silent: Duration::from_secs(5).min(connect),
            check: Duration::from_secs(3),
            check_target: Target::authority("1.1.1.1:53").ok()?,
            second_check_target: Target::authority("1.1.1.1:443").ok()?,
            pooled: Duration::from_secs(4),
            half_idle: Duration::from_secs(3600),
            rounds: Duration::from_secs(30),
        })
    }
}

/// What all data threads share.
struct Shared {
    exits: Arc<dyn Exits>,
    authenticator: Authenticator,
    accounts: watch::Receiver<Arc<Accounts>>,
    catalogue: watch::Receiver<Arc<Catalogue>>,
    destinations: Destinations,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    failures: Failures,
    limits: Limits,
    idle_timeout: Duration,
    timings: Timings,
    checks: Arc<check::Checks>,
    /// Client connections that may still begin.
    slots: Arc<Semaphore>,
    /// Connections of one data thread whose clients have not logged in.
    most_newcomers: usize,
    /// What plain HTTP gets added.
    forwarding: Forwarding,
    /// Told when a connection has ended.
    freed: Notify,
    /// Told when a thread finds no file left.
    short: Notify,
}

/// What the proxy needs of the rest of the gateway.
#[derive(Debug)]
pub struct Deps {
    /// The session table.
    pub sessions: Sessions,
    /// The password check.
    pub authenticator: Authenticator,
    /// What accounts may do.
    pub accounts: watch::Receiver<Arc<Accounts>>,
    /// The server list in use.
    pub catalogue: watch::Receiver<Arc<Catalogue>>,
    /// Which destinations are refused; with the gateway's own addresses
    /// ([`Destinations::with_own`]).
    pub destinations: Destinations,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The shutdown that the threads follow.
    pub shutdown: Shutdown,
    /// Where each data thread beats.
    pub liveness: Liveness,
    /// Where failures are kept.
    pub failures: Failures,
}

/// The proxy port, bound and not yet served: bind every port, then start.
#[derive(Debug)]
pub struct Listeners {
    addr: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
}

impl Listeners {
    /// Binds the proxy port for so many threads. Port 0 becomes a free one.
    ///
    /// # Errors
    ///
    /// When the port is taken or may not be used.
    pub fn bind(addr: SocketAddr, threads: usize) -> io::Result<Self> {
        let (addr, sockets) = socket::listen(addr, threads.max(1))?;
        Ok(Self { addr, sockets })
    }

    /// Where they listen.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// The running data path.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    threads: Vec<std::thread::JoinHandle<()>>,
    ended: mpsc::UnboundedReceiver<usize>,
}

/// Starts the data threads. They end when the drain is over ([`Shutdown::run`]).
///
/// # Errors
///
/// When a thread or its runtime cannot be made.
pub fn start(config: &Config, listeners: Listeners, deps: Deps) -> io::Result<Proxy> {
    let liveness = deps.liveness.clone();
    let shared = Shared::new(config, Arc::new(deps.sessions.clone()), deps)?;
    serve(Arc::new(shared), listeners, &liveness)
}

impl Shared {
    fn new(config: &Config, exits: Arc<dyn Exits>, deps: Deps) -> io::Result<Self> {
        let Deps { authenticator, accounts, catalogue, destinations, metrics, shutdown, failures, .. } = deps;
        let limits =
            Limits { max_idle: config.max_idle_timeout, max_wait: config.start_timeout, ..Limits::default() };
        let timings = Timings::new(config.connect_timeout)
            .ok_or_else(|| io::Error::other("the check address is malformed"))?;
        Ok(Self {
            exits,
            authenticator,
            accounts,
            catalogue,
            destinations,
            metrics,
            shutdown,
            failures,
            limits,
            idle_timeout: config.idle_timeout,
            timings,
            checks: Arc::default(),
            slots: Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS))),
            most_newcomers: config.max_unauthenticated.div_ceil(config.data_threads.max(1)),
            forwarding: config.forwarding_headers,
            freed: Notify::new(),
            short: Notify::new(),
        })
    }
}

fn serve(shared: Arc<Shared>, listeners: Listeners, liveness: &Liveness) -> io::Result<Proxy> {
    let files = socket::raise_open_files();
    tracing::info!(addr = %listeners.addr, threads = listeners.sockets.len(), open_files = files, "the proxy port is open");
    let (ending, ended) = mpsc::unbounded_channel();
    let mut threads = Vec::with_capacity(listeners.sockets.len());
    let balances = balance::balances(listeners.sockets.len());
    for ((index, listener), balance) in listeners.sockets.into_iter().enumerate().zip(balances) {
        let (ready, is_ready) = sync_channel(1);
        let (shared, ending) = (Arc::clone(&shared), ending.clone());
        let heartbeat = liveness.register(format!("proxy-{index}"));
        let thread = std::thread::Builder::new().name(format!("proxy-{index}")).spawn(move || {
            let _end = Ending { index, ending };
            listener::run(shared, listener, balance, heartbeat, &ready);
        })?;
        threads.push(thread);
        // A thread that ends without a word has panicked.
        is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("a data thread ended at its start")))?;
    }
    Ok(Proxy { addr: listeners.addr, threads, ended })
}

/// Tells that a data thread has ended, however it has.
struct Ending {
    index: usize,
    ending: mpsc::UnboundedSender<usize>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Nobody listens once the proxy has been dropped.
        let _ = self.ending.send(self.index);
    }
}

impl Proxy {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends when a data thread has ended, and says which: before the drain is over, a reason to begin
    /// one. After the last it never ends again.
    pub async fn thread_ended(&mut self) -> usize {
        match self.ended.recv().await {
            Some(index) => index,
            None => std::future::pending().await,
        }
    }

    /// Waits for the data threads, after [`Shutdown::run`]. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// How many threads have panicked.
    pub fn join(self) -> Result<(), usize> {
        let panicked = self.threads.into_iter().filter_map(|thread| thread.join().err()).count();
        if panicked == 0 { Ok(()) } else { Err(panicked) }
    }
}
