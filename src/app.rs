//! The one place where everything meets: bind, wire, supervise, drain.
//!
//! [`App::start`] binds every listener before it spawns anything, gives the control plane a thread with
//! a runtime of its own, and comes back; `main` turns signals into [`App::shutdown`] and [`App::force`],
//! and tests do without them. Nothing here is global, so that a test starts several in one process.

mod control;
mod supervise;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::accounts::{self, Accounts, FilesError, Follow};
use crate::config::Config;
use crate::drain::Shutdown;
use crate::identity::{Authenticator, Throttle};
use crate::metrics::Metrics;
use crate::proxy::failures::Failures;
use crate::proxy::{self, Deps, DestinationError, Destinations, Listeners, Proxy};
use crate::readiness::{Liveness, Readiness, Report};
use crate::servers::{self, Catalogue, LoadError};
use crate::session::{self, Sessions};

/// How often files are looked at for changes: a mounted Secret lags by up to a minute anyway.
const RELOAD: Duration = Duration::from_secs(2);

/// How often the ConfigMap with the last server list is looked at: a request of some hundred bytes.
const LOOK: Duration = Duration::from_secs(30);

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As it was told to.
    Clean,
    /// A part of it that should run for ever did not.
    Failed,
}

impl Exit {
    /// Exit code of the process: 70 is `EX_SOFTWARE` of `sysexits.h`.
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failed => 70,
        }
    }
}

/// Why the gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port is taken, or its address is not this machine's.
    #[error("cannot listen on {name} {addr}: {error}")]
    Bind {
        /// The setting.
        name: &'static str,
        /// The address.
        addr: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The users file or the accounts file cannot be used.
    #[error(transparent)]
    Accounts(#[from] FilesError),
    /// The server list cannot be used.
    #[error(transparent)]
    Servers(#[from] LoadError),
    /// A destination that is allowed or denied is malformed.
    #[error("destinations: {}", told(.0))]
    Destinations(Vec<DestinationError>),
    /// The client of the Kubernetes API cannot be made.
    #[error("cannot make a client of the Kubernetes API: {0}")]
    Kube(#[source] Box<kube::Error>),
    /// Two metrics have one name.
    #[error("cannot make the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The operating system gives no thread, or no timer.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    /// The control plane's thread ended before it had begun.
    #[error("the control plane ended at once")]
    Control,
}

fn told<T: std::fmt::Display>(mistakes: &[T]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What a start may be told beside its settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is counted: made by `main`, since log lines are counted before the rest is there.
    pub metrics: Option<Arc<Metrics>>,
    /// How often the users and servers files are looked at for changes.
    pub reload_interval: Duration,
    /// How often the ConfigMap with the last server list is looked at, for one that another replica has
    /// fetched.
    pub look_interval: Duration,
    /// Whether the API server is asked at start if rights and admission will do: some 20 requests.
    pub preflight: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { metrics: None, reload_interval: RELOAD, look_interval: LOOK, preflight: true }
    }
}

/// What the parts of the gateway share.
#[derive(Clone, Debug)]
struct Shared {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    liveness: Liveness,
    sessions: Sessions,
    authenticator: Authenticator,
    accounts: watch::Receiver<Arc<Accounts>>,
    catalogue: watch::Receiver<Arc<Catalogue>>,
    shutdown: Shutdown,
    failures: Failures,
    /// Cancelled to begin the drain.
    begin: CancellationToken,
}

/// A gateway that runs. Dropping it cuts everything.
#[derive(Debug)]
pub struct App {
    proxy_addr: SocketAddr,
    admin_addr: SocketAddr,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    cut: Cut,
    exit: watch::Receiver<Option<Exit>>,
}

impl App {
    /// Starts a gateway against the API server that `kube` describes. It takes connections when this
    /// returns; whether it can serve them is [`App::ready`].
    ///
    /// # Errors
    ///
    /// As [`AppError`] says; nothing is left running then.
    pub async fn start(config: Config, kube: kube::Config) -> Result<Self, AppError> {
        Self::start_with(config, kube, Options::default()).await
    }

    /// As [`App::start`], with more to say.
    ///
    /// # Errors
    ///
    /// As [`AppError`] says; nothing is left running then.
    pub async fn start_with(
        mut config: Config,
        kube: kube::Config,
        options: Options,
    ) -> Result<Self, AppError> {
        let metrics = match options.metrics {
            Some(metrics) => metrics,
            None => Arc::new(Metrics::new()?),
        };
        let source =
            accounts::Source { users: config.users_file.clone(), accounts: config.accounts_file.clone() };
        let files = source.load()?;
        let catalogue = match &config.servers {
            Some(source) => servers::load(source)?,
            None => Catalogue::default(),
        };
        let destinations = Destinations::parse(&config.allow_destinations, &config.deny_destinations)
            .map_err(AppError::Destinations)?;
        accounts::warn(&files.warnings(&catalogue));
        warn_of_open_api(&config);
        let (fingerprint, now) = (files.fingerprint(), files.accounts());
        metrics.accounts.set(i64::try_from(now.len()).unwrap_or(i64::MAX));
        let (accounts_tx, accounts) = watch::channel(Arc::new(now));
        let authenticator =
            Authenticator::throttled(files.into_users(), Throttle::new(config.auth_throttle))?;
        let (catalogue_tx, catalogue) = watch::channel(Arc::new(catalogue));

        // Every port before anything runs.
        let listeners = Listeners::bind(config.proxy_addr, config.data_threads)
            .map_err(|error| AppError::Bind { name: "PROXY_ADDR", addr: config.proxy_addr, error })?;
        let proxy_addr = listeners.addr();
        // Port 0 asks for any, there as here: what is handed out is the one that came of it.
        if let Some(url) = config.gateway_url.strip_suffix(":0") {
            config.gateway_url = format!("{url}:{}", proxy_addr.port());
        }
        let admin = bind("ADMIN_ADDR", config.admin_addr)?;
        let admin_addr = admin.local_addr()?;
        let destinations = own(destinations, &config, proxy_addr, admin_addr);

        let config = Arc::new(config);
        let readiness = Readiness::new();
        let shutdown = Shutdown::new();
        let (sessions, driver) = session::sessions(Arc::clone(&metrics), config.idle_timeout);
        let shared = Shared {
            failures: Failures::new(config.data_threads),
            config,
            metrics,
            readiness,
            liveness: Liveness::new(),
            sessions,
            authenticator,
            accounts,
            catalogue,
            shutdown,
            begin: CancellationToken::new(),
        };
        let conditions = control::Conditions::new(&shared);
        let listening = shared.readiness.require("listeners");
        // From here on nothing may be left behind, neither by a failure nor by a caller that gives up.
        let cut = Cut { begin: shared.begin.clone(), shutdown: shared.shutdown.clone() };
        let proxy = start_proxy(&shared, listeners, destinations)?;
        listening.met();

        let (exit_tx, exit) = watch::channel(None);
        let (started_tx, started) = oneshot::channel();
        let follow = Follow {
            source,
            fingerprint,
            authenticator: shared.authenticator.clone(),
            accounts: accounts_tx,
            catalogue: shared.catalogue.clone(),
            drain: shared.config.account_drain_timeout,
            interval: options.reload_interval,
        };
        let control = control::Control {
            follow,
            shared: shared.clone(),
            kube,
            admin,
            driver,
            proxy,
            catalogue: catalogue_tx,
            conditions,
            reload_interval: options.reload_interval,
            look_interval: options.look_interval,
            preflight: options.preflight,
        };
        control.spawn(started_tx, exit_tx)?;
        started.await.map_err(|_| AppError::Control)??;
        tracing::info!(proxy = %proxy_addr, admin = %admin_addr, "listening");
        let Shared { readiness, metrics, .. } = shared;
        Ok(Self { proxy_addr, admin_addr, readiness, metrics, cut, exit })
    }

    /// Where the proxy port listens.
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy_addr
    }

    /// Where the admin port listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Waits until the gateway is ready for traffic, or never will be; says which.
    pub async fn ready(&self) -> Report {
        self.readiness.settled().await
    }

    /// Begins the shutdown: unready, accepting for `DRAIN_DELAY`, then closing, with `DRAIN_TIMEOUT` for
    /// what is open.
    pub fn shutdown(&self) {
        self.cut.begin.cancel();
    }

    /// Cuts what is open and ends.
    pub fn force(&self) {
        self.cut.force();
    }

    /// Waits for the end, which comes after [`App::shutdown`], or when a part of the gateway ends that
    /// should not.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        // Without a word: the control plane's thread panicked.
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Failed)
    }
}

