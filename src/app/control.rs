//! The control plane: one thread with a runtime of its own, on which everything runs that is no tunnel:
//! the watches, the leader, the admin port, the files that are looked at.
//!
//! It is apart from the data threads so that neither a burst of watch events nor a slow scrape stalls a
//! tunnel.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::supervise::Tasks;
use super::{AppError, Exit, Shared};
use crate::accounts::{self, Accounts, FilesError, Follow};
use crate::admin::{self, Admin};
use crate::controller::sample::sample;
use crate::controller::{self, Knowledge};
use crate::drain::Phase;
use crate::preflight::{Finding, Preflight, Verdict};
use crate::proxy::Proxy;
use crate::readiness::Condition;
use crate::servers::{Catalogue, Keeper};
use crate::session::watch::SILENCE;
use crate::session::{Driver, Manager};

/// How long connecting to the API server may take on the path of a request: kube's own limit is 30 s.
const CONNECT: Duration = Duration::from_secs(5);

/// How long the last activity of sessions may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// How long the sessions and the controller have to end. With the admin port's second it stays below
/// [`END`].
const STOP: Duration = Duration::from_millis(3500);

/// How long all of the control plane has to end, what is left of starts that were given up included: what
/// the settings keep of the pod's grace period is 7 s, 2 of them for what is cut.
const END: Duration = Duration::from_secs(5);

/// Username of the pod that the API server is asked about at start.
const PREFLIGHT: &str = "preflight";

/// How long the data threads have to end once everything that they served is gone.
const JOIN: Duration = Duration::from_millis(300);

/// What `/readyz` waits for, beside the listeners.
#[derive(Debug)]
pub(super) struct Conditions {
    /// Pods and claims have been listed.
    watches: Condition,
    /// A server list is there; told, not waited for.
    servers: Condition,
}

impl Conditions {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { watches: shared.readiness.require("watches"), servers: shared.readiness.mention("servers") }
    }
}

/// Everything that the control plane runs.
#[derive(Debug)]
pub(super) struct Control {
    /// What follows the files of accounts.
    pub(super) follow: Follow,
    pub(super) shared: Shared,
    pub(super) kube: kube::Config,
    pub(super) admin: TcpListener,
    pub(super) driver: Driver,
    pub(super) proxy: Proxy,
    pub(super) catalogue: watch::Sender<Arc<Catalogue>>,
    pub(super) conditions: Conditions,
    pub(super) reload_interval: Duration,
    pub(super) look_interval: Duration,
    pub(super) preflight: bool,
}

/// The two clients of one API server. Both watch: the controller with the first, the sessions with the other.
struct Clients {
    /// For the path of a request and the leader's writes: a failure is told at once, and whoever asked
    /// decides. kube's own retries would go on for three minutes.
    requests: kube::Client,
    /// For watches and what else has time.
    patient: kube::Client,
}

impl Clients {
    fn new(mut config: kube::Config) -> Result<Self, kube::Error> {
        config.read_timeout = Some(SILENCE);
        // Counted from the request, not from when its connection fell idle.
        config.reset_reader_on_write = true;
        let mut quick = config.clone();
        quick.default_retry = false;
        quick.connect_timeout = Some(CONNECT);
        Ok(Self { requests: kube::Client::try_from(quick)?, patient: kube::Client::try_from(config)? })
    }
}

