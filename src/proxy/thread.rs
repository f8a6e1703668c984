//! What the connections of one data thread share. Nothing in it is `Send`: a connection lives and dies
//! on one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::Shared;
use super::balance::Balance;
use super::buffers::Buffers;
use super::event::{Event, Waiter};
use super::exits::Watches;
use super::newcomers::{Newcomers, Place};
use super::origin::Wires;
use super::pool::Pool;
use super::record::Counters;
use super::wish::Wishes;
use crate::accounts::Usage;
use crate::session::Exit;

/// The data thread's own state.
pub(super) struct Thread {
    /// What all data threads share.
    pub(super) shared: Arc<Shared>,
    /// Metrics, looked up once.
    pub(super) counters: Rc<Counters>,
    /// Buffers for what is relayed.
    pub(super) buffers: Buffers,
    /// What usernames mean, remembered.
    pub(super) wishes: RefCell<Wishes>,
    /// Idle tunnels for plain HTTP, with hyper on them.
    pub(super) pool: Pool,
    /// Idle tunnels for plain HTTP without.
    pub(super) wires: Wires,
    /// Fired when the listeners close: idle connections end.
    pub(super) closing: Rc<Event>,
    /// Connections whose clients have not logged in.
    pub(super) newcomers: Rc<Newcomers>,
    /// How many connections it has, and the others.
    pub(super) balance: Rc<Balance>,
    /// How many rounds have been made.
    rounds: Cell<u32>,
    watches: RefCell<Watches<Exit>>,
    accounts: RefCell<Watches<Usage>>,
}

impl Thread {
    /// Where files have run out, closes what only saves time: idle tunnels and free pipes. False if this thread has
    /// none; the others are told, and close theirs before long.
    pub(super) fn forget_idle(&self) -> bool {
        self.shared.short.notify_waiters();
        self.forget_own()
    }

    fn forget_own(&self) -> bool {
        // All of them.
        self.wires.forget() | self.pool.forget() | self.buffers.close_free()
    }

    /// The state of a new thread.
    pub(super) fn new(shared: Arc<Shared>, balance: Balance) -> Rc<Self> {
        Rc::new(Self {
            balance: Rc::new(balance),
            counters: Rc::new(Counters::new(
                Arc::clone(&shared.metrics),
                shared.shutdown.clone(),
                shared.failures.shard(),
            )),
            buffers: Buffers::default(),
            wishes: RefCell::new(Wishes::new(
                shared.catalogue.clone(),
                shared.accounts.clone(),
                shared.idle_timeout,
            )),
            pool: Pool::new(shared.timings.pooled),
            wires: Wires::new(shared.timings.pooled),
            closing: Rc::new(Event::default()),
            newcomers: Rc::new(Newcomers::new(shared.most_newcomers, &shared.metrics)),
            rounds: Cell::new(0),
            watches: RefCell::default(),
            accounts: RefCell::default(),
            shared,
        })
    }

    /// Now and then has the tunnels that have come since look at how old they are, no clock for each, and closes the
    /// pipes that nobody needs. In between does what a thread without files asks for.
    pub(super) async fn make_rounds(self: Rc<Self>) {
        let mut clock = tokio::time::interval(self.shared.timings.rounds);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        clock.reset();
        loop {
            tokio::select! {
                _ = clock.tick() => {
                    self.rounds.set(self.rounds.get().wrapping_add(1));
                    self.watches.borrow().nudge();
                    self.buffers.close_unneeded();
                }
                () = self.shared.short.notified() => {
                    self.forget_own();
                }
            }
        }
    }

    /// How many rounds have been made: who has seen fewer is no newcomer.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds.get()
    }

    /// A future that ends when the exit's pod is gone.
    pub(super) fn gone(&self, exit: &Arc<Exit>) -> Waiter {
        self.watches.borrow_mut().gone(exit)
    }

    /// A future that ends when what is open of the account must end.
    pub(super) fn account_gone(&self, usage: &Arc<Usage>) -> Waiter {
        self.accounts.borrow_mut().gone(usage)
    }

    /// Reads and drops what a client still sends, after the write side was shut: closing a socket with
    /// unread bytes resets it, and the client may lose the answer that it has not read yet. Ends when the
    /// client closes, after `limit`, or after so many bytes.
    pub(super) async fn linger(&self, client: &TcpStream, limit: Duration, bytes: usize) {
        let deadline = Instant::now() + limit;
        let mut left = bytes;
        while let Ok(Ok(())) = tokio::time::timeout_at(deadline, client.readable()).await {
            let mut buffer = self.buffers.take();
            let read = client.try_read(&mut buffer);
            self.buffers.give(buffer);
            match read {
                Ok(0) => return,
                Ok(n) if n >= left => return,
                Ok(n) => left -= n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Held by everything that serves one client's connection: the drain waits for it, the limit on
/// connections counts it, and those who wait for a free file are told of its end.
pub(super) struct Connection {
    shared: Arc<Shared>,
    balance: Rc<Balance>,
    /// Failed logins: the second ends the connection.
    pub(super) refused: Cell<u32>,
    newcomers: Rc<Newcomers>,
    /// Where it is among those, until its client has logged in.
    place: Cell<Option<Place>>,
    _slot: Option<tokio::sync::OwnedSemaphorePermit>,
    _guard: crate::drain::Guard,
}

impl Connection {
    /// Counts a connection.
    pub(super) fn new(thread: &Thread, slot: Option<tokio::sync::OwnedSemaphorePermit>) -> Rc<Self> {
        let shared = &thread.shared;
        shared.metrics.connections_open.inc();
        thread.balance.opened();
        Rc::new(Self {
            shared: Arc::clone(shared),
            balance: Rc::clone(&thread.balance),
            refused: Cell::new(0),
            newcomers: Rc::clone(&thread.newcomers),
            place: Cell::new(None),
            _slot: slot,
            _guard: shared.shutdown.guard(),
        })
    }
}

impl Connection {
    /// This task serves it: it is ended when there are too many whose clients have not logged in.
    pub(super) fn enter(&self, task: AbortHandle) {
        self.place.set(Some(self.newcomers.add(task)));
    }

    /// Its client has proved who it is: from now on it stays for as long as it likes.
    pub(super) fn authenticated(&self) {
        if let Some(place) = self.place.take() {
            self.newcomers.remove(place);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.authenticated();
        self.balance.closed();
        self.shared.metrics.connections_open.dec();
        self.shared.freed.notify_waiters();
    }
}
