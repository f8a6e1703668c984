//! What the connections of one data thread share. Nothing in it is `Send`: a connection lives and dies
//! on the thread that accepted it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Shared;
use super::buffers::Buffers;
use super::event::{Event, Waiter};
use super::exits::Watches;
use super::pool::Pool;
use super::record::Counters;
use super::wish::Wishes;
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
    /// Idle tunnels for plain HTTP.
    pub(super) pool: Pool,
    /// Fired when the listeners close: idle connections end.
    pub(super) closing: Rc<Event>,
    watches: RefCell<Watches>,
}

impl Thread {
    /// The state of a new thread.
    pub(super) fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            counters: Rc::new(Counters::new(
                Arc::clone(&shared.metrics),
                shared.shutdown.clone(),
                shared.failures.shard(),
            )),
            buffers: Buffers::default(),
            wishes: RefCell::new(Wishes::new(shared.catalogue.clone())),
            pool: Pool::new(shared.timings.pooled),
            closing: Rc::new(Event::default()),
            watches: RefCell::default(),
            shared,
        })
    }

    /// A future that ends when the exit's pod is gone.
    pub(super) fn gone(&self, exit: &Arc<Exit>) -> Waiter {
        self.watches.borrow_mut().gone(exit)
    }

    /// Reads and drops what a client still sends, after the write side was shut: closing a socket with
    /// unread bytes resets it, and the client may lose the answer that it has not read yet. Ends when the
    /// client closes, after `limit`, or after 64 KiB.
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
    /// Failed logins: the second ends the connection.
    pub(super) refused: Cell<u32>,
    _slot: Option<tokio::sync::OwnedSemaphorePermit>,
    _guard: crate::drain::Guard,
}

impl Connection {
    /// Counts a connection.
    pub(super) fn new(shared: &Arc<Shared>, slot: Option<tokio::sync::OwnedSemaphorePermit>) -> Rc<Self> {
        shared.metrics.connections_open.inc();
        Rc::new(Self {
            shared: Arc::clone(shared),
            refused: Cell::new(0),
            _slot: slot,
            _guard: shared.shutdown.guard(),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.metrics.connections_open.dec();
        self.shared.freed.notify_waiters();
    }
}
