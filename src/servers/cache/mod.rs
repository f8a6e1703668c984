//! The last list fetched, kept in a ConfigMap, so that a restart needs no Job and a list that one
//! replica has fetched reaches the others. The ConfigMap is made by whoever installs the gateway: the
//! gateway itself may read and replace that one, and create none.

mod pack;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use super::origin::{Origin, SourceKind};
use super::{Catalogue, CatalogueError};
use crate::metrics::Metrics;
use crate::session::api::{ApiError, ForbiddenKind, Verb, call};

/// Name of the ConfigMap.
pub const CONFIG_MAP: &str = "gluetun-gateway-servers";

/// Its key: the list, packed.
const KEY: &str = "servers.json.gz";
/// Annotation: when the list was fetched (RFC 3339).
const FETCHED: &str = "gluetun-gateway/fetched-at";
/// Annotation: the image whose list it is.
const IMAGE: &str = "gluetun-gateway/image";
/// Annotation: the provider whose list it is.
const PROVIDER: &str = "gluetun-gateway/provider";
/// Annotation: how many servers it has, for people.
const SERVERS: &str = "gluetun-gateway/servers";

/// Within how long of each other replicas read the same Job, at most: it is gone that long after it began.
const ONE_JOB: Duration = Duration::from_secs(90);

/// For one call.
const CALL: Duration = Duration::from_secs(5);

/// The ConfigMap. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    maps: Api<ConfigMap>,
    namespace: Arc<str>,
    image: Arc<str>,
    provider: Arc<str>,
    metrics: Arc<Metrics>,
}

/// A list that was kept.
#[derive(Debug)]
pub(super) struct Stored {
    /// The list, its origin said.
    pub(super) catalogue: Catalogue,
    /// Whether it is that of the pods' present image.
    pub(super) same_image: bool,
}

/// What a look at the ConfigMap brought.
#[derive(Debug)]
pub(super) struct Look {
    /// The version that was looked at; none if there was none to be had.
    pub(super) version: Option<String>,
    /// The list; none if the version is the one that was known, or there is no list in it yet.
    pub(super) found: Result<Option<Stored>, CacheError>,
}

/// Why the kept list cannot be had, or not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CacheError {
    /// There is no such ConfigMap.
    #[error(
        "the ConfigMap {CONFIG_MAP} is not there, so every restart and every replica needs a Job of its own; \
         create it empty: kubectl -n {0} create configmap {CONFIG_MAP}"
    )]
    Missing(Arc<str>),
    /// The Role does not let us.
    #[error(
        "the gateway may not {0} the ConfigMap {CONFIG_MAP}, so every restart and every replica needs a Job \
         of its own; its Role must give get and update on configmaps of that name"
    )]
    Forbidden(&'static str),
    /// What is in it cannot be read.
    #[error(
        "what the ConfigMap {CONFIG_MAP} holds is not usable and will be replaced by the next list fetched: {0}"
    )]
    Spoilt(String),
    /// The list has another provider's servers.
    #[error("the ConfigMap {CONFIG_MAP} holds the list of {theirs}, and the gateway's provider is {ours}")]
    OtherProvider {
        /// Whose list it is.
        theirs: String,
        /// Whose it should be.
        ours: Arc<str>,
    },
    /// However it is packed, it does not fit.
    #[error("the list does not fit into a ConfigMap: {0} bytes when packed")]
    TooLarge(usize),
    /// The API says something else.
    #[error("the ConfigMap {CONFIG_MAP}: {0}")]
    Api(ApiError),
}

