//! What every part of the kubelet shares: the client and how it is called, the options, the faults,
//! the addresses and the event recorder.

use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::core::NamespaceResourceScope;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::AddressPool;
use super::events::Recorder;
use super::faults::Faults;
use super::{Options, Runtime};

/// How long one API request may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How many API requests are made at a time, so that a burst of pods does not open a connection each.
const CALLS_AT_ONCE: usize = 32;
/// First and longest wait after an API request that failed.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the parts of one kubelet share.
pub(super) struct Machine {
    pub(super) client: kube::Client,
    pub(super) calls: Calls,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) options: Options,
    pub(super) faults: Faults,
    pub(super) addresses: AddressPool,
    pub(super) events: Recorder,
    /// Cancelled when the kubelet ends.
    pub(super) stop: CancellationToken,
    /// Every task of the kubelet.
    pub(super) tasks: TaskTracker,
}

impl Machine {
    /// The API for the kubelet's namespace, or for all of them.
    pub(super) fn everywhere<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match &self.options.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// The API for one namespace.
    pub(super) fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// Runs API requests: each with a deadline of its own, not too many at a time.
#[derive(Clone, Debug)]
pub(super) struct Calls(Arc<Semaphore>);

impl Default for Calls {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CALLS_AT_ONCE)))
    }
}

/// Why an API request failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The client's or the server's error.
    #[error("{0}")]
    Kube(Box<kube::Error>),
    /// No answer within the deadline.
    #[error("the API server did not answer within {} s", CALL_LIMIT.as_secs())]
    TimedOut,
}

impl Calls {
    pub(super) async fn run<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
        let _permit = self.0.acquire().await.ok();
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(CallError::Kube(Box::new(error))),
            Err(_) => Err(CallError::TimedOut),
        }
    }
}

impl CallError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::TimedOut => None,
        }
    }

    /// The object is not there.
    pub(super) fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object of this name is not there, and its kind is known to the server.
    pub(super) fn is_absent(&self, name: &str) -> bool {
        match self {
            Self::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => status.code == 404 && status.message.contains(name),
                _ => false,
            },
            Self::TimedOut => false,
        }
    }

    /// It is there already, or another one than was meant.
    pub(super) fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The server will never accept it.
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self.code(), Some(400 | 422))
    }
}

/// Waits between tries that fail: 100 ms, doubled up to 5 s.
#[derive(Debug)]
pub(super) struct BackOff(Duration);

impl Default for BackOff {
    fn default() -> Self {
        Self(BACK_OFF.0)
    }
}

impl BackOff {
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(BACK_OFF.1);
        wait
    }
}
