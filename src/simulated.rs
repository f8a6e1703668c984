//! The commands that need the embedded cluster: `demo` and `simulator`.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use gluetun_gateway::config::LogFormat;
use gluetun_gateway::signal::Signals;
use gluetun_gateway::simulator::cluster::{Cluster, ClusterError, ClusterOptions};
use gluetun_gateway::simulator::demo::{Demo, DemoError, DemoOptions, write_kubeconfig};
use gluetun_gateway::simulator::gluetun::program::{self, ENTRYPOINT, ProgramError, host};
use gluetun_gateway::simulator::kubelet::Cidr;
use gluetun_gateway::telemetry;
use tokio::runtime::{Builder, Runtime};

use super::{FAILED, Failure, USAGE, begin, until_end};

/// The embedded cluster's flags.
#[derive(Debug, Args)]
struct ClusterArgs {
    /// The pods' addresses: each gets one of its own; ADDRESS/32 is one pod that runs already
    #[arg(long, value_name = "CIDR", default_value = "127.42.0.0/16")]
    pod_cidr: Cidr,
    /// How long a pod's VPN takes to be up.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pod_start: Duration,
    /// A shell command that every pod runs instead of the built-in look-alike of Gluetun; its
    /// environment is the container's, with POD_IP.
    #[arg(long, value_name = "COMMAND")]
    pod_command: Option<String>,
    /// A destination that the look-alikes dial elsewhere: a name, with or without a port, and an address
    /// of this machine. May be given several times.
    #[arg(long = "host", value_name = "NAME=ADDRESS", value_parser = host, conflicts_with = "pod_command")]
    hosts: Vec<(String, SocketAddr)>,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Where the proxy port listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    proxy_addr: SocketAddr,
    /// Where the admin port listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8001", value_parser = address)]
    admin_addr: SocketAddr,
    /// After how long without a tunnel or request a session's pod goes.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    idle_timeout: Duration,
    /// Pods at most.
    #[arg(long, value_name = "N", default_value_t = 5)]
    instance_limit: usize,
    /// Where the kubeconfig is written; by default in a directory of its own, which goes with the demo.
    #[arg(long, value_name = "FILE")]
    kubeconfig_out: Option<PathBuf>,
    /// DEBUG, INFO, WARNING, ERROR, or a filter.
    #[arg(long, value_name = "LEVEL", env = "LOG_LEVEL", default_value = "INFO", value_parser = level)]
    log_level: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `simulator`.
#[derive(Debug, Args)]
#[command(after_help = SIMULATOR_HELP)]
pub(super) struct SimulatorArgs {
    /// Where the API server listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8002", value_parser = address)]
    listen: SocketAddr,
    /// Where the kubeconfig is written.
    #[arg(long, value_name = "FILE")]
    kubeconfig_out: Option<PathBuf>,
    /// DEBUG, INFO, WARNING, ERROR, or a filter.
    #[arg(long, value_name = "LEVEL", env = "LOG_LEVEL", default_value = "INFO", value_parser = level)]
    log_level: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What `simulator --help` ends with.
const SIMULATOR_HELP: &str = "\
A gateway or kubectl uses it by the kubeconfig. Faults of the API server, of pods and of their VPN are set
over HTTP on the same port, such as a kill of every pod:

  curl http://127.0.0.1:8002/simulator/pods/strike -d '{\"blow\": \"kill\"}'

docs/simulator.md shows all of it.";

/// The flags that stand for settings of the gateway, which its errors name.
const FLAGS: [(&str, &str); 4] = [
    ("PROXY_ADDR", "--proxy-addr"),
    ("ADMIN_ADDR", "--admin-addr"),
    ("IDLE_TIMEOUT", "--idle-timeout"),
    ("INSTANCE_LIMIT", "--instance-limit"),
];

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|error| format!("{error}; write ADDRESS:PORT, such as 127.0.0.1:8080"))
}

fn level(text: &str) -> Result<String, String> {
    match telemetry::filter(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; write DEBUG, INFO, WARNING or ERROR")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number with a unit, such as 2s"))
}

