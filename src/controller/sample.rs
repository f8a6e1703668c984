//! The pod that a username would get, without anyone asking for it: what `gluetun-gateway manifest` prints and
//! what the preflight has the API server look at.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use uuid::Uuid;

use super::manifest::{Credentials, pod};
use crate::config::Config;
use crate::selector::{Limits, SelectError, Username, resolve};
use crate::servers::Catalogue;
use crate::session::claim::{Claim, ClaimError, NewClaim};

/// Why there is no pod for a username.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The username is none, or names no place.
    #[error("{0}")]
    Username(#[from] SelectError),
    /// The list has no server there.
    #[error("the server list has no server for {0}")]
    NoServer(String),
    /// The session's claim does not read back, which is a mistake of ours.
    #[error("{0}")]
    Claim(#[from] ClaimError),
}

/// The pod that `username` would get: on the first server of its place, with credentials that no pod has.
///
/// # Errors
///
/// As [`SampleError`] says.
pub fn sample(config: &Config, catalogue: &Catalogue, username: &str) -> Result<Pod, SampleError> {
    let username = Username::parse(username).map_err(SelectError::from)?;
    let limits =
        Limits { max_idle: config.max_idle_timeout, max_wait: config.start_timeout, ..Limits::default() };
    let (key, lifetimes) = resolve(&username, catalogue, &limits)?;
    let server = catalogue.candidates(&key.place).next();
    let server = server.ok_or_else(|| SampleError::NoServer(key.selector_text()))?;
    let idle = lifetimes.idle.unwrap_or(config.idle_timeout);
    let new = NewClaim { key: &key, idle, ttl: lifetimes.ttl, no_wait: false, now: SystemTime::now() };
    let mut lease = new.lease();
    // What the API server would add.
    lease.metadata.uid = Some(Uuid::new_v4().to_string());
    lease.metadata.resource_version = Some("1".to_owned());
    lease.metadata.creation_timestamp = Some(Time(Timestamp::now()));
    Ok(pod(config, &Claim::read(&lease)?, 0, server, &Credentials::random()))
}
