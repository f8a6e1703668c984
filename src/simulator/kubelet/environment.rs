//! A container's environment: literal values, Secrets, ConfigMaps, fields of the pod, and `$(NAME)` in
//! values and arguments, as a real kubelet resolves them and with its texts for what is missing. Used
//! by the pod workers.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapKeySelector, Container, EnvFromSource, EnvVarSource, ObjectFieldSelector, Pod,
    ResourceFieldSelector, Secret, SecretKeySelector,
};
use kube::ResourceExt;

use super::machine::{CallError, Machine};

/// Why a container cannot get its environment.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnvironmentError {
    /// What the pod names is not there: `CreateContainerConfigError`, with this text. It may come yet.
    #[error("{0}")]
    Missing(String),
    /// The API could not be asked.
    #[error(transparent)]
    Unknown(#[from] CallError),
}

/// Where Secrets and ConfigMaps come from.
pub(super) trait Source: Sync {
    fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<Secret>, CallError>> + Send;
    fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<ConfigMap>, CallError>> + Send;
}

impl Source for Machine {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, CallError> {
        let api = self.within::<Secret>(namespace);
        self.calls.run(api.get_opt(name)).await
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, CallError> {
        let api = self.within::<ConfigMap>(namespace);
        self.calls.run(api.get_opt(name)).await
    }
}

/// Addresses that a pod may ask for by `fieldRef`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) pod_ip: IpAddr,
    pub(super) host_ip: IpAddr,
}

/// The environment of a container, in the order of its definition, later ones replacing earlier ones.
pub(super) async fn resolve(
    source: &impl Source,
    pod: &Pod,
    container: &Container,
    place: Place,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut resolver = Resolver {
        source,
        namespace: &namespace,
        secrets: HashMap::new(),
        config_maps: HashMap::new(),
        values: Values::default(),
    };
    for from in container.env_from.iter().flatten() {
        resolver.take_all(from).await?;
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value_from, &var.value) {
            (Some(from), _) => resolver.value_from(from, pod, container, place).await?,
            (None, value) => Some(expand(value.as_deref().unwrap_or_default(), &resolver.values)),
        };
        if let Some(value) = value {
            resolver.values.set(&var.name, value);
        }
    }
    Ok(resolver.values.ordered)
}

/// `command` and `args` of a container, with `$(NAME)` replaced.
pub(super) fn argv(container: &Container, env: &[(String, String)]) -> Vec<String> {
    let mut values = Values::default();
    for (name, value) in env {
        values.set(name, value.clone());
    }
    let words = container.command.iter().chain(container.args.iter()).flatten();
    words.map(|word| expand(word, &values)).collect()
}

#[derive(Default)]
struct Values {
    ordered: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Values {
    fn set(&mut self, name: &str, value: String) {
        match self.places.get(name).and_then(|place| self.ordered.get_mut(*place)) {
            Some(entry) => entry.1 = value,
            None => {
                self.places.insert(name.to_owned(), self.ordered.len());
                self.ordered.push((name.to_owned(), value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).and_then(|place| self.ordered.get(*place)).map(|(_, value)| value.as_str())
    }
}

struct Resolver<'a, S> {
    source: &'a S,
    namespace: &'a str,
    secrets: HashMap<String, Option<Secret>>,
    config_maps: HashMap<String, Option<ConfigMap>>,
    values: Values,
}

impl<S: Source> Resolver<'_, S> {
    async fn secret(&mut self, name: &str) -> Result<Option<BTreeMap<String, String>>, CallError> {
        if !self.secrets.contains_key(name) {
            let secret = self.source.secret(self.namespace, name).await?;
            self.secrets.insert(name.to_owned(), secret);
        }
        let secret = self.secrets.get(name).and_then(Option::as_ref);
        Ok(secret.map(|secret| {
            let data = secret.data.iter().flatten();
            data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())).collect()
        }))
    }

