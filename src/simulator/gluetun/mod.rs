//! The built-in Gluetun look-alike: what a container of the embedded cluster is, unless a command of
//! one's own is given. Started by `kubelet`, told what goes wrong by tests and the fault route.
//!
//! It speaks HTTP by hand on raw sockets, because the quirks of the real program are the point: each
//! was read in Gluetun's source or measured on the running program (v3.41), and where the real one
//! loses bytes now and then, this one always does.
//!
//! * `entrypoint`: the VPN client, or `format-servers`, by the arguments. `servers`: the image's list.
//! * `settings`: the environment. `link`: the tunnel and its health, moved by time and `faults`.
//! * `health` and `proxy` (with `dial`, `relay`, `plain`): the two servers. `inside`: destinations that
//!   are played. `wire`: HTTP as Go's server writes it.
//! * `program`: all of it as a process of its own, for a container of a real cluster.

mod dial;
mod entrypoint;
mod faults;
mod health;
mod inside;
mod link;
mod plain;
pub mod program;
mod proxy;
mod relay;
mod servers;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub use faults::{Fault, FaultRules, Faults, ListFault};
pub use servers::{SERVERS_JSON, Server, ServerList, ServerListError};

use super::container::{ContainerSpec, Exit, Log, Signals};
use entrypoint::Command;
use link::Link;
use settings::{Listen, Settings, SettingsError};

/// What the look-alike calls its version.
const VERSION: &str = "v3.41.3-lookalike";
/// Listen queue: thousands of tunnels may be asked for at once.
const BACKLOG: u32 = 4096;
/// SIGTERM to exit of a Gluetun that takes [`Options::start`]'s default to start (measured, 427 to
/// 461 ms); a shorter start shortens it alike.
const STOP: Duration = Duration::from_millis(440);
/// How long a Gluetun of that start takes to find a mistake in its settings: 0.6 s (measured).
const MISTAKE_AT: f64 = 0.3;
/// How long it takes to find a variable that does not parse, before the server list is read.
const MISREAD_AT: f64 = 0.05;
/// `format-servers` takes 0.2 to 0.5 s (measured), nearly all of it for reading the list.
const FORMAT_AT: f64 = 0.15;
/// How long the accept loop rests when the process is out of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(20);

/// How all look-alikes of a simulator behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// From exec to healthy; 2 s by default. The proxy listens after 70 % of it.
    pub start: Duration,
    /// Destinations dialled elsewhere: `name` (any port) or `name:port`, also IP literals, to an
    /// address of this machine's. Port 0 means the port that was asked for. Everything else goes by
    /// the machine's own resolver and network.
    pub hosts: HashMap<String, SocketAddr>,
    /// The image's server list.
    pub servers: Arc<ServerList>,
    /// How long after it listens a container whose tunnel is silent says so; 6.1 s by default
    /// (measured).
    pub silent_check: Duration,
    /// How long a dead exit calls itself healthy; 150 s by default (measured: 129 to 176 s).
    pub dead_health: Duration,
    /// How long a CONNECT to an address hangs in a dead exit; 134 s by default (measured).
    pub connect_timeout: Duration,
    /// How long a lookup takes to fail in a dead exit; 4 s by default (measured, plain upstream).
    pub lookup_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(2),
            hosts: HashMap::new(),
            servers: Arc::new(ServerList::builtin()),
            silent_check: Duration::from_millis(6100),
            dead_health: Duration::from_secs(150),
            connect_timeout: Duration::from_secs(134),
            lookup_timeout: Duration::from_secs(4),
        }
    }
}

/// The look-alike's image: options and faults, shared by all containers that are run from it.
#[derive(Debug, Default)]
pub struct Gluetun {
    options: Arc<Options>,
    faults: Arc<Faults>,
}

/// What the parts of one container share.
struct Container {
    options: Arc<Options>,
    faults: Arc<Faults>,
    spec: ContainerSpec,
    settings: Settings,
    link: Link,
    log: Logger,
}

/// Writes a container's log in Gluetun's style.
#[derive(Clone)]
struct Logger(Log);

impl Logger {
    /// A line with its time: the level, the part in brackets and the text.
    fn entry(&self, text: &str) {
        self.0.line(format!("{} {text}", humantime::format_rfc3339_seconds(SystemTime::now())));
    }

