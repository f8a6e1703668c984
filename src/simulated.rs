//! The commands that need the embedded cluster: `demo` and `simulator`.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use gluetun_gateway::config::LogFormat;
use gluetun_gateway::signal::Signals;
use gluetun_gateway::simulator::cluster::{Cluster, ClusterOptions};
use gluetun_gateway::simulator::demo::{Demo, DemoError, DemoOptions, write_kubeconfig};
use tokio::runtime::{Builder, Runtime};

use super::{FAILED, Failure, USAGE, begin, until_end};

/// The embedded cluster's flags.
#[derive(Debug, Args)]
struct ClusterArgs {
    /// The pods' addresses: each gets one of its own.
    #[arg(long, value_name = "CIDR", default_value = "127.42.0.0/16")]
    pod_cidr: String,
    /// How long a pod's VPN takes to be up.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pod_start: Duration,
    /// A program to run for each pod instead of the built-in look-alike of Gluetun; it gets the
    /// container's environment and POD_IP.
    #[arg(long, value_name = "COMMAND")]
    pod_command: Option<String>,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Where the proxy port listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    proxy_addr: SocketAddr,
    /// Where the admin port listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8001")]
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
    #[arg(long, value_name = "LEVEL", env = "LOG_LEVEL", default_value = "INFO")]
    log_level: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `simulator`.
#[derive(Debug, Args)]
pub(super) struct SimulatorArgs {
    /// Where the API server listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8002")]
    listen: SocketAddr,
    /// Where the kubeconfig is written.
    #[arg(long, value_name = "FILE")]
    kubeconfig_out: Option<PathBuf>,
    /// DEBUG, INFO, WARNING, ERROR, or a filter.
    #[arg(long, value_name = "LEVEL", env = "LOG_LEVEL", default_value = "INFO")]
    log_level: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number with a unit, such as 2s"))
}

impl ClusterArgs {
    fn options(self, listen: SocketAddr) -> Result<ClusterOptions, Failure> {
        let pod_cidr = self.pod_cidr.parse().map_err(|e| Failure::new(USAGE, format!("--pod-cidr: {e}")))?;
        Ok(ClusterOptions {
            listen,
            pod_cidr,
            pod_start: self.pod_start,
            pod_command: self.pod_command,
            ..ClusterOptions::default()
        })
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        let code = if matches!(error, DemoError::Config(_)) { USAGE } else { FAILED };
        Self::new(code, error)
    }
}

/// The cluster runs on the main thread's runtime: more than one thread, since its pods relay bytes.
fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}

pub(super) fn demo(args: DemoArgs) -> Result<u8, Failure> {
    let options = DemoOptions {
        proxy_addr: args.proxy_addr,
        admin_addr: args.admin_addr,
        idle_timeout: args.idle_timeout,
        instance_limit: args.instance_limit,
        kubeconfig_out: args.kubeconfig_out,
        cluster: args.cluster.options(([127, 0, 0, 1], 0).into())?,
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
    let options = args.cluster.options(args.listen)?;
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let cluster = Cluster::start(options).await.map_err(|error| Failure::new(FAILED, error))?;
        if let Some(path) = &args.kubeconfig_out {
            write_kubeconfig(path, &cluster)?;
        }
        writeln!(io::stdout(), "embedded cluster: {}", cluster.client_config().cluster_url)?;
        signals.next().await;
        unless_told_again(&mut signals, cluster.stop()).await;
        Ok(0)
    })
}

/// Waits for an end in good order, unless another signal says that there is no time for it.
async fn unless_told_again(signals: &mut Signals, stopped: impl Future<Output = ()>) {
    tokio::select! {
        () = stopped => {}
        _ = signals.next() => {}
    }
}
