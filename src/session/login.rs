//! A pod's own credentials, a moment before this replica knows them: `/start` may have been answered by
//! another one, whose watch was ahead and which has asked the pod itself. Called by the proxy for logins
//! that look like a pod's and are not known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ensure::{PROBE_LIMIT, PROBE_PERIOD};
use super::pod::{HEALTH_PORT, PodView};
use super::probe::{Health, health};
use super::sessions::{Grant, Sessions};
use crate::secret::Secret;

/// How long an unknown login waits: watches of one API server lag by far less.
const LAG: Duration = Duration::from_secs(1);

/// Logins that wait at once; further ones are refused at once, as all were before.
pub(super) const WAITING_LOGINS: usize = 256;

impl Sessions {
    /// As [`Sessions::by_pod_credentials`], for up to a second. Whoever is refused in the end has waited
    /// for all of it, whether such a user exists or not.
    pub async fn await_pod_credentials(&self, user: &str, password: &Secret) -> Option<Grant> {
        let _place = self.0.logins.try_acquire().ok()?;
        let deadline = Instant::now() + LAG;
        loop {
            let mut changed = std::pin::pin!(self.0.table.logins_changed.notified());
            // What changes from here on is not missed.
            changed.as_mut().enable();
            if let Some(grant) = self.by_pod_credentials(user, password) {
                return Some(grant);
            }
            let unproven = self.0.index().unproven(user, password);
            tokio::select! {
                () = changed => {}
                () = self.prove(unproven) => {}
                () = tokio::time::sleep_until(deadline) => return None,
            }
        }
    }

    /// Asks the pod's health server until it says 200. Never ends without a pod.
    async fn prove(&self, pod: Option<Arc<PodView>>) {
        let Some((pod, ip)) = pod.and_then(|pod| Some((Arc::clone(&pod), pod.ip?))) else {
            return std::future::pending().await;
        };
        while health(SocketAddr::new(ip, HEALTH_PORT), PROBE_LIMIT).await != Health::Healthy {
            tokio::time::sleep(PROBE_PERIOD).await;
        }
        self.0.index().mark_healthy(&self.0.table, &pod);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pod::pod_name;
    use super::super::tests::{UID, World};
    use super::*;

    const USER: &str = "pod.0";

    async fn within(world: &World, password: &str) -> (Option<String>, Duration) {
        let begun = Instant::now();
        let granted = world.sessions.await_pod_credentials(USER, &Secret::from(password)).await;
        (granted.map(|grant| grant.exit.pod.to_string()), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_comes_before_its_pod_is_granted_when_that_comes() {
        let mut world = World::new();
        world.claim();
        let sessions = world.sessions.clone();
        let waiting = tokio::spawn(async move {
            sessions
                .await_pod_credentials(USER, &Secret::from("open-sesame"))
                .await
                .map(|grant| grant.exit.pod.to_string())
        });
        tokio::task::yield_now().await;
        world.pod(0, true);
        assert_eq!(waiting.await.unwrap(), Some(pod_name(UID, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_one_waits_as_long_whether_its_user_exists_or_not() {
        let mut world = World::new();
        assert_eq!(within(&world, "wrong").await, (None, LAG));
        world.claim();
        world.pod(0, true);
        assert_eq!(within(&world, "wrong").await, (None, LAG));
        assert_eq!(within(&world, "open-sesame").await, (Some(pod_name(UID, 0)), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_are_refused_at_once_and_the_places_come_back() {
        let world = World::new();
        let logins: Vec<_> = (0..WAITING_LOGINS)
            .map(|_| {
                let sessions = world.sessions.clone();
                tokio::spawn(async move {
                    sessions.await_pod_credentials(USER, &Secret::from("x")).await.is_some()
                })
            })
            .collect();
        while world.shared.logins.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(within(&world, "x").await, (None, Duration::ZERO));
        for login in logins {
            assert!(!login.await.unwrap());
        }
        assert_eq!(within(&world, "x").await, (None, LAG));
    }
}
