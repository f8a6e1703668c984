//! The command line: arguments, exit codes, signals. Everything else is in the library.
//!
//! Exit codes: 0 for an end in good order, 64 for mistakes in the configuration or the arguments, 70 when
//! a part of the gateway ended that should run for ever, 1 for any other failure to start.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand};
use gluetun_gateway::app::{App, Exit, Options};
use gluetun_gateway::config::{Config, ConfigError, Environment, LogFormat, cluster};
use gluetun_gateway::identity::{Account, hash_password};
use gluetun_gateway::metrics::Metrics;
use gluetun_gateway::secret::Secret;
use gluetun_gateway::signal::Signals;
use gluetun_gateway::telemetry::{self, LogGuard};
use tokio::runtime::{Builder, Runtime};

mod inspect;
#[cfg(feature = "simulator")]
mod simulated;

/// Costs a tunnel half of what glibc's does, and gives memory back after a burst.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// `EX_USAGE` of `sysexits.h`: the configuration or the arguments are wrong.
const USAGE: u8 = 64;

/// Any other failure to start.
const FAILED: u8 = 1;

/// One stable proxy address in a Kubernetes cluster, behind which VPN pods are allocated on demand.
///
/// Settings are environment variables: see docs/configuration.md.
#[derive(Debug, Parser)]
#[command(name = "gluetun-gateway", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway, which is what happens without a command.
    Serve,
    /// Read the configuration, print every mistake, and exit with 64 if there is one.
    Check {
        /// Ask the cluster as well: whether the rights are there, such pods are admitted, and the Secret has
        /// both keys. Exit with 1 if something will not work. Rights and admission are those of whoever the
        /// kubeconfig names: outside of the gateway's pod, name its account by --as.
        #[arg(long)]
        cluster: bool,
        /// Look at the rights of this user instead, and at what would be admitted of it, as kubectl's --as
        /// does: system:serviceaccount:gluetun-system:gluetun-gateway. The Secret is looked at as yourself.
        #[arg(long = "as", value_name = "USER", requires = "cluster", value_parser = NonEmptyStringValueParser::new())]
        user: Option<String>,
        /// A group of that user's; may be repeated. Without it a service account has those it always has.
        #[arg(long = "as-group", value_name = "GROUP", requires = "user")]
        groups: Vec<String>,
    },
    /// Print the pod that a username would get, POD_TEMPLATE_FILE included.
    Manifest {
        /// The username, such as alice-country-se.
        #[arg(long, value_name = "USERNAME")]
        user: String,
    },
    /// Read a password from the terminal or a pipe, and print a line for USERS_FILE.
    HashPassword {
        /// The account; without it the hash alone is printed.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Run the gateway with an embedded cluster: nothing to install, no VPN account.
    #[cfg(feature = "simulator")]
    Demo(simulated::DemoArgs),
    /// Run the embedded cluster alone, for a gateway and kubectl in processes of their own.
    #[cfg(feature = "simulator")]
    Simulator(simulated::SimulatorArgs),
}

/// Why a command failed: what to say on standard error, and the exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(FAILED, error)
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "simulator")]
    if let Some(ended) = simulated::lookalike() {
        return exit_code(ended);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no mistake; where they go to is gone if this fails.
            error.print().ok();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    // Before anything that may make a TLS client. It fails only if there is one already, which will do.
    rustls::crypto::ring::default_provider().install_default().ok();
    let ended = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(),
        Command::Check { cluster: false, .. } => inspect::check(),
        Command::Check { cluster: true, user, groups } => inspect::check_cluster(user, groups),
        Command::Manifest { user } => inspect::manifest(&user),
        Command::HashPassword { user } => hash(user.as_deref()),
        #[cfg(feature = "simulator")]
        Command::Demo(args) => simulated::demo(args),
        #[cfg(feature = "simulator")]
        Command::Simulator(args) => simulated::simulator(args),
    };
    exit_code(ended)
}

/// What the process ends with, after it has said why.
fn exit_code(ended: Result<u8, Failure>) -> ExitCode {
    match ended {
        Ok(code) => code.into(),
        Err(failure) => {
            writeln!(io::stderr(), "{}", failure.message).ok();
            failure.code.into()
        }
    }
}