impl Control {
    /// Starts the thread. `started` is told when everything runs or why not, `exit` how it ended.
    pub(super) fn spawn(
        self,
        started: oneshot::Sender<Result<(), AppError>>,
        exit: watch::Sender<Option<Exit>>,
    ) -> io::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let ended = runtime.block_on(self.run(started));
            // A read of a file that hangs must not keep the process.
            runtime.shutdown_background();
            exit.send_replace(Some(ended));
        })?;
        Ok(())
    }

    async fn run(self, started: oneshot::Sender<Result<(), AppError>>) -> Exit {
        let clients = Clients::new(self.kube).map_err(|error| AppError::Kube(Box::new(error)));
        let admin = tokio::net::TcpListener::from_std(self.admin).map_err(AppError::Io);
        let (clients, admin) = match (clients, admin) {
            (Ok(clients), Ok(admin)) => (clients, admin),
            (Err(error), _) | (_, Err(error)) => {
                // Who started us has gone if this fails, and the exit says it as well.
                started.send(Err(error)).ok();
                return Exit::Failed;
            }
        };
        let shared = self.shared;
        let Clients { requests, patient } = clients;
        let asking = requests.clone();
        let stop = CancellationToken::new();
        let stop_admin = CancellationToken::new();
        let mut tasks = Tasks::default();
        let (keeper, refresher) =
            Keeper::new(Arc::clone(&shared.config), self.catalogue, Arc::clone(&shared.metrics));
        let for_servers = requests.clone();

        tasks.spawn("sessions", {
            let (shared, stop, watches) = (shared.clone(), stop.clone(), self.conditions.watches);
            let (driver, requests) = (self.driver, requests.clone());
            async move {
                let namespace = &shared.config.namespace;
                let run = driver.run(requests, patient, namespace, stop, FLUSH);
                let mut run = std::pin::pin!(run);
                // Held here, so that a driver that ends or panics before its first lists fails it.
                tokio::select! {
                    () = shared.sessions.synced() => watches.met(),
                    () = run.as_mut() => return,
                }
                run.await;
            }
        });
        let manager = Manager::new(shared.sessions.clone(), requests.clone(), &shared.config.namespace);
        tasks.spawn("controller", {
            let (shared, stop, requests) = (shared.clone(), stop.clone(), requests.clone());
            async move {
                let Shared { config, metrics, catalogue, accounts, .. } = shared;
                let knowledge = Knowledge { catalogue, accounts };
                if let Err(error) = controller::run(requests, config, metrics, knowledge, stop).await {
                    tracing::error!(%error, "the controller gave up");
                }
            }
        });
        let (tokens_tx, tokens) = watch::channel(Arc::new(shared.config.admin_tokens.clone()));
        tasks.spawn("tokens", {
            let path = shared.config.admin_token_file.clone();
            let errors = shared.metrics.reload_errors.with_label_values(&["tokens"]);
            async move {
                admin::watch_tokens(path, tokens_tx, self.reload_interval, move || errors.inc()).await;
            }
        });
        tasks.spawn("admin", {
            let router = admin::router(Admin {
                config: Arc::clone(&shared.config),
                metrics: Arc::clone(&shared.metrics),
                readiness: shared.readiness.clone(),
                liveness: shared.liveness.clone(),
                sessions: shared.sessions.clone(),
                catalogue: shared.catalogue.clone(),
                failures: shared.failures.clone(),
                refresher,
                manager: manager.clone(),
                tokens,
            });
            admin::serve(admin, router, stop_admin.clone())
        });
        tasks.spawn("accounts", accounts(&shared, self.follow, requests));
        tasks.spawn("servers", {
            let telling = tell_loaded(shared.catalogue.clone(), self.conditions.servers);
            let keeping = keeper.run(for_servers, self.reload_interval, self.look_interval);
            async move {
                tokio::join!(keeping, telling);
            }
        });
        if self.preflight {
            tasks.spawn("preflight", preflight(&shared, asking));
        }
        tasks.spawn("heartbeat", shared.liveness.register("control").run());
        let mut proxy = self.proxy;
        started.send(Ok(())).ok();

        // 1. Until it is told to end, or something ends that should not.
        let mut failed = tokio::select! {
            () = tasks.unexpected_end() => true,
            thread = proxy.thread_ended() => {
                tracing::error!(thread, "a data thread ended that should not have");
                true
            }
            () = shared.begin.cancelled() => false,
        };
        // 2. Unready; accepting; closing, when those who wait are told; what is open gets its time.
        shared.readiness.drain();
        let (delay, timeout) = (shared.config.drain_delay, shared.config.drain_timeout);
        tracing::info!(
            delay = %humantime::format_duration(delay),
            timeout = %humantime::format_duration(timeout),
            open = shared.shutdown.open(),
            "shutting down"
        );
        let drained = async {
            let told = async {
                shared.shutdown.reached(Phase::Closing).await;
                shared.sessions.close();
            };
            tokio::join!(shared.shutdown.run(delay, timeout), told).0
        };
        let drained = tokio::select! {
            drained = drained => drained,
            never = tasks.all_unexpected_ends() => match never {},
        };
        tracing::info!(?drained, "drained");
        // 3. The control plane: last renewals written, leadership given up. The admin port is last, so
        // that the end can be watched.
        stop.cancel();
        let end = Instant::now() + END;
        tasks.stop(&["sessions", "controller"], STOP).await;
        failed |= !joined(proxy).await;
        stop_admin.cancel();
        tasks.stop(&["admin"], STOP).await;
        if tokio::time::timeout_at(end, manager.finish()).await.is_err() {
            tracing::warn!("claims of starts that were given up are left to the leader");
        }
        let exit = if failed || tasks.failed() { Exit::Failed } else { Exit::Clean };
        tracing::info!(code = exit.code(), "ended");
        exit
    }
}

