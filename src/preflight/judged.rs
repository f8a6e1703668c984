//! Whose rights a check is about: the API server's own word, since a kubeconfig need not name anybody. The
//! admission policy in `k8s/` is about the gateway's ServiceAccount alone, so that a check with an operator's
//! credentials says little about the gateway. `check --cluster` asks it.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};

use super::{DEADLINE, Finding, Preflight, Verdict};
use crate::session::api::{ApiError, Verb, call};

/// Name of the gateway's ServiceAccount in `k8s/02-rbac.yaml`.
const ACCOUNT: &str = "gluetun-gateway";

/// Who is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The user, as the API server calls it.
    pub user: String,
    /// What judges the gateway, where this user is none of the gateway's namespace: the value for `--as`.
    pub instead: Option<String>,
}

impl Judged {
    fn new(user: String, namespace: &str) -> Self {
        let accounts = format!("system:serviceaccount:{namespace}:");
        let instead = (!user.starts_with(&accounts)).then(|| format!("{accounts}{ACCOUNT}"));
        Self { user, instead }
    }

    /// The line about it; `asked` when the operator has named this user, and so knows.
    #[must_use]
    pub fn finding(&self, asked: bool) -> Finding {
        let verdict = match &self.instead {
            Some(instead) if !asked => Verdict::Warning(format!(
                "this is not the gateway's account, whose rights may be others, and whom alone the admission policy \
                 is about; to judge that: check --cluster --as {instead}"
            )),
            Some(_) | None => Verdict::Good,
        };
        Finding { what: format!("rights and admission are judged as {}", self.user), verdict }
    }
}

impl Preflight<'_> {
    /// As whom the API server takes the client.
    ///
    /// # Errors
    ///
    /// When it does not say; [`ApiError::Forbidden`] when the client may not speak for the user that it names.
    pub async fn judged(&self) -> Result<Judged, ApiError> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let asked = call(self.metrics, Verb::Create, DEADLINE, async {
            reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await
        });
        let user = asked.await?.status.and_then(|status| status.user_info?.username);
        let user = user.ok_or_else(|| ApiError::Unavailable("the API server names no user".to_owned()))?;
        Ok(Judged::new(user, &self.config.namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_the_gateway_is_told_whom_to_judge() {
        let gateway = Judged::new("system:serviceaccount:vpn:gluetun-gateway".to_owned(), "vpn");
        assert_eq!(gateway.finding(false).verdict, Verdict::Good);
        for user in ["kubernetes-admin", "system:serviceaccount:ci:deployer", "system:serviceaccount:vpn2:x"]
        {
            let other = Judged::new(user.to_owned(), "vpn");
            let told = other.finding(false).to_string();
            assert!(told.contains(&format!("judged as {user}: ")), "{told}");
            assert!(told.ends_with("--as system:serviceaccount:vpn:gluetun-gateway"), "{told}");
            assert_eq!(other.finding(true).verdict, Verdict::Good);
        }
    }
}