impl Cache {
    pub(super) fn new(
        client: &Client,
        namespace: &str,
        image: &str,
        provider: &str,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            maps: Api::namespaced(client.clone(), namespace),
            namespace: namespace.into(),
            image: image.into(),
            provider: provider.into(),
            metrics,
        }
    }

    /// Looks at the ConfigMap, and reads it if its version is not the one that is known.
    pub(super) async fn look(&self, known: Option<&str>) -> Look {
        if let Some(known) = known {
            // Some hundred bytes instead of the whole list.
            let there = call(&self.metrics, Verb::Get, CALL, self.maps.get_metadata(CONFIG_MAP)).await;
            match there {
                Ok(there) if there.resource_version().as_deref() == Some(known) => {
                    return Look { version: Some(known.to_owned()), found: Ok(None) };
                }
                Ok(_) => {}
                Err(failed) => return Look { version: None, found: Err(self.told("get", failed)) },
            }
        }
        let map = match call(&self.metrics, Verb::Get, CALL, self.maps.get(CONFIG_MAP)).await {
            Ok(map) => map,
            Err(failed) => return Look { version: None, found: Err(self.told("get", failed)) },
        };
        let version = map.resource_version();
        let (image, provider) = (Arc::clone(&self.image), Arc::clone(&self.provider));
        // Off the runtime: ten thousand servers take their time.
        let read = tokio::task::spawn_blocking(move || read(&map, &image, &provider)).await;
        Look { version, found: read.unwrap_or_else(|panicked| Err(CacheError::Spoilt(panicked.to_string()))) }
    }

    /// Keeps a list that was just fetched; the ConfigMap's version then. A replica that has kept the
    /// same, or any, meanwhile wins: that is as new.
    ///
    /// # Errors
    ///
    /// As [`CacheError`] says.
    pub(super) async fn keep(&self, list: &Arc<Catalogue>) -> Result<Option<String>, CacheError> {
        let packed = {
            let list = Arc::clone(list);
            tokio::task::spawn_blocking(move || pack::pack(&list)).await
        };
        let packed = packed.map_err(|panicked| CacheError::Spoilt(panicked.to_string()))??;
        let map = call(&self.metrics, Verb::Get, CALL, self.maps.get(CONFIG_MAP)).await;
        let mut map = map.map_err(|failed| self.told("get", failed))?;
        let fetched = list.origin().map_or_else(SystemTime::now, |origin| origin.since);
        if holds(&map, &packed, fetched) {
            return Ok(map.resource_version());
        }
        map.data = None;
        map.binary_data = Some(BTreeMap::from([(KEY.to_owned(), ByteString(packed))]));
        let annotations = map.metadata.annotations.get_or_insert_default();
        for (key, value) in [
            (FETCHED, humantime::format_rfc3339_millis(fetched).to_string()),
            (IMAGE, self.image.to_string()),
            (PROVIDER, self.provider.to_string()),
            (SERVERS, list.len().to_string()),
        ] {
            annotations.insert(key.to_owned(), value);
        }
        map.metadata.managed_fields = None;
        let params = PostParams::default();
        match call(&self.metrics, Verb::Update, CALL, self.maps.replace(CONFIG_MAP, &params, &map)).await {
            Ok(map) => Ok(map.resource_version()),
            Err(ApiError::Conflict) => Ok(None),
            Err(failed) => Err(self.told("update", failed)),
        }
    }

    fn told(&self, verb: &'static str, failed: ApiError) -> CacheError {
        match failed {
            ApiError::NotFound => CacheError::Missing(Arc::clone(&self.namespace)),
            ApiError::Forbidden(ForbiddenKind::Rights, _) => CacheError::Forbidden(verb),
            ApiError::Forbidden(..)
            | ApiError::Conflict
            | ApiError::AlreadyExists
            | ApiError::Invalid(_)
            | ApiError::Timeout
            | ApiError::Unavailable(_) => CacheError::Api(failed),
        }
    }
}

/// Whether the very list is there already, from a replica that has read the same Job.
fn holds(map: &ConfigMap, packed: &[u8], fetched: SystemTime) -> bool {
    let there = map.binary_data.as_ref().and_then(|data| data.get(KEY));
    let kept = map.annotations().get(FETCHED).and_then(|text| humantime::parse_rfc3339(text).ok());
    there.is_some_and(|ByteString(there)| there == packed)
        && kept.is_some_and(|kept| kept + ONE_JOB >= fetched)
}