/// Waits for the data threads, whose work is over; whether all ended in good order.
async fn joined(proxy: Proxy) -> bool {
    let join = tokio::task::spawn_blocking(|| proxy.join());
    match tokio::time::timeout(JOIN, join).await {
        Ok(Ok(Ok(()))) => true,
        Ok(Ok(Err(panicked))) => {
            tracing::error!(panicked, "data threads panicked");
            false
        }
        Ok(Err(_)) => false,
        // Stuck in a call of the system's: the end of the process ends it.
        Err(_) => {
            tracing::warn!("a data thread did not end in time");
            true
        }
    }
}

/// Follows the files of accounts, and says so where they are not taken: by a metric for each file, and by
/// one Event for people.
fn accounts(
    shared: &Shared,
    follow: Follow,
    client: kube::Client,
) -> impl Future<Output = ()> + Send + use<> {
    let (config, metrics) = (Arc::clone(&shared.config), Arc::clone(&shared.metrics));
    async move {
        let on_taken = |accounts: &Accounts| {
            metrics.accounts.set(i64::try_from(accounts.len()).unwrap_or(i64::MAX));
        };
        let on_mistake = |error: &FilesError| {
            for fault in &error.0 {
                metrics.reload_errors.with_label_values(&[fault.file.as_str()]).inc();
            }
            let (client, config, metrics) = (client.clone(), Arc::clone(&config), Arc::clone(&metrics));
            let text = format!("not taken, the old accounts stay: {error}");
            tokio::spawn(async move {
                controller::announce(client, &config, &metrics, "AccountsNotTaken", &text).await;
            });
        };
        accounts::follow(follow, on_taken, on_mistake).await;
    }
}

/// Asks once, when there is a server list, whether rights and admission will do, and says what will not.
fn preflight(shared: &Shared, client: kube::Client) -> impl Future<Output = ()> + Send + use<> {
    let (config, metrics) = (Arc::clone(&shared.config), Arc::clone(&shared.metrics));
    let mut catalogues = shared.catalogue.clone();
    async move {
        let listed = catalogues.wait_for(|catalogue| !catalogue.is_empty()).await.ok();
        let catalogue = listed.map(|catalogue| Arc::clone(&catalogue));
        let sample = catalogue.and_then(|catalogue| sample(&config, &catalogue, PREFLIGHT).ok());
        if let Some(pod) = sample {
            let findings = Preflight { config: &config, client, metrics: &metrics }.run(&pod, None).await;
            for Finding { what, verdict } in findings {
                match verdict {
                    Verdict::Good => tracing::debug!(what, "preflight"),
                    Verdict::Warning(why) => tracing::warn!(what, why, "preflight"),
                    Verdict::Bad(why) => tracing::error!(what, why, "preflight: this will not work"),
                    Verdict::Unknown(why) => tracing::info!(what, why, "preflight: no answer"),
                }
            }
        }
        std::future::pending().await
    }
}