impl ClusterArgs {
    fn options(self, listen: SocketAddr) -> ClusterOptions {
        ClusterOptions {
            listen,
            pod_cidr: self.pod_cidr,
            pod_start: self.pod_start,
            pod_command: self.pod_command,
            hosts: self.hosts.into_iter().collect(),
            ..ClusterOptions::default()
        }
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        match error {
            DemoError::Cluster(error) => error.into(),
            DemoError::Config(_) => Self::new(USAGE, in_flags(&error)),
            DemoError::App(_) => Self::new(FAILED, in_flags(&error)),
            DemoError::File { .. } | DemoError::Password(_) => Self::new(FAILED, error),
        }
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::PodCidr { .. } => Self::new(USAGE, format!("--pod-cidr: {error}")),
            ClusterError::Listen { .. }
            | ClusterError::Client(_)
            | ClusterError::Kubelet(_)
            | ClusterError::Seed(_) => Self::new(FAILED, error),
        }
    }
}

/// What is wrong, by the names that were typed.
fn in_flags(error: &DemoError) -> String {
    FLAGS.iter().fold(error.to_string(), |text, (setting, flag)| text.replace(setting, flag))
}

/// The cluster runs on the main thread's runtime: more than one thread, since its pods relay bytes.
fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        let code = match error {
            ProgramError::Setting { .. } => USAGE,
            ProgramError::Io(_) => FAILED,
        };
        Self::new(code, error)
    }
}

/// The look-alike of Gluetun as a program: `Some` when this one is called by that name.
pub(super) fn lookalike() -> Option<Result<u8, Failure>> {
    let argv: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let name = argv.first().and_then(|path| path.rsplit('/').next());
    (name == Some(ENTRYPOINT)).then(|| {
        let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
        let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        // One thread: its container has half a CPU.
        Ok(super::runtime()?.block_on(program::run(argv, variables))?)
    })
}

pub(super) fn demo(args: DemoArgs) -> Result<u8, Failure> {
    let options = DemoOptions {
        proxy_addr: args.proxy_addr,
        admin_addr: args.admin_addr,
        idle_timeout: args.idle_timeout,
        instance_limit: args.instance_limit,
        kubeconfig_out: args.kubeconfig_out,
        cluster: args.cluster.options(([127, 0, 0, 1], 0).into()),
    };
    let (metrics, _logs) = begin(&args.log_level, LogFormat::Text)?;
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let demo = tokio::select! {
            demo = Demo::start(options, Some(metrics)) => demo?,
            _ = signals.next() => return Ok(0),
        };
        writeln!(io::stdout(), "{}", demo.banner())?;
        let exit = until_end(demo.app(), &mut signals).await;
        unless_told_again(&mut signals, demo.stop()).await;
        Ok(exit.code())
    })
}

pub(super) fn simulator(args: SimulatorArgs) -> Result<u8, Failure> {
    let (_metrics, _logs) = begin(&args.log_level, LogFormat::Text)?;
    let options = args.cluster.options(args.listen);
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let cluster = Cluster::start(options).await?;
        if let Some(path) = &args.kubeconfig_out {
            write_kubeconfig(path, &cluster)?;
        }
        writeln!(io::stdout(), "{}", banner(&cluster, args.kubeconfig_out.as_deref()))?;
        signals.next().await;
        unless_told_again(&mut signals, cluster.stop()).await;
        Ok(0)
    })
}

/// What to tell whoever has started a simulator.
fn banner(cluster: &Cluster, kubeconfig: Option<&Path>) -> String {
    let url = cluster.api().url();
    let (file, kubectl) = match kubeconfig {
        Some(path) => {
            // It is pasted into other terminals.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            let path = path.display();
            (path.to_string(), format!("kubectl --kubeconfig {path}"))
        }
        None => {
            let namespace = cluster.client_config().default_namespace;
            ("none: --kubeconfig-out FILE writes one".to_owned(), format!("kubectl -s {url} -n {namespace}"))
        }
    };
    format!(
        "gluetun-gateway simulator: a cluster in this process, for a gateway and kubectl in others\n\
         \n\
         \x20 API server  {url}\n\
         \x20 kubeconfig  {file}\n\
         \n\
         \x20 {kubectl} get pods,leases -o wide\n\
         \x20 curl {url}/simulator/requests   # what was served; faults: docs/simulator.md\n\
         \n\
         Ctrl-C ends it.\n"
    )
}

/// Waits for an end in good order, unless another signal says that there is no time for it.
async fn unless_told_again(signals: &mut Signals, stopped: impl Future<Output = ()>) {
    tokio::select! {
        () = stopped => {}
        _ = signals.next() => {}
    }
}
