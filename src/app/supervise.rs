//! The long-lived tasks of the control plane, by name: an end that nobody asked for is noticed, told,
//! and remembered for the exit code.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

/// Tasks that run until they are told to stop.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    /// Names of tasks that may end from now on.
    stopping: Vec<&'static str>,
    failed: bool,
}

impl Tasks {
    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Whether a task has ended that should not have.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Waits until a task ends that should not.
    pub(super) async fn unexpected_end(&mut self) {
        loop {
            match self.running.join_next_with_id().await {
                Some(ended) => {
                    if self.note(ended) {
                        return;
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Notes every such end, for as long as it is polled.
    pub(super) async fn all_unexpected_ends(&mut self) -> Infallible {
        loop {
            self.unexpected_end().await;
        }
    }

    /// Waits for those tasks, which have been told to stop, and cuts them after `limit`.
    pub(super) async fn stop(&mut self, names: &[&'static str], limit: Duration) {
        self.stopping.extend_from_slice(names);
        let deadline = Instant::now() + limit;
        while self.names.values().any(|name| names.contains(name)) {
            match tokio::time::timeout_at(deadline, self.running.join_next_with_id()).await {
                Ok(Some(ended)) => {
                    self.note(ended);
                }
                Ok(None) => return,
                Err(_) => {
                    let late: Vec<_> = self.names.values().filter(|name| names.contains(name)).collect();
                    tracing::warn!(?late, "did not stop in time and is cut");
                    return;
                }
            }
        }
    }

    /// Takes note of an end; whether it was one that should not have been. A panic always is.
    fn note(&mut self, ended: Result<(Id, ()), JoinError>) -> bool {
        let (id, panicked) = match &ended {
            Ok((id, ())) => (*id, false),
            Err(error) => (error.id(), true),
        };
        let name = self.names.remove(&id).unwrap_or("unknown");
        if !panicked && self.stopping.contains(&name) {
            return false;
        }
        self.failed = true;
        tracing::error!(task = name, panicked, "a task ended that should not have");
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_end_that_nobody_asked_for_is_noticed() {
        let mut tasks = Tasks::default();
        tasks.spawn("forever", std::future::pending());
        tasks.spawn("short", async {});
        tasks.unexpected_end().await;
        assert!(tasks.failed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_noticed_even_while_stopping() {
        let mut tasks = Tasks::default();
        tasks.spawn("broken", async { panic!("for the test") });
        tasks.stop(&["broken"], Duration::from_secs(5)).await;
        assert!(tasks.failed());
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_is_waited_for_and_no_failure() {
        let mut tasks = Tasks::default();
        let stop = CancellationToken::new();
        tasks.spawn("forever", std::future::pending());
        tasks.spawn("good", {
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
        stop.cancel();
        let begun = Instant::now();
        tasks.stop(&["good"], Duration::from_secs(5)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        assert!(!tasks.failed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_stop_is_cut() {
        let mut tasks = Tasks::default();
        tasks.spawn("stubborn", std::future::pending());
        let begun = Instant::now();
        tasks.stop(&["stubborn"], Duration::from_secs(5)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        assert!(!tasks.failed());
    }
}