/// Says when there is a server list; never returns.
async fn tell_loaded(mut catalogue: watch::Receiver<Arc<Catalogue>>, loaded: Condition) {
    if catalogue.wait_for(|catalogue| !catalogue.is_empty()).await.is_ok() {
        loaded.met();
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::runtime::WatchStreamExt;
    use kube::runtime::watcher::{self, Event, watcher};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::advance;

    use super::*;
    use crate::clock::hold;
    use crate::session::watch::{Pauses, WATCH_SECONDS};

    /// An API server of the test's own, and the clients of it.
    async fn server() -> (tokio::net::TcpListener, [kube::Client; 2]) {
        // Another test may have been first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let Clients { requests, patient } = Clients::new(kube::Config::new(url)).unwrap();
        (listener, [requests, patient])
    }

    fn watch(client: kube::Client) -> impl futures::Stream<Item = watcher::Result<Event<Pod>>> {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        watcher(Api::namespaced(client, "vpn"), config).backoff(Pauses::default())
    }

    /// The head of the next request.
    async fn head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Answers a list; the watch comes on a connection of its own.
    async fn list(mut stream: TcpStream) {
        let stream = &mut stream;
        let asked = head(stream).await;
        assert!(
            asked.starts_with("GET /api/v1/namespaces/vpn/pods?") && !asked.contains("watch="),
            "{asked}"
        );
        let list = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{list}",
            list.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    /// The next connection; within an hour, so that a test that waits in vain fails.
    async fn next(listener: &tokio::net::TcpListener) -> TcpStream {
        let next = tokio::time::timeout(Duration::from_secs(3600), listener.accept()).await;
        next.expect("a connection").unwrap().0
    }

    /// Lets the time pass for which a client waits, and the pause before it tries again, which begins once
    /// word of it has gone through some tasks.
    async fn silence() {
        advance(SILENCE).await;
        for _ in 0..20 {
            advance(Pauses::default().next().unwrap()).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_and_a_watch_that_are_never_answered_are_asked_for_again() {
        let _held = hold();
        let (listener, clients) = server().await;
        for client in clients {
            let watching = tokio::spawn(watch(client).for_each(|_| async {}));
            let mut unanswered = next(&listener).await;
            assert!(!head(&mut unanswered).await.contains("watch="));
            silence().await;
            list(next(&listener).await).await;
            let mut unanswered = next(&listener).await;
            assert!(head(&mut unanswered).await.contains("watch=true"));
            silence().await;
            assert!(head(&mut next(&listener).await).await.contains("watch=true"));
            watching.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_on_which_nothing_happens_lives_as_long_as_the_server_lets_it() {
        let _held = hold();
        let (listener, clients) = server().await;
        for client in clients {
            let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
            let watching = tokio::spawn(watch(client).for_each(move |event| {
                let told = told.send(event.map_err(|error| error.to_string()));
                async move { told.unwrap() }
            }));
            list(next(&listener).await).await;
            let mut stream = next(&listener).await;
            assert!(head(&mut stream).await.contains("watch=true"));
            let opened =
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(opened).await.unwrap();
            let mut tell = async |name: &str| {
                let meta = format!(r#"{{"name":"{name}","resourceVersion":"2"}}"#);
                let pod = format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{meta}}}"#);
                let event = format!("{{\"type\":\"ADDED\",\"object\":{pod}}}\n");
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                stream.write_all(chunk.as_bytes()).await.unwrap();
                loop {
                    match events.recv().await.unwrap() {
                        Ok(Event::Init | Event::InitDone) => {}
                        Ok(Event::Apply(pod)) => return assert_eq!(pod.metadata.name.as_deref(), Some(name)),
                        other => panic!("{other:?}"),
                    }
                }
            };
            tell("early").await;
            advance(Duration::from_secs(u64::from(WATCH_SECONDS))).await;
            tell("late").await;
            watching.abort();
        }
    }
}
