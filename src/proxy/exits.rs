//! What the proxy wants of the session table, and nothing more: an exit for a session, and a way to say
//! that one does not work. A trait, so that the data path can be tested without a cluster.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::event::{Event, Waiter};
use crate::secret::Secret;
use crate::selector::{Lifetimes, SessionKey};
use crate::session::{AcquireError, Acquired, Exit, Fault, Sessions};

/// A future of one data thread.
pub(super) type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The session table, as the proxy sees it.
pub(super) trait Exits: Send + Sync {
    /// The exit of a session that has one; never waits.
    fn hit(&self, key: &SessionKey) -> Option<Grant>;

    /// As `hit`, else has an exit started and holds until `deadline`. Dropping the future cancels this
    /// wait, never the start.
    fn acquire<'a>(
        &'a self,
        key: &'a SessionKey,
        lifetimes: &'a Lifetimes,
        deadline: Instant,
    ) -> Local<'a, Result<Grant, AcquireError>>;

    /// The pod that these credentials were made for.
    fn by_pod_credentials(&self, user: &str, password: &Secret) -> Option<Grant>;

    /// The exit does not work: new requests go elsewhere.
    fn report(&self, exit: &Arc<Exit>, why: Fault);
}

/// An exit that a request may use. While it lives, the session is active.
pub(super) struct Grant {
    /// The exit.
    pub(super) exit: Arc<Exit>,
    /// Name of the claim, for logs.
    pub(super) session: Arc<str>,
    /// After how long without use the session ends.
    pub(super) idle: Duration,
    /// When new requests get a new exit (`ttl`).
    pub(super) expires: Option<SystemTime>,
    /// Whether the exit was started for this request.
    pub(super) cold_start: bool,
    /// How long the request was held.
    pub(super) waited: Duration,
    /// Keeps the session active.
    pub(super) _active: Option<Acquired>,
}

impl From<Acquired> for Grant {
    fn from(acquired: Acquired) -> Self {
        Self {
            exit: Arc::clone(&acquired.exit),
            session: Arc::clone(&acquired.session),
            idle: acquired.idle,
            expires: acquired.expires,
            cold_start: acquired.cold_start,
            waited: acquired.waited,
            _active: Some(acquired),
        }
    }
}

impl Exits for Sessions {
    fn hit(&self, key: &SessionKey) -> Option<Grant> {
        Self::hit(self, key).map(Grant::from)
    }

    fn acquire<'a>(
        &'a self,
        key: &'a SessionKey,
        lifetimes: &'a Lifetimes,
        deadline: Instant,
    ) -> Local<'a, Result<Grant, AcquireError>> {
        Box::pin(async move { Self::acquire(self, key, lifetimes, deadline).await.map(Grant::from) })
    }

    fn by_pod_credentials(&self, user: &str, password: &Secret) -> Option<Grant> {
        Self::by_pod_credentials(self, user, password).map(Grant::from)
    }

    fn report(&self, exit: &Arc<Exit>, why: Fault) {
        Self::report(self, exit, why);
    }
}

/// The ends of the exits that this thread has tunnels through. The exit's own token is shared by all
/// threads and takes a lock on every look; here one task a thread waits for it.
#[derive(Default)]
pub(super) struct Watches {
    /// By the exit's address, which is unique while the entry holds the exit.
    by_exit: HashMap<usize, Watch>,
}

struct Watch {
    exit: Arc<Exit>,
    gone: Rc<Event>,
    task: tokio::task::JoinHandle<()>,
}

impl Watches {
    /// A future that ends when the exit is gone.
    pub(super) fn gone(&mut self, exit: &Arc<Exit>) -> Waiter {
        let key = Arc::as_ptr(exit).addr();
        if let Some(watch) = self.by_exit.get(&key) {
            return watch.gone.waiter();
        }
        // Rare enough (a new exit) to look for those that nobody uses any more.
        self.by_exit.retain(|_, watch| {
            !watch.gone.fired() && (Arc::strong_count(&watch.exit) > 1 || Rc::strong_count(&watch.gone) > 2)
        });
        let gone = Rc::new(Event::default());
        let task = tokio::task::spawn_local({
            let (token, gone) = (exit.gone.clone(), Rc::clone(&gone));
            async move {
                token.cancelled().await;
                gone.fire();
            }
        });
        let waiter = gone.waiter();
        self.by_exit.insert(key, Watch { exit: Arc::clone(exit), gone, task });
        waiter
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Those who wait hold the event themselves; without the task it would never fire for them.
        if Rc::strong_count(&self.gone) <= 2 {
            self.task.abort();
        }
    }
}