    fn error(&self, text: &str) {
        self.entry(&format!("ERROR {text}"));
    }
}

/// The servers that a container listens with.
#[derive(Clone, Copy)]
enum Service {
    Proxy,
    Health,
    Control,
}

impl Gluetun {
    /// An image with these options and no faults.
    pub fn new(options: Options) -> Self {
        Self { options: Arc::new(options), faults: Arc::default() }
    }

    /// The faults of this image's containers, to be set at any time.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Runs a container until it ends by itself or is told to. When it returns, every task and socket
    /// of the container is gone; when it is dropped, they go too.
    pub async fn run(&self, spec: ContainerSpec, log: Log, signals: Signals) -> Exit {
        let log = Logger(log);
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let ended = tokio::select! {
            biased;
            () = signals.kill.cancelled() => Ended::Killed,
            () = signals.term.cancelled() => Ended::Terminated,
            exit = self.execute(&spec, &log, &mut tasks, &stop, &signals.kill) => Ended::Itself(exit),
        };
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        let killed = Exit::code(137);
        match ended {
            Ended::Itself(exit) => exit,
            Ended::Killed => killed,
            Ended::Terminated => {
                log.entry("INFO Caught OS signal terminated, shutting down");
                let scale = self.options.start.as_secs_f64() / Options::default().start.as_secs_f64();
                let stopped = tokio::select! {
                    biased;
                    () = signals.kill.cancelled() => false,
                    () = sleep(STOP.mul_f64(scale.min(1.0))) => true,
                };
                if !stopped {
                    return killed;
                }
                // Code 1 whenever the proxy is on: its loop blocks on a channel that nobody reads.
                log.entry("WARN Shutdown failed: ordered shutdown timed out: http proxy: goroutine shutdown timed out: after 400ms");
                Exit::code(1)
            }
        }
    }

    /// Does what the arguments say. Sockets and tasks go into `tasks` and end with `stop`.
    async fn execute(
        &self,
        spec: &ContainerSpec,
        log: &Logger,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
        kill: &CancellationToken,
    ) -> Exit {
        let start = self.options.start;
        match entrypoint::command(&spec.argv) {
            Command::Client => self.client(spec, log, tasks, stop, kill).await,
            Command::FormatServers(flags) => {
                sleep(start.mul_f64(FORMAT_AT)).await;
                let fault = self.faults.get().of(&spec.pod_name, "").list.clone();
                let printed = match fault {
                    Some(ListFault::Hang) => std::future::pending().await,
                    Some(ListFault::Print { text, code }) => entrypoint::Printed::of(&text, code),
                    None => entrypoint::format_servers(&flags, &self.options.servers),
                };
                for line in printed.lines {
                    log.0.line(line);
                }
                Exit::code(printed.code)
            }
            Command::Unknown(name) => {
                log.error(&format!("command is unknown: {name}"));
                Exit::code(1)
            }
            Command::Missing(program) => Exit {
                code: 128,
                reason: "StartError",
                message: Some(format!(
                    "failed to create containerd task: failed to create shim task: OCI runtime create failed: unable to start container process: exec: {program:?}: stat {program}: no such file or directory: the look-alike has /gluetun-entrypoint alone"
                )),
            },
        }
    }

