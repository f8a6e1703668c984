//! The connections of one data thread whose clients have not proved who they are, oldest first. They are
//! bounded: one too many ends the oldest, and so does one that finds no room in the gateway. So whoever
//! opens connections and says nothing, or says it slowly, only ever gets in the way of his own kind:
//! clients that have logged in are in no list. Called by `listener` for each connection that it accepts,
//! and by the connection itself.

use std::cell::RefCell;

use prometheus::{IntCounter, IntGauge};
use tokio::task::AbortHandle;

use crate::metrics::Metrics;

/// A place in the list. Places are used again, so one that was left says nothing of who has it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    index: usize,
    serial: u64,
}

/// The list: a queue in which any place can be left, in constant time and without an allocation for each.
#[derive(Debug)]
pub(super) struct Newcomers {
    queue: RefCell<Queue>,
    most: usize,
    open: IntGauge,
    evicted: IntCounter,
}

#[derive(Debug, Default)]
struct Queue {
    links: Vec<Link>,
    /// Places that nobody has.
    free: Vec<usize>,
    oldest: Option<usize>,
    newest: Option<usize>,
    count: usize,
    serial: u64,
}

#[derive(Debug)]
struct Link {
    /// The connection's task and the serial number of its stay; none where nobody is.
    stay: Option<(u64, AbortHandle)>,
    older: Option<usize>,
    newer: Option<usize>,
}

impl Newcomers {
    /// For `most` connections at once, at least one.
    pub(super) fn new(most: usize, metrics: &Metrics) -> Self {
        Self {
            queue: RefCell::default(),
            most: most.max(1),
            open: metrics.connections_unauthenticated.clone(),
            evicted: metrics.connections_evicted.clone(),
        }
    }

    /// A new connection, served by this task: the newest. If they are too many then, the oldest goes.
    pub(super) fn add(&self, task: AbortHandle) -> Place {
        let (place, full) = {
            let queue = &mut *self.queue.borrow_mut();
            (queue.push(task), queue.count > self.most)
        };
        self.open.inc();
        if full {
            self.evict();
        }
        place
    }

    /// The connection has logged in, or has ended.
    pub(super) fn remove(&self, place: Place) {
        let left = self.queue.borrow_mut().leave(place);
        if left.is_some() {
            self.open.dec();
        }
    }

    /// Ends the oldest, if it is not the newest too: where it is not known whether a newer one waits.
    pub(super) fn thin_out(&self) {
        if self.queue.borrow().count > 1 {
            self.evict();
        }
    }

    /// Ends the oldest; false if there is none.
    pub(super) fn evict(&self) -> bool {
        let oldest = {
            let queue = &mut *self.queue.borrow_mut();
            queue.oldest().and_then(|place| queue.leave(place))
        };
        let Some(task) = oldest else { return false };
        self.open.dec();
        self.evicted.inc();
        // Its future is dropped, and its socket closed, when the thread next looks at its tasks.
        task.abort();
        true
    }
}

impl Queue {
    fn push(&mut self, task: AbortHandle) -> Place {
        self.serial += 1;
        let link = Link { stay: Some((self.serial, task)), older: self.newest, newer: None };
        let index = match self.free.pop() {
            Some(index) => index,
            None => self.links.len(),
        };
        match self.links.get_mut(index) {
            Some(place) => *place = link,
            None => self.links.push(link),
        }
        match self.newest.and_then(|newest| self.links.get_mut(newest)) {
            Some(newest) => newest.newer = Some(index),
            None => self.oldest = Some(index),
        }
        self.newest = Some(index);
        self.count += 1;
        Place { index, serial: self.serial }
    }

    fn oldest(&self) -> Option<Place> {
        let index = self.oldest?;
        let (serial, _) = self.links.get(index)?.stay.as_ref()?;
        Some(Place { index, serial: *serial })
    }

    /// Takes a connection out; none if it is out already.
    fn leave(&mut self, place: Place) -> Option<AbortHandle> {
        let link = self.links.get_mut(place.index)?;
        let (_, task) = link.stay.take_if(|(serial, _)| *serial == place.serial)?;
        let (older, newer) = (link.older.take(), link.newer.take());
        match older.and_then(|older| self.links.get_mut(older)) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.links.get_mut(newer)) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        self.free.push(place.index);
        self.count -= 1;
        Some(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::JoinHandle;

    fn forever() -> JoinHandle<()> {
        tokio::spawn(std::future::pending())
    }

    async fn ended(task: JoinHandle<()>) -> bool {
        task.await.is_err_and(|error| error.is_cancelled())
    }

    #[tokio::test]
    async fn the_oldest_goes_first_and_those_that_left_do_not_count() {
        let metrics = Metrics::new().unwrap();
        let newcomers = Newcomers::new(3, &metrics);
        let tasks: Vec<_> = (0..3).map(|_| forever()).collect();
        let places: Vec<_> = tasks.iter().map(|task| newcomers.add(task.abort_handle())).collect();
        newcomers.remove(places[0]);
        newcomers.remove(places[0]);
        let fourth = forever();
        newcomers.add(fourth.abort_handle());
        assert_eq!(metrics.connections_evicted.get(), 0);
        let fifth = forever();
        newcomers.add(fifth.abort_handle());
        let mut tasks = tasks.into_iter();
        let (first, second, third) = (tasks.next().unwrap(), tasks.next().unwrap(), tasks.next().unwrap());
        assert!(ended(second).await, "the oldest of those that are in the list");
        assert!(!first.is_finished() && !third.is_finished() && !fourth.is_finished());
        // A place that another has by now.
        newcomers.remove(places[1]);
        assert_eq!(metrics.connections_unauthenticated.get(), 3);
        newcomers.thin_out();
        newcomers.thin_out();
        newcomers.thin_out();
        assert!(!fifth.is_finished() && newcomers.evict() && !newcomers.evict());
        assert!(ended(third).await && ended(fourth).await && ended(fifth).await);
        assert_eq!((metrics.connections_unauthenticated.get(), metrics.connections_evicted.get()), (0, 4));
        first.abort();
    }

    proptest::proptest! {
        /// Against a plain list, whatever comes and goes.
        #[test]
        fn it_is_a_queue_that_can_be_left(steps in proptest::collection::vec((0_u8..3, 0_usize..20), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let task = runtime.spawn(std::future::pending::<()>()).abort_handle();
            let (mut queue, mut model) = (Queue::default(), Vec::new());
            for (step, at) in steps {
                match step {
                    0 | 1 => model.push(queue.push(task.clone())),
                    _ if !model.is_empty() => {
                        let place = model.remove(at % model.len());
                        proptest::prop_assert!(queue.leave(place).is_some() && queue.leave(place).is_none());
                    }
                    _ => {}
                }
                proptest::prop_assert_eq!(queue.oldest(), model.first().copied());
                proptest::prop_assert_eq!(queue.count, model.len());
                proptest::prop_assert!(queue.links.len() <= 200);
            }
        }
    }
}