/// Cuts everything when it is dropped.
#[derive(Debug)]
struct Cut {
    begin: CancellationToken,
    shutdown: Shutdown,
}

impl Cut {
    fn force(&self) {
        self.begin.cancel();
        self.shutdown.force();
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.force();
    }
}

/// Starts the data threads.
fn start_proxy(shared: &Shared, listeners: Listeners, destinations: Destinations) -> io::Result<Proxy> {
    let deps = Deps {
        sessions: shared.sessions.clone(),
        authenticator: shared.authenticator.clone(),
        accounts: shared.accounts.clone(),
        catalogue: shared.catalogue.clone(),
        destinations,
        metrics: Arc::clone(&shared.metrics),
        shutdown: shared.shutdown.clone(),
        liveness: shared.liveness.clone(),
        failures: shared.failures.clone(),
    };
    proxy::start(&shared.config, listeners, deps)
}

/// Adds what leads back to the gateway itself: a request for that is refused as a loop.
fn own(destinations: Destinations, config: &Config, proxy: SocketAddr, admin: SocketAddr) -> Destinations {
    let service = config.service_cluster_ip.into_iter();
    let service = service.flat_map(|ip| [proxy.port(), admin.port()].map(|port| SocketAddr::new(ip, port)));
    let listening: Vec<SocketAddr> = [proxy, admin].into_iter().chain(service).collect();
    destinations.with_ipv6(config.exit_ipv6).with_own(&config.gateway_url, &listening)
}

fn bind(name: &'static str, addr: SocketAddr) -> Result<TcpListener, AppError> {
    let listen = || {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|error| AppError::Bind { name, addr, error })
}

/// Once, and where it matters: on loopback nobody else reaches the port.
fn warn_of_open_api(config: &Config) {
    if config.admin_tokens.is_empty() && !config.admin_addr.ip().is_loopback() {
        tracing::warn!(
            admin = %config.admin_addr,
            "ADMIN_TOKEN is not set: THE ADMIN API IS OPEN to whoever reaches its port, and tells the \
             credentials of every VPN pod"
        );
    }
}