/// The runtime of the main thread, which waits for signals and the end.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The settings and the cluster, or every mistake in both.
fn configuration(runtime: &Runtime) -> Result<(Config, kube::Config), Failure> {
    let env = Environment::process();
    let config = Config::load(&env);
    let kube = runtime.block_on(cluster(&env));
    match (config, kube) {
        (Ok(config), Ok(kube)) => Ok((config, kube)),
        (config, kube) => {
            let mut mistakes = config.err().map(|ConfigError(mistakes)| mistakes).unwrap_or_default();
            mistakes.extend(kube.err());
            Err(Failure::new(USAGE, ConfigError(mistakes)))
        }
    }
}

fn serve() -> Result<u8, Failure> {
    let runtime = runtime()?;
    let (config, kube) = configuration(&runtime)?;
    let (metrics, _logs) = begin(&config.log_level, config.log_format)?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let options = Options { metrics: Some(metrics), ..Options::default() };
        let app = App::start_with(config, kube, options).await.map_err(|e| Failure::new(FAILED, e))?;
        Ok(until_end(&app, &mut signals).await.code())
    })
}

/// What every long-lived command begins with: metrics, log lines, and a place for panics in them.
fn begin(level: &str, format: LogFormat) -> Result<(Arc<Metrics>, LogGuard), Failure> {
    let metrics = Arc::new(Metrics::new().map_err(|error| Failure::new(FAILED, error))?);
    let logs = telemetry::install(level, format, metrics.log_dropped.clone())?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        tracing::error!(thread = thread.name(), place, "panic: {}", text.unwrap_or("without a text"));
    }));
    Ok((metrics, logs))
}

/// Waits for the end of the gateway. The first signal begins its shutdown, the second cuts what is open,
/// the third does not wait for anything.
async fn until_end(app: &App, signals: &mut Signals) -> Exit {
    let mut ended = std::pin::pin!(app.wait());
    for count in 1.. {
        tokio::select! {
            exit = ended.as_mut() => return exit,
            signal = signals.next() => match count {
                1 => {
                    tracing::info!(signal, "told to end");
                    app.shutdown();
                }
                2 => {
                    tracing::warn!(signal, "told again: what is open is cut");
                    app.force();
                }
                _ => break,
            },
        }
    }
    Exit::Failed
}

fn hash(user: Option<&str>) -> Result<u8, Failure> {
    let account = match user.map(Account::parse) {
        Some(Ok(account)) if account.is_reserved() => {
            return Err(Failure::new(
                USAGE,
                format!("--user {account}: names that begin with '_' or 'pod.' are the gateway's own"),
            ));
        }
        Some(Ok(account)) => Some(account),
        Some(Err(error)) => return Err(Failure::new(USAGE, format!("--user: {error}"))),
        None => None,
    };
    let password = password()?;
    let hash = hash_password(password.expose()).map_err(|error| Failure::new(USAGE, error))?;
    let line = account.map_or_else(|| hash.clone(), |account| format!("{account}:{hash}"));
    writeln!(io::stdout(), "{line}")?;
    Ok(0)
}

/// A password: typed twice without echo on a terminal, else the first line of standard input.
fn password() -> Result<Secret, Failure> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        let line = Secret::from(line);
        return Ok(Secret::from(line.expose().trim_end_matches(['\r', '\n'])));
    }
    let first = Secret::from(rpassword::prompt_password("Password: ")?);
    let again = Secret::from(rpassword::prompt_password("Again: ")?);
    if first != again {
        return Err(Failure::new(USAGE, "the two differ"));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn whoever_is_judged_is_judged_by_the_cluster() {
        let taken = |arguments: &str| {
            Cli::try_parse_from(format!("gluetun-gateway check {arguments}").split(' '))
                .map(|cli| cli.command)
        };
        assert!(matches!(
            taken("--cluster --as bob --as-group a --as-group b"),
            Ok(Some(Command::Check { cluster: true, user: Some(user), groups })) if user == "bob" && groups == ["a", "b"]
        ));
        for wrong in ["--as bob", "--cluster --as-group a", "--cluster --as"] {
            assert!(taken(wrong).is_err_and(|error| error.use_stderr()), "{wrong}");
        }
    }

    #[test]
    fn no_command_means_serve() {
        assert!(Cli::try_parse_from(["gluetun-gateway"]).unwrap().command.is_none());
        let error = Cli::try_parse_from(["gluetun-gateway", "nonsense"]).unwrap_err();
        assert!(error.use_stderr());
    }
}
