//! The commands that look and change nothing: `check` and `manifest`. Run by `main`.

use std::io::{self, Write as _};

use gluetun_gateway::config::{Config, ConfigError, Environment, Mistake, cluster};
use gluetun_gateway::controller::sample::{SampleError, sample};
use gluetun_gateway::metrics::Metrics;
use gluetun_gateway::preflight::{Finding, Judged, Preflight, Verdict};
use gluetun_gateway::selector::SelectError;
use gluetun_gateway::servers::{self, Catalogue};
use gluetun_gateway::session::api::ApiError;

use super::{FAILED, Failure, USAGE, configuration, runtime};

/// Username of the pod that the API server is asked about.
const ANYONE: &str = "preflight";

/// What `manifest` says of every user where no list is given: also a place that it knows is another list's.
const STAND_IN: &str = "no server list is given, so places and servers are those of the built-in one; the running \
                        gateway has Gluetun's own. Name that by SERVERS_FILE_PATH or SERVERS_JSON to see the same here";

/// Without a cluster in sight this is about the settings alone: they are also checked where none is.
pub(super) fn check() -> Result<u8, Failure> {
    let env = Environment::process();
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

/// The settings, and what the API server says to them: to `user`, where one is given, and to whoever the
/// credentials at hand are.
pub(super) fn check_cluster(user: Option<String>, groups: Vec<String>) -> Result<u8, Failure> {
    let runtime = runtime()?;
    let (config, own) = configuration(&runtime)?;
    let pod = sample(&config, &catalogue(&config)?, ANYONE).map_err(|error| Failure::new(FAILED, error))?;
    let metrics = Metrics::new().map_err(|error| Failure::new(FAILED, error))?;
    let mut other = own.clone();
    if user.is_some() {
        other.auth_info.impersonate.clone_from(&user);
        other.auth_info.impersonate_groups = (!groups.is_empty()).then_some(groups);
    }
    let (judged, findings) = runtime.block_on(async {
        let client = |kube| kube::Client::try_from(kube).map_err(|error| Failure::new(FAILED, error));
        let preflight = Preflight { config: &config, client: client(other)?, metrics: &metrics };
        let judged = match (preflight.judged().await, &user) {
            (Ok(judged), _) => Ok(judged),
            (Err(ApiError::Forbidden(_, text)), Some(user)) => {
                let cure = "ask as someone with the verb impersonate of that user or service account";
                return Err(Failure::new(FAILED, format!("--as {user}: {text}; {cure}")));
            }
            (Err(error), _) => Err(error),
        };
        let mut findings = vec![match &judged {
            Ok(judged) => judged.finding(user.is_some()),
            Err(error) => Finding {
                what: "rights and admission are judged as whoever the credentials are".to_owned(),
                verdict: Verdict::Unknown(error.to_string()),
            },
        }];
        let judged = judged.ok();
        findings.extend(preflight.run(&pod, judged.as_ref()).await);
        let operator = Preflight { client: client(own)?, ..preflight };
        findings.push(operator.secret().await);
        Ok::<_, Failure>((judged, findings))
    })?;
    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let count = |matches: fn(&Verdict) -> bool| findings.iter().filter(|f| matches(&f.verdict)).count();
    let bad = count(|verdict| matches!(verdict, Verdict::Bad(_)));
    let unknown = count(|verdict| matches!(verdict, Verdict::Unknown(_)));
    match (bad, unknown, judged) {
        (0, 0, Some(Judged { user, instead: Some(_) })) => {
            writeln!(out, "the configuration is good, and the cluster would do for {user}")?;
            Ok(0)
        }
        (0, 0, _) => {
            writeln!(out, "the configuration is good, and the cluster will do")?;
            Ok(0)
        }
        (0, ..) => Err(Failure::new(FAILED, format!("{unknown} questions have no answer"))),
        _ => Err(Failure::new(FAILED, format!("{bad} of {} will not work", findings.len()))),
    }
}

/// Prints the pod that a username would get, in YAML; on standard error, where its server is from.
pub(super) fn manifest(username: &str) -> Result<u8, Failure> {
    let config = Config::load(&Environment::process()).map_err(|mistakes| Failure::new(USAGE, mistakes))?;
    let catalogue = catalogue(&config)?;
    if catalogue.is_stand_in() {
        writeln!(io::stderr(), "note: {STAND_IN}").ok();
    }
    let pod = sample(&config, &catalogue, username).map_err(|error| {
        let text = match error {
            SampleError::Username(SelectError::NoServers) => {
                "that list has no such place or server".to_owned()
            }
            SampleError::Username(_) | SampleError::NoServer(_) | SampleError::Claim(_) => error.to_string(),
        };
        Failure::new(USAGE, format!("--user {username}: {text}"))
    })?;
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
