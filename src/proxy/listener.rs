//! The data threads: each has a runtime and a listener of its own, accepts, and serves what it has
//! accepted, or was handed by another one, until it ends. Started by [`super::start`].

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedReceiver;

use super::Shared;
use super::balance::{Balance, Handed};
use super::connection;
use super::event::Waiter;
use super::socket;
use super::thread::{Connection, Thread};
use crate::drain::Phase;
use crate::readiness::Heartbeat;

/// First pause of accepting when no file is left.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Runs a data thread to its end: until the drain is over.
///
/// `ready` hears once whether it accepts.
pub(super) fn run(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    balance: (Balance, UnboundedReceiver<Handed>),
    heartbeat: Heartbeat,
    ready: &SyncSender<io::Result<()>>,
) {
    let made = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = match made {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    runtime.block_on(async move {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let _ = ready.send(Ok(()));
                tokio::task::spawn_local(heartbeat.run());
                serve(shared, listener, balance).await;
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    });
    // Dropping the runtime drops what is still open: tunnels are reset, and each leaves its record.
}

async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    (balance, handed): (Balance, UnboundedReceiver<Handed>),
) {
    let thread = Thread::new(Arc::clone(&shared), balance);
    // Until the listener is closed there may be more to come than the connections that are counted.
    let guard = shared.shutdown.guard();
    tokio::task::spawn_local({
        let thread = Rc::clone(&thread);
        async move {
            thread.shared.shutdown.reached(Phase::Closing).await;
            thread.closing.fire();
        }
    });
    tokio::task::spawn_local(Rc::clone(&thread).make_rounds());
    tokio::task::spawn_local(Rc::clone(&thread.counters.lines).run());
    tokio::task::spawn_local(take_handed(Rc::clone(&thread), handed));
    accept(&thread, &listener).await;
    take_queued(&thread, listener);
    drop(guard);
    tokio::select! {
        () = shared.shutdown.drained() => {}
        () = shared.shutdown.reached(Phase::Force) => {}
    }
}

/// Accepts until the listeners are to close.
async fn accept(thread: &Rc<Thread>, listener: &TcpListener) {
    let shared = &thread.shared;
    let mut closing = thread.closing.waiter();
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closing => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                pause = FIRST_PAUSE;
                let slot = match Arc::clone(&shared.slots).try_acquire_owned() {
                    Ok(slot) => Some(slot),
                    Err(_) => make_room(thread, &mut closing).await,
                };
                match thread.balance.lighter() {
                    None => spawn(thread, stream, client, slot),
                    Some(other) => hand(thread, other, stream, client, slot),
                }
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                shared.metrics.accept_paused.inc();
                if socket::is_exhausted(&error) && !thread.forget_idle() {
                    // Said of an empty queue too, so the one that came last is spared.
                    thread.newcomers.thin_out();
                }
                tracing::warn!(%error, pause_ms = pause.as_millis(), "accepting is paused");
                tokio::select! {
                    biased;
                    () = &mut closing => return,
                    () = shared.freed.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Over the limit on connections: the oldest whose client has not logged in goes. Where there is none, the
/// new one waits, unserved, and no other is accepted. `None` once the listeners are to close.
async fn make_room(thread: &Rc<Thread>, closing: &mut Waiter) -> Option<OwnedSemaphorePermit> {
    loop {
        // Those that came just now have a turn first: they may log in at once.
        tokio::task::yield_now().await;
        thread.newcomers.evict();
        tokio::select! {
            biased;
            () = &mut *closing => return None,
            slot = Arc::clone(&thread.shared.slots).acquire_owned() => return slot.ok(),
            // Another thread may have taken the room that was made here.
            () = tokio::time::sleep(FIRST_PAUSE) => {}
        }
    }
}

/// Whether the error is one of a connection that ended in the queue (`accept(2)`): the next may do.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    !socket::is_exhausted(error)
        && matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::Interrupted | K::TimedOut)
}

/// Takes what the kernel has queued: closing a listener resets its queue.
fn take_queued(thread: &Rc<Thread>, listener: TcpListener) {
    // Asked directly: the runtime would only try what it has been notified of.
    let Ok(listener) = listener.into_std() else { return };
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                if let Ok(stream) = stream {
                    spawn(thread, stream, client, None);
                }
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(_) => return,
        }
    }
}

/// Has another thread serve a connection.
fn hand(
    thread: &Rc<Thread>,
    to: usize,
    stream: TcpStream,
    client: std::net::SocketAddr,
    slot: Option<OwnedSemaphorePermit>,
) {
    // Fails only on a connection that cannot be served here either.
    let Ok(stream) = stream.into_std() else { return };
    let connection = Handed { stream, client, slot, guard: thread.shared.shutdown.guard() };
    match thread.balance.hand(to, connection) {
        Ok(()) => thread.shared.metrics.connections_moved.inc(),
        Err(connection) => take(thread, connection),
    }
}

/// Serves what other threads hand over, whatever accepting waits for: a connection that has its place waits for nothing.
async fn take_handed(thread: Rc<Thread>, mut handed: UnboundedReceiver<Handed>) {
    while let Some(connection) = handed.recv().await {
        take(&thread, connection);
    }
}

/// Serves a connection that another thread has accepted.
fn take(thread: &Rc<Thread>, connection: Handed) {
    let Handed { stream, client, slot, guard } = connection;
    if let Ok(stream) = TcpStream::from_std(stream) {
        spawn(thread, stream, client, slot);
    }
    // From now on the connection has one of its own.
    drop(guard);
}

fn spawn(
    thread: &Rc<Thread>,
    stream: TcpStream,
    client: std::net::SocketAddr,
    slot: Option<OwnedSemaphorePermit>,
) {
    let connection = Connection::new(thread, slot);
    let serving = connection::serve(Rc::clone(thread), stream, client, Rc::clone(&connection));
    connection.enter(tokio::task::spawn_local(serving).abort_handle());
}
