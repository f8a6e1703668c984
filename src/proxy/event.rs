//! Something that happens once, on one thread: the start of the drain, the end of an exit. Waiting
//! costs a slot and no lock, so that a relay can ask on every turn. Called by all that waits on a data thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// An event of one data thread.
#[derive(Debug, Default)]
pub(super) struct Event {
    fired: Cell<bool>,
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<NonZeroU32>,
}

#[derive(Debug, Default)]
struct Slot {
    waker: Option<Waker>,
    /// Whether its waiter has been nudged.
    nudged: bool,
}

impl Slots {
    /// A free slot.
    fn take(&mut self) -> NonZeroU32 {
        self.free.pop().unwrap_or_else(|| {
            self.all.push(Slot::default());
            // More than four thousand million waiters do not fit into memory.
            u32::try_from(self.all.len()).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
        })
    }

    fn of(&mut self, slot: NonZeroU32) -> Option<&mut Slot> {
        self.all.get_mut(slot.get() as usize - 1)
    }
}

impl Event {
    /// Wakes all who wait, now and later.
    pub(super) fn fire(&self) {
        self.fired.set(true);
        self.wake(|_| true);
    }

    /// Has each of those who wait look about once, whoever has not been nudged before.
    pub(super) fn nudge(&self) {
        self.wake(|slot| !std::mem::replace(&mut slot.nudged, true));
    }

    fn wake(&self, which: impl Fn(&mut Slot) -> bool) {
        let wakers: Vec<Waker> = self
            .slots
            .borrow_mut()
            .all
            .iter_mut()
            .filter_map(|slot| if slot.waker.is_some() && which(slot) { slot.waker.take() } else { None })
            .collect();
        // Outside of the borrow: whoever is woken may look at once.
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether it has happened.
    pub(super) fn fired(&self) -> bool {
        self.fired.get()
    }

    /// A future that ends once it has happened. It may be polled again afterwards.
    pub(super) fn waiter(self: &Rc<Self>) -> Waiter {
        Waiter { event: Rc::clone(self), slot: None }
    }
}

/// Waits for an [`Event`].
#[derive(Debug)]
pub(super) struct Waiter {
    event: Rc<Event>,
    /// One more than the number of its slot: two words for each tunnel that waits.
    slot: Option<NonZeroU32>,
}

impl Future for Waiter {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.event.fired() {
            return Poll::Ready(());
        }
        let this = &mut *self;
        let slots = &mut *this.event.slots.borrow_mut();
        let slot = *this.slot.get_or_insert_with(|| slots.take());
        if let Some(Slot { waker, .. }) = slots.of(slot) {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let waker = {
                let mut slots = self.event.slots.borrow_mut();
                slots.free.push(slot);
                slots.of(slot).and_then(|slot| std::mem::take(slot).waker)
            };
            // Outside of the borrow: a waker's drop may run what it wakes.
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_each_waiter_once_and_reuses_slots() {
        let event = Rc::new(Event::default());
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let mut first = event.waiter();
        let mut second = event.waiter();
        assert!(Pin::new(&mut first).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut first).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut second).poll(&mut cx).is_pending());
        drop(first);
        let mut third = event.waiter();
        assert!(Pin::new(&mut third).poll(&mut cx).is_pending());
        assert_eq!(event.slots.borrow().all.len(), 2);
        event.nudge();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(Pin::new(&mut second).poll(&mut cx).is_pending());
        drop(third);
        let mut third = event.waiter();
        assert!(Pin::new(&mut third).poll(&mut cx).is_pending());
        // A waiter is nudged once; whoever has its slot next is another one.
        event.nudge();
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        assert!(Pin::new(&mut third).poll(&mut cx).is_pending());
        event.fire();
        assert_eq!(count.0.load(Ordering::Relaxed), 5);
        assert!(Pin::new(&mut second).poll(&mut cx).is_ready());
        assert!(Pin::new(&mut third).poll(&mut cx).is_ready());
        assert!(Pin::new(&mut event.waiter()).poll(&mut cx).is_ready());
    }
}