/// What a ConfigMap holds; none if it is empty, as it was installed.
fn read(map: &ConfigMap, image: &str, provider: &str) -> Result<Option<Stored>, CacheError> {
    let Some(ByteString(packed)) = map.binary_data.as_ref().and_then(|data| data.get(KEY)) else {
        return Ok(None);
    };
    let annotation = |key: &str| map.metadata.annotations.as_ref()?.get(key).map(String::as_str);
    if let Some(theirs) = annotation(PROVIDER)
        && theirs != provider
    {
        return Err(CacheError::OtherProvider { theirs: theirs.to_owned(), ours: provider.into() });
    }
    let text = pack::unpack(packed).map_err(|error| CacheError::Spoilt(error.to_string()))?;
    let list =
        Catalogue::parse(&text).map_err(|error: CatalogueError| CacheError::Spoilt(error.to_string()))?;
    // One without a time is older than any.
    let fetched = annotation(FETCHED).and_then(|text| humantime::parse_rfc3339(text).ok());
    let origin = Origin { source: SourceKind::Cached, since: fetched.unwrap_or(SystemTime::UNIX_EPOCH) };
    Ok(Some(Stored { catalogue: list.from_origin(origin), same_image: annotation(IMAGE) == Some(image) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIST: &str =
        r#"[{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"}]"#;

    fn map(annotations: serde_json::Value) -> ConfigMap {
        let packed = pack::pack(&Catalogue::parse(LIST).unwrap()).unwrap();
        let mut map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap();
        map.binary_data = Some(BTreeMap::from([(KEY.to_owned(), ByteString(packed))]));
        map
    }

    #[test]
    fn a_kept_list_tells_its_age_and_image() {
        let kept = map(json!({FETCHED: "2026-01-02T03:04:05.678Z", IMAGE: "gluetun:1", PROVIDER: "mullvad"}));
        let stored = read(&kept, "gluetun:1", "mullvad").unwrap().unwrap();
        assert_eq!(stored.catalogue.servers()[0].hostname.as_str(), "se-mma-wg-001");
        let origin = stored.catalogue.origin().unwrap();
        assert_eq!(origin.source, SourceKind::Cached);
        assert_eq!(humantime::format_rfc3339_millis(origin.since).to_string(), "2026-01-02T03:04:05.678Z");
        assert!(stored.same_image);
        assert!(!read(&kept, "gluetun:2", "mullvad").unwrap().unwrap().same_image);
        let other = read(&kept, "gluetun:1", "ivpn").unwrap_err();
        assert!(matches!(other, CacheError::OtherProvider { .. }), "{other}");
    }

    #[test]
    fn what_another_replica_has_just_kept_is_not_written_again() {
        let kept = map(json!({FETCHED: "2026-01-02T03:04:05.000Z"}));
        let packed = kept.binary_data.as_ref().unwrap()[KEY].0.clone();
        let at = |text: &str| humantime::parse_rfc3339(text).unwrap();
        assert!(holds(&kept, &packed, at("2026-01-02T03:04:06Z")));
        assert!(!holds(&kept, &packed, at("2026-01-02T04:04:06Z")), "its age would be wrong");
        assert!(!holds(&kept, b"another", at("2026-01-02T03:04:06Z")));
        assert!(!holds(&ConfigMap::default(), &packed, at("2026-01-02T03:04:06Z")));
    }

    #[test]
    fn empty_spoilt_and_undated_ones() {
        assert!(read(&ConfigMap::default(), "i", "p").unwrap().is_none());
        let mut spoilt = map(json!({}));
        let undated = read(&spoilt, "i", "p").unwrap().unwrap();
        assert!(undated.catalogue.origin().unwrap().age() > Duration::from_secs(1 << 30));
        spoilt.binary_data.as_mut().unwrap().insert(KEY.to_owned(), ByteString(b"no gzip".to_vec()));
        assert!(matches!(read(&spoilt, "i", "p"), Err(CacheError::Spoilt(_))));
    }
}
