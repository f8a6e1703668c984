//! The handle by which the admin port has the server list fetched anew (`/servers/refresh`, `force`).
//! What does the fetching is the keeper's task, so that a client that hangs up ends its own wait and
//! not the refresh.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Catalogue;

/// How long a caller waits at most: as long as a Job may take. What comes before and after it goes on.
const WAIT: Duration = Duration::from_secs(60);

/// Asks that may queue before callers wait for room; the keeper takes them at once.
const QUEUE: usize = 64;

/// Why the list was not refreshed. The list that was there stays in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// The file cannot be read, or is not a list.
    #[error("{0}")]
    File(String),
    /// The Job did not bring a list; its class, and what was seen, with what to do.
    #[error("the Job that prints the server list brought none: {0}")]
    Job(#[from] super::JobError),
    /// What was fetched is not a usable list.
    #[error("the list that was fetched is not usable: {0}")]
    Refused(#[from] super::CatalogueError),
    /// It goes on, and may yet succeed.
    #[error("the refresh has not ended within {} seconds; it goes on", WAIT.as_secs())]
    Unfinished,
    /// The gateway is ending.
    #[error("the gateway is shutting down")]
    Stopping,
}

impl RefreshError {
    /// The outcome as the metric `servers_refreshes_total` counts it.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Job(error) => error.kind.as_str(),
            Self::Refused(_) => "refused",
            Self::Unfinished => "unfinished",
            Self::Stopping => "stopping",
        }
    }
}

/// What one caller gets.
pub(super) type Answer = Result<Arc<Catalogue>, RefreshError>;

/// Where one caller waits.
pub(super) type Ask = oneshot::Sender<Answer>;

/// Has the server list fetched anew. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Refresher(mpsc::Sender<Ask>);

impl Refresher {
    /// One that is answered by a keeper, and where that takes the asks from.
    pub(super) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, keeper) = mpsc::channel(QUEUE);
        (Self(asks), keeper)
    }

    /// One that answers with the list in use.
    #[cfg(test)]
    pub(crate) fn fixed(catalogue: tokio::sync::watch::Receiver<Arc<Catalogue>>) -> Self {
        let (refresher, mut asks) = Self::new();
        tokio::spawn(async move {
            while let Some(ask) = asks.recv().await {
                ask.send(Ok(Arc::clone(&catalogue.borrow()))).ok();
            }
        });
        refresher
    }

    /// Refreshes the list and waits for it, 60 s at most; joins a refresh that is running. With
    /// `SERVERS_FILE_PATH` the file is read again, with `SERVERS_JSON` the list is what it is.
    ///
    /// # Errors
    ///
    /// As [`RefreshError`] says; the list in use is then still the old one.
    pub async fn refresh(&self) -> Result<Arc<Catalogue>, RefreshError> {
        let (ask, answer) = oneshot::channel();
        let asking = async {
            self.0.send(ask).await.map_err(|_| RefreshError::Stopping)?;
            answer.await.map_err(|_| RefreshError::Stopping)?
        };
        tokio::time::timeout(WAIT, asking).await.unwrap_or(Err(RefreshError::Unfinished))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_waits_for_a_minute_and_is_told_when_nobody_is_there() {
        let (refresher, asks) = Refresher::new();
        assert_eq!(refresher.refresh().await.unwrap_err(), RefreshError::Unfinished);
        drop(asks);
        assert_eq!(refresher.refresh().await.unwrap_err(), RefreshError::Stopping);
    }
}