    /// The VPN client. Returns only with a failed start.
    async fn client(
        &self,
        spec: &ContainerSpec,
        log: &Logger,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
        kill: &CancellationToken,
    ) -> Exit {
        let exec = Instant::now();
        let start = self.options.start;
        banner(log);
        let settings = match Settings::read(spec, &self.options.servers) {
            Ok(settings) => settings,
            Err(error) => {
                let part = match error {
                    SettingsError::Reading { .. } => MISREAD_AT,
                    SettingsError::Invalid { .. } => MISTAKE_AT,
                };
                return fail(log, exec + start.mul_f64(part), &error.to_string()).await;
            }
        };
        let server = settings.server.clone().unwrap_or_default();
        let crash = self.faults.get().of(&spec.pod_name, &server.hostname).crash.clone();
        if let Some(text) = crash {
            return fail(log, exec + start.mul_f64(MISREAD_AT), &text).await;
        }
        log.entry(&format!(
            "INFO [routing] default route found: interface eth0, gateway {}, assigned IP {0}",
            spec.pod_ip
        ));
        log.entry("INFO [firewall] enabling...");
        log.entry("INFO [firewall] enabled successfully");
        log.entry(&format!(
            "INFO [storage] hardcoded server list has {} servers",
            self.options.servers.servers().len()
        ));
        sleep_until(exec + start.mul_f64(link::LISTENS_AT)).await;

        let container = Arc::new(Container {
            options: Arc::clone(&self.options),
            faults: Arc::clone(&self.faults),
            spec: spec.clone(),
            settings,
            link: Link::default(),
            log: log.clone(),
        });
        let settings = &container.settings;
        let servers = [
            settings.proxy.as_ref().map(|proxy| (Service::Proxy, "http proxy", &proxy.listen)),
            Some((Service::Health, "healthcheck", &settings.health)),
            Some((Service::Control, "http server", &settings.control)),
        ];
        for (service, name, listen) in servers.into_iter().flatten() {
            log.entry(&format!("INFO [{name}] listening on {}", address_text(listen)));
            if !listen.is_public(spec.pod_ip, &settings.input_ports) {
                // The firewall drops what comes from outside; the pod's own proxy still reaches it.
                continue;
            }
            let listener = match bind(SocketAddr::new(spec.pod_ip, listen.port)) {
                Ok(listener) => listener,
                Err(error) => {
                    let text = format!("[{name}] listen tcp {}: bind: {error}", address_text(listen));
                    return fail(log, Instant::now(), &text).await;
                }
            };
            tasks.spawn(accept(service, listener, Arc::clone(&container), stop.clone(), kill.clone()));
        }
        let listening = Instant::now();
        match link::run(container, exec, listening).await {}
    }
}

/// How a container came to its end.
enum Ended {
    Itself(Exit),
    Terminated,
    Killed,
}

/// Ends as Gluetun does with a mistake: its line, then the goodbye.
async fn fail(log: &Logger, at: Instant, text: &str) -> Exit {
    sleep_until(at).await;
    log.error(text);
    log.entry("INFO Shutdown successful");
    Exit::code(1)
}

fn banner(log: &Logger) {
    for line in [
        "========================================",
        "========================================",
        "=============== gluetun ================",
        "========================================",
        "== built-in look-alike, not a VPN ======",
        "========================================",
        "========================================",
        "",
    ] {
        log.0.line(line);
    }
    log.0.line(format!("Running version {VERSION}"));
    log.0.line("");
}

fn address_text(listen: &Listen) -> String {
    match listen.host {
        Some(host) => SocketAddr::new(host, listen.port).to_string(),
        None => format!("[::]:{}", listen.port),
    }
}

/// Listens, also where the address of a container that has just ended still has connections in
/// TIME_WAIT.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections and serves each in a task of its own, until `stop`; all are over when it
/// returns.
async fn accept(
    service: Service,
    listener: TcpListener,
    container: Arc<Container>,
    stop: CancellationToken,
    kill: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                let (container, stop, kill) = (Arc::clone(&container), stop.clone(), kill.clone());
                connections.spawn(connection(service, stream, client, container, stop, kill));
            }
            Err(_) => sleep(ACCEPT_REST).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection until it ends or the container does; a killed container resets it.
async fn connection(
    service: Service,
    mut stream: TcpStream,
    client: SocketAddr,
    container: Arc<Container>,
    stop: CancellationToken,
    kill: CancellationToken,
) {
    // Both only fail on a socket that is dead already, which its next use shows.
    let _ = stream.set_nodelay(true);
    tokio::select! {
        biased;
        () = stop.cancelled() => {
            if kill.is_cancelled() {
                let _ = stream.set_zero_linger();
            }
        }
        () = serve(service, &mut stream, client, &container) => {}
    }
}

async fn serve(service: Service, stream: &mut TcpStream, client: SocketAddr, container: &Arc<Container>) {
    match service {
        Service::Proxy => proxy::serve(container, stream, client).await,
        Service::Health => health::serve(container, stream).await,
        Service::Control => inside::control(Arc::clone(container), stream).await,
    }
}