    async fn config_map(&mut self, name: &str) -> Result<Option<BTreeMap<String, String>>, CallError> {
        if !self.config_maps.contains_key(name) {
            let config_map = self.source.config_map(self.namespace, name).await?;
            self.config_maps.insert(name.to_owned(), config_map);
        }
        let config_map = self.config_maps.get(name).and_then(Option::as_ref);
        Ok(config_map.map(|config_map| config_map.data.clone().unwrap_or_default()))
    }

    async fn take_all(&mut self, from: &EnvFromSource) -> Result<(), EnvironmentError> {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut found = BTreeMap::new();
        if let Some(reference) = &from.config_map_ref {
            match self.config_map(&reference.name).await? {
                Some(data) => found.extend(data),
                None if reference.optional == Some(true) => {}
                None => return Err(no_config_map(&reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match self.secret(&reference.name).await? {
                Some(data) => found.extend(data),
                None if reference.optional == Some(true) => {}
                None => return Err(no_secret(&reference.name)),
            }
        }
        for (key, value) in found {
            self.values.set(&format!("{prefix}{key}"), value);
        }
        Ok(())
    }

    async fn value_from(
        &mut self,
        from: &EnvVarSource,
        pod: &Pod,
        container: &Container,
        place: Place,
    ) -> Result<Option<String>, EnvironmentError> {
        if let Some(reference) = &from.secret_key_ref {
            return self.secret_key(reference).await;
        }
        if let Some(reference) = &from.config_map_key_ref {
            return self.config_map_key(reference).await;
        }
        if let Some(reference) = &from.field_ref {
            return field(pod, reference, place).map(Some);
        }
        if let Some(reference) = &from.resource_field_ref {
            return resource(container, reference).map(Some);
        }
        Ok(None)
    }

    async fn secret_key(
        &mut self,
        reference: &SecretKeySelector,
    ) -> Result<Option<String>, EnvironmentError> {
        let optional = reference.optional == Some(true);
        let (name, key) = (&reference.name, &reference.key);
        match self.secret(name).await? {
            Some(mut data) => match data.remove(key) {
                Some(value) => Ok(Some(value)),
                None if optional => Ok(None),
                None => Err(self.no_key(key, "Secret", name)),
            },
            None if optional => Ok(None),
            None => Err(no_secret(name)),
        }
    }

    async fn config_map_key(
        &mut self,
        reference: &ConfigMapKeySelector,
    ) -> Result<Option<String>, EnvironmentError> {
        let optional = reference.optional == Some(true);
        let (name, key) = (&reference.name, &reference.key);
        match self.config_map(name).await? {
            Some(mut data) => match data.remove(key) {
                Some(value) => Ok(Some(value)),
                None if optional => Ok(None),
                None => Err(self.no_key(key, "ConfigMap", name)),
            },
            None if optional => Ok(None),
            None => Err(no_config_map(name)),
        }
    }

    fn no_key(&self, key: &str, kind: &str, name: &str) -> EnvironmentError {
        EnvironmentError::Missing(format!("couldn't find key {key} in {kind} {}/{name}", self.namespace))
    }
}

fn no_secret(name: &str) -> EnvironmentError {
    EnvironmentError::Missing(format!("secret {name:?} not found"))
}

fn no_config_map(name: &str) -> EnvironmentError {
    EnvironmentError::Missing(format!("configmap {name:?} not found"))
}

/// A field of the pod, by its path. (`fieldpath` and `podFieldSelectorRuntimeValue` of Kubernetes.)
fn field(pod: &Pod, reference: &ObjectFieldSelector, place: Place) -> Result<String, EnvironmentError> {
    let path = reference.field_path.as_str();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match map {
            "metadata.labels" => Ok(pod.labels().get(key).cloned().unwrap_or_default()),
            "metadata.annotations" => Ok(pod.annotations().get(key).cloned().unwrap_or_default()),
            _ => Err(unsupported(path)),
        };
    }
    let spec = pod.spec.as_ref();
    match path {
        "metadata.name" => Ok(pod.name_any()),
        "metadata.namespace" => Ok(pod.namespace().unwrap_or_default()),
        "metadata.uid" => Ok(pod.uid().unwrap_or_default()),
        "spec.nodeName" => Ok(spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default()),
        "spec.serviceAccountName" => {
            Ok(spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default())
        }
        "status.podIP" | "status.podIPs" => Ok(place.pod_ip.to_string()),
        "status.hostIP" | "status.hostIPs" => Ok(place.host_ip.to_string()),
        _ => Err(unsupported(path)),
    }
}

fn unsupported(path: &str) -> EnvironmentError {
    EnvironmentError::Missing(format!("unsupported fieldPath: {path}"))
}

/// A request or limit of the container, in units of the divisor, rounded up; 0 where it has none.
fn resource(container: &Container, reference: &ResourceFieldSelector) -> Result<String, EnvironmentError> {
    let error =
        || EnvironmentError::Missing(format!("unsupported container resource: {}", reference.resource));
    let (of, name) = reference.resource.split_once('.').ok_or_else(error)?;
    let resources = container.resources.as_ref();
    let amounts = match of {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(error()),
    };
    let Some(amount) = amounts.and_then(|amounts| amounts.get(name)) else { return Ok("0".to_owned()) };
    let amount = quantity(&amount.0).ok_or_else(error)?;
    let divisor = match &reference.divisor {
        Some(divisor) if divisor.0 != "0" => quantity(&divisor.0).ok_or_else(error)?,
        Some(_) | None => 1.0,
    };
    Ok(format!("{}", (amount / divisor).ceil()))
}

/// The number that a Kubernetes quantity (`500m`, `256Mi`, `2`) stands for.
fn quantity(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    digits.parse::<f64>().ok().filter(|number| *number >= 0.0).map(|number| number * unit)
}

/// Replaces `$(NAME)` by the value of a variable that is known already; what is not known stays as it
/// is, and `$$` stands for one `$`. (`third_party/forked/golang/expansion` of Kubernetes.)
fn expand(text: &str, values: &Values) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match values.get(name) {
                Some(value) => expanded.push_str(value),
                None => {
                    expanded.push_str("$(");
                    expanded.push_str(name);
                    expanded.push(')');
                }
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// One Secret and one ConfigMap, `there`, each with the key `key`.
    struct Scripted;

    impl Source for Scripted {
        async fn secret(&self, _: &str, name: &str) -> Result<Option<Secret>, CallError> {
            let secret = json!({"data": {"key": "c2VjcmV0LXZhbHVl"}});
            Ok((name == "there").then(|| serde_json::from_value(secret).unwrap()))
        }

        async fn config_map(&self, _: &str, name: &str) -> Result<Option<ConfigMap>, CallError> {
            let config_map = json!({"data": {"key": "mapped", "other": "$(key)"}});
            Ok((name == "there").then(|| serde_json::from_value(config_map).unwrap()))
        }
    }

    async fn env(container: Value) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "vpn"}},
            "spec": {"nodeName": "node", "containers": []},
        }))
        .unwrap();
        let mut container = container;
        container["name"] = json!("gluetun");
        let container: Container = serde_json::from_value(container).unwrap();
        let place = Place { pod_ip: "127.42.0.1".parse().unwrap(), host_ip: "127.0.0.1".parse().unwrap() };
        resolve(&Scripted, &pod, &container, place).await.map_err(|error| error.to_string())
    }

    async fn one(value_from: Value) -> Result<Option<String>, String> {
        let env = env(json!({"env": [{"name": "V", "valueFrom": value_from}]})).await?;
        Ok(env.into_iter().next().map(|(_, value)| value))
    }

    #[tokio::test]
    async fn resolves_every_kind_of_variable() {
        for (from, value) in [
            (json!({"secretKeyRef": {"name": "there", "key": "key"}}), "secret-value"),
            (json!({"configMapKeyRef": {"name": "there", "key": "key"}}), "mapped"),
            (json!({"fieldRef": {"fieldPath": "metadata.name"}}), "p"),
            (json!({"fieldRef": {"fieldPath": "metadata.namespace"}}), "ns"),
            (json!({"fieldRef": {"fieldPath": "metadata.uid"}}), "u"),
            (json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}}), "vpn"),
            (json!({"fieldRef": {"fieldPath": "metadata.annotations['none']"}}), ""),
            (json!({"fieldRef": {"fieldPath": "spec.nodeName"}}), "node"),
            (json!({"fieldRef": {"fieldPath": "status.podIP"}}), "127.42.0.1"),
            (json!({"fieldRef": {"fieldPath": "status.hostIP"}}), "127.0.0.1"),
        ] {
            assert_eq!(one(from.clone()).await.unwrap().as_deref(), Some(value), "{from}");
        }
    }

    #[tokio::test]
    async fn says_what_is_missing_as_a_kubelet_does_unless_it_is_optional() {
        for (from, text) in [
            (json!({"secretKeyRef": {"name": "nope", "key": "key"}}), r#"secret "nope" not found"#),
            (
                json!({"secretKeyRef": {"name": "there", "key": "nope"}}),
                "couldn't find key nope in Secret ns/there",
            ),
            (json!({"configMapKeyRef": {"name": "nope", "key": "key"}}), r#"configmap "nope" not found"#),
            (
                json!({"configMapKeyRef": {"name": "there", "key": "nope"}}),
                "couldn't find key nope in ConfigMap ns/there",
            ),
            (json!({"fieldRef": {"fieldPath": "spec.nonsense"}}), "unsupported fieldPath: spec.nonsense"),
        ] {
            assert_eq!(one(from.clone()).await.unwrap_err(), text);
            let mut optional = from;
            for kind in ["secretKeyRef", "configMapKeyRef"] {
                if optional.get(kind).is_some() {
                    optional[kind]["optional"] = json!(true);
                    assert_eq!(one(optional.clone()).await.unwrap(), None);
                }
            }
        }
        let error = env(json!({"envFrom": [{"secretRef": {"name": "nope"}}]})).await.unwrap_err();
        assert_eq!(error, r#"secret "nope" not found"#);
        let optional = json!({"envFrom": [{"configMapRef": {"name": "nope", "optional": true}}]});
        assert_eq!(env(optional).await.unwrap(), []);
    }

    #[tokio::test]
    async fn later_variables_replace_and_refer_to_earlier_ones() {
        let env = env(json!({
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "there"}}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(P_key)-$$(A)-$(LATER)-$x-$"},
                {"name": "A", "value": "2"},
                {"name": "LATER"},
            ],
        }))
        .await
        .unwrap();
        let env: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = ["P_key=mapped", "P_other=$(key)", "A=2", "B=1-mapped-$(A)-$(LATER)-$x-$", "LATER="];
        assert_eq!(env, expected);
    }

    #[tokio::test]
    async fn reads_resources() {
        let of = |resource: &str, divisor: &str| {
            json!({
                "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}},
                "env": [{"name": "V", "valueFrom":
                    {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}],
            })
        };
        for (resource, divisor, value) in [
            ("limits.cpu", "1", "1"),
            ("limits.cpu", "1m", "500"),
            ("limits.memory", "1Mi", "256"),
            ("limits.memory", "0", "268435456"),
            ("requests.memory", "1", "0"),
        ] {
            assert_eq!(env(of(resource, divisor)).await.unwrap()[0].1, value, "{resource} / {divisor}");
        }
        let error = env(of("nonsense", "1")).await.unwrap_err();
        assert_eq!(error, "unsupported container resource: nonsense");
    }

    #[test]
    fn arguments_are_expanded_too() {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "command": ["run", "$(A)"], "args": ["$(B)"],
        }))
        .unwrap();
        assert_eq!(argv(&container, &[("A".into(), "x".into())]), ["run", "x", "$(B)"]);
    }
}
