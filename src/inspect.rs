//! The commands that look and change nothing: `check` and `manifest`. Run by `main`.

use std::io::{self, Write as _};

use gluetun_gateway::config::{Config, ConfigError, Environment, Mistake, cluster};
use gluetun_gateway::controller::sample::sample;
use gluetun_gateway::metrics::Metrics;
use gluetun_gateway::preflight::{Preflight, Verdict};
use gluetun_gateway::servers::{self, Catalogue};

use super::{FAILED, Failure, USAGE, configuration, runtime};

/// Username of the pod that the API server is asked about.
const ANYONE: &str = "preflight";

/// Without a cluster in sight this is about the settings alone: they are also checked where none is.
pub(super) fn check(ask_cluster: bool) -> Result<u8, Failure> {
    let env = Environment::process();
    if ask_cluster {
        return check_cluster();
    }
    let in_sight = ["KUBERNETES_SERVICE_HOST", "KUBECONFIG"].iter().any(|name| env.get(name).is_some());
    let kube = if in_sight { runtime()?.block_on(cluster(&env)).err() } else { None };
    let mut mistakes: Vec<Mistake> = kube.into_iter().collect();
    match Config::check(&env) {
        Ok((_, warnings)) => {
            for warning in warnings {
                writeln!(io::stderr(), "warning: {warning}").ok();
            }
        }
        Err(ConfigError(of_settings)) => mistakes.splice(0..0, of_settings).for_each(drop),
    }
    if !mistakes.is_empty() {
        return Err(Failure::new(USAGE, ConfigError(mistakes)));
    }
    writeln!(io::stdout(), "the configuration is good")?;
    Ok(0)
}

/// The settings, and what the API server says to them.
fn check_cluster() -> Result<u8, Failure> {
    let runtime = runtime()?;
    let (config, kube) = configuration(&runtime)?;
    let pod = sample(&config, &catalogue(&config)?, ANYONE).map_err(|error| Failure::new(FAILED, error))?;
    let metrics = Metrics::new().map_err(|error| Failure::new(FAILED, error))?;
    let findings = runtime.block_on(async {
        let client = kube::Client::try_from(kube).map_err(|error| Failure::new(FAILED, error))?;
        let preflight = Preflight { config: &config, client, metrics: &metrics };
        let mut findings = preflight.run(&pod).await;
        findings.push(preflight.secret().await);
        Ok::<_, Failure>(findings)
    })?;
    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let count = |matches: fn(&Verdict) -> bool| findings.iter().filter(|f| matches(&f.verdict)).count();
    let bad = count(|verdict| matches!(verdict, Verdict::Bad(_)));
    let unknown = count(|verdict| matches!(verdict, Verdict::Unknown(_)));
    match (bad, unknown) {
        (0, 0) => {
            writeln!(out, "the configuration is good, and the cluster will do")?;
            Ok(0)
        }
        (0, _) => Err(Failure::new(FAILED, format!("{unknown} questions have no answer"))),
        _ => Err(Failure::new(FAILED, format!("{bad} of {} will not work", findings.len()))),
    }
}

/// Prints the pod that a username would get, in YAML.
pub(super) fn manifest(username: &str) -> Result<u8, Failure> {
    let config = Config::load(&Environment::process()).map_err(|mistakes| Failure::new(USAGE, mistakes))?;
    let pod = sample(&config, &catalogue(&config)?, username)
        .map_err(|error| Failure::new(USAGE, format!("--user {username}: {error}")))?;
    let yaml = serde_saphyr::to_string(&pod).map_err(|error| Failure::new(FAILED, error))?;
    write!(io::stdout(), "{yaml}")?;
    Ok(0)
}

/// The server list of the settings, else the built-in one: this is about pods, not about places.
fn catalogue(config: &Config) -> Result<Catalogue, Failure> {
    match &config.servers {
        Some(source) => servers::load(source).map_err(|error| Failure::new(USAGE, error)),
        None => servers::built_in().map_err(|error| Failure::new(FAILED, error)),
    }
}
