//! A connection's life as a row of stages: its head is read, its request is answered, it is a tunnel. Each is a future
//! in a box of its own, and makes the next: so no stage holds the room that another one needs, and the task itself is
//! two words. An idle tunnel is as small as what it needs to be one. Called by `connection`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::FutureExt as _;

/// What is left of a connection's life.
pub(super) struct Stage(Pin<Box<dyn Future<Output = Option<Stage>>>>);

impl Stage {
    /// One that leads to another, or to the end.
    pub(super) fn new(stage: impl Future<Output = Option<Self>> + 'static) -> Self {
        Self(Box::pin(stage))
    }

    /// The last one. `held` is dropped behind it.
    pub(super) fn last(stage: impl Future<Output = ()> + 'static, held: impl Sized + 'static) -> Self {
        Self(Box::pin(stage.map(move |()| {
            drop(held);
            None
        })))
    }
}

impl Future for Stage {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(next) = ready!(self.0.as_mut().poll(cx)) {
            *self = next;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[tokio::test]
    async fn stages_follow_each_other_and_what_is_held_goes_last() {
        struct Held(Rc<RefCell<Vec<&'static str>>>);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.borrow_mut().push("dropped");
            }
        }
        let steps = Rc::new(RefCell::new(Vec::new()));
        let held = Held(Rc::clone(&steps));
        let stage = Stage::new({
            let steps = Rc::clone(&steps);
            async move {
                tokio::task::yield_now().await;
                steps.borrow_mut().push("first");
                let last = async move {
                    tokio::task::yield_now().await;
                    steps.borrow_mut().push("last");
                };
                Some(Stage::last(last, held))
            }
        });
        assert!(size_of_val(&stage) <= 16);
        stage.await;
        assert_eq!(*steps.borrow(), ["first", "last", "dropped"]);
    }
}
