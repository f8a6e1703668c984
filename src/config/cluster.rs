//! Where the Kubernetes API is: the pod's service account in a cluster, a kubeconfig elsewhere.

use kube::config::KubeConfigOptions;

use super::reader::{Environment, Mistake};

/// The variable that Kubernetes sets in every pod.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// How to reach the API server. Not by kube's own order, which prefers a kubeconfig even in a pod.
///
/// # Errors
///
/// When there is neither a service account nor a usable kubeconfig.
pub async fn cluster(env: &Environment) -> Result<kube::Config, Mistake> {
    let mut config = if env.get(IN_CLUSTER).is_some() {
        kube::Config::incluster().map_err(|error| Mistake {
            name: IN_CLUSTER.to_owned(),
            what: format!("is set, but there is no usable service account: {error}"),
            fix: "give the pod a service account, with automountServiceAccountToken on".to_owned(),
        })?
    } else {
        kube::Config::from_kubeconfig(&KubeConfigOptions::default()).await.map_err(|error| Mistake {
            name: "KUBECONFIG".to_owned(),
            what: format!("there is no usable kubeconfig: {error}"),
            fix: "name one (outside of a cluster), or try `gluetun-gateway demo`".to_owned(),
        })?
    };
    // Without this the client looks for CA files even where there is no TLS, and fails in an image
    // without them.
    if config.cluster_url.scheme_str() == Some("http") && config.root_cert.is_none() {
        config.root_cert = Some(Vec::new());
    }
    Ok(config)
}
