//! What the proxy wants of the session table, and nothing more: an exit for a session, and a way to say
//! that one does not work. A trait, so that the data path can be tested without a cluster.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::address::{Address, ByAddress};
use super::event::{Event, Waiter};
use crate::accounts::Usage;
use crate::identity::Account;
use crate::secret::Secret;
use crate::selector::{Lifetimes, SessionKey};
use crate::session::{AcquireError, Exit, Fault, Grant, Progress, SessionId, Sessions};

/// A future of one data thread.
pub(super) type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The session table, as the proxy sees it.
pub(super) trait Exits: Send + Sync {
    /// What `hit` finds a session by.
    fn id(&self, key: &SessionKey) -> SessionId;

    /// The exit of a session that has one; never waits.
    fn hit(&self, id: SessionId) -> Option<Grant>;

    /// As `hit`, else has an exit started and holds until `deadline`; `tell` hears what happens meanwhile.
    /// Dropping the future cancels this wait, never the start.
    fn acquire<'a>(
        &'a self,
        key: &'a SessionKey,
        lifetimes: &'a Lifetimes,
        deadline: Instant,
        tell: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Local<'a, Result<Grant, AcquireError>>;

    /// The pod that these credentials were made for.
    fn by_pod_credentials(&self, user: &str, password: &Secret) -> Option<Grant>;

    /// The same, waiting a moment for a pod that this replica does not know yet.
    fn await_pod_credentials<'a>(&'a self, user: &'a str, password: &'a Secret) -> Local<'a, Option<Grant>>;

    /// Whose pod it is that has such credentials.
    fn pod_owner(&self, user: &str) -> Option<Account>;

    /// The exit does not work: new requests go elsewhere.
    fn report(&self, exit: &Arc<Exit>, why: Fault);
}

impl Exits for Sessions {
    fn id(&self, key: &SessionKey) -> SessionId {
        Self::id(self, key)
    }

    fn hit(&self, id: SessionId) -> Option<Grant> {
        Self::hit(self, id)
    }

    fn acquire<'a>(
        &'a self,
        key: &'a SessionKey,
        lifetimes: &'a Lifetimes,
        deadline: Instant,
        tell: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Local<'a, Result<Grant, AcquireError>> {
        Box::pin(Self::acquire_telling(self, key, lifetimes, deadline, tell))
    }

    fn by_pod_credentials(&self, user: &str, password: &Secret) -> Option<Grant> {
        Self::by_pod_credentials(self, user, password)
    }

    fn await_pod_credentials<'a>(&'a self, user: &'a str, password: &'a Secret) -> Local<'a, Option<Grant>> {
        Box::pin(Self::await_pod_credentials(self, user, password))
    }

    fn pod_owner(&self, user: &str) -> Option<Account> {
        Self::pod_owner(self, user)
    }

    fn report(&self, exit: &Arc<Exit>, why: Fault) {
        Self::report(self, exit, why);
    }
}

/// Something whose end closes tunnels.
pub(super) trait Ends {
    /// Cancelled at the end.
    fn ended(&self) -> &CancellationToken;
}

impl Ends for Exit {
    fn ended(&self) -> &CancellationToken {
        &self.gone
    }
}

impl Ends for Usage {
    fn ended(&self) -> &CancellationToken {
        Self::ended(self)
    }
}

/// The ends of what this thread has tunnels through: exits, or accounts. The token of each is shared by
/// all threads and takes a lock on every look; here one task a thread waits for it.
pub(super) struct Watches<T> {
    /// By the address of what is watched, which is unique while the entry holds it.
    by_address: ByAddress<Watch<T>>,
}

struct Watch<T> {
    of: Arc<T>,
    gone: Rc<Event>,
    task: tokio::task::JoinHandle<()>,
}

impl<T> Default for Watches<T> {
    fn default() -> Self {
        Self { by_address: ByAddress::default() }
    }
}

impl<T: Ends> Watches<T> {
    /// A future that ends when it has ended.
    pub(super) fn gone(&mut self, of: &Arc<T>) -> Waiter {
        let key = Address::of(of);
        if let Some(watch) = self.by_address.get(&key) {
            return watch.gone.waiter();
        }
        // Rare enough (a new exit) to look for those that nobody uses any more.
        self.by_address.retain(|_, watch| {
            !watch.gone.fired() && (Arc::strong_count(&watch.of) > 1 || Rc::strong_count(&watch.gone) > 2)
        });
        let gone = Rc::new(Event::default());
        let task = tokio::task::spawn_local({
            let (token, gone) = (of.ended().clone(), Rc::clone(&gone));
            async move {
                token.cancelled().await;
                gone.fire();
            }
        });
        let waiter = gone.waiter();
        self.by_address.insert(key, Watch { of: Arc::clone(of), gone, task });
        waiter
    }
}

impl<T> Watches<T> {
    /// Has those who wait for an end look about once ([`Event::nudge`]).
    pub(super) fn nudge(&self) {
        self.by_address.values().for_each(|watch| watch.gone.nudge());
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        // Those who wait hold the event themselves; without the task it would never fire for them.
        if Rc::strong_count(&self.gone) <= 2 {
            self.task.abort();
        }
    }
}
