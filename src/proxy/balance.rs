//! Which data thread serves a connection. The kernel spreads them over the threads' listeners by a hash, which knows
//! nothing of how many each has: with few connections, or a busy core, some threads would wait while others have more
//! than they can do. So a thread that has more than its share hands what it accepts to one that has fewer. Called by
//! `listener`.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::drain::Guard;

/// A connection on its way to another thread.
pub(super) struct Handed {
    /// The connection.
    pub(super) stream: std::net::TcpStream,
    /// Whose it is.
    pub(super) client: SocketAddr,
    /// Its place among all connections.
    pub(super) slot: Option<OwnedSemaphorePermit>,
    /// The drain waits for it.
    pub(super) guard: Guard,
}

struct Share {
    open: AtomicUsize,
    handed: UnboundedSender<Handed>,
}

/// What one thread knows of all.
pub(super) struct Balance {
    shares: Arc<[Share]>,
    own: usize,
    /// Whom it looked at last.
    last: Cell<usize>,
}

/// For each thread what it knows, and what is handed to it.
pub(super) fn balances(threads: usize) -> Vec<(Balance, UnboundedReceiver<Handed>)> {
    let channels = (0..threads).map(|_| unbounded_channel());
    let (senders, receivers): (Vec<_>, Vec<_>) = channels.unzip();
    let shares: Arc<[Share]> =
        senders.into_iter().map(|handed| Share { open: AtomicUsize::new(0), handed }).collect();
    let balance = |own| Balance { shares: Arc::clone(&shares), own, last: Cell::new(own) };
    receivers.into_iter().enumerate().map(|(own, receiver)| (balance(own), receiver)).collect()
}

impl Balance {
    /// This thread has one more connection.
    pub(super) fn opened(&self) {
        if let Some(share) = self.shares.get(self.own) {
            share.open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// This thread has one fewer.
    pub(super) fn closed(&self) {
        if let Some(share) = self.shares.get(self.own) {
            share.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Who is to serve the next connection, if not this thread. One other thread is looked at for each: the better of
    /// two by chance is nearly as good as the best of all, and costs one look at another core's memory.
    pub(super) fn lighter(&self) -> Option<usize> {
        let mut other = (self.last.get() + 1) % self.shares.len();
        if other == self.own {
            other = (other + 1) % self.shares.len();
        }
        self.last.set(other);
        let open = |of: usize| self.shares.get(of).map_or(0, |share| share.open.load(Ordering::Relaxed));
        (other != self.own && is_uneven(open(self.own), open(other))).then_some(other)
    }

    /// Hands a connection to a thread; gives it back if that takes none any more.
    pub(super) fn hand(&self, to: usize, connection: Handed) -> Result<(), Handed> {
        match self.shares.get(to) {
            Some(share) => share.handed.send(connection).map_err(|error| error.0),
            None => Err(connection),
        }
    }
}

/// Whether so many are too many beside so few. Handing a connection over costs a sixth of a short tunnel, so what
/// a hash does to many connections is left as it is: with 32 short tunnels on two threads one in twelve moves. (A
/// quarter more and two, where one in four moves, costs more than the idle cores that it saves; measured.)
const fn is_uneven(own: usize, other: usize) -> bool {
    own >= 2 * other + 2
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn one_thread_keeps_everything() {
        let (alone, _) = balances(1).pop().unwrap();
        (0..100).for_each(|_| {
            assert_eq!(alone.lighter(), None);
            alone.opened();
        });
    }

    #[test]
    fn shares_stay_even_whatever_the_hash_says() {
        for (threads, seed) in [(2, 1), (3, 2), (16, 3)] {
            let mut rng = StdRng::seed_from_u64(seed);
            let all: Vec<Balance> = balances(threads).into_iter().map(|(balance, _)| balance).collect();
            let open = |of: usize| all[of].shares[of].open.load(Ordering::Relaxed);
            // The hash has a favourite.
            for _ in 0..100 * threads {
                let accepted = if rng.random_bool(0.3) { 0 } else { rng.random_range(0..threads) };
                let by = all[accepted].lighter().unwrap_or(accepted);
                all[by].opened();
            }
            let counts: Vec<usize> = (0..threads).map(open).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            // Not all are looked at for each.
            assert!(*most <= 2 * least + threads, "{counts:?}");
            assert_eq!(counts.iter().sum::<usize>(), 100 * threads);
            all[0].closed();
            assert_eq!(open(0), counts[0] - 1);
        }
    }

    #[test]
    fn a_little_more_is_no_reason_to_move() {
        for (own, other, uneven) in [
            (0, 0, false),
            (1, 0, false),
            (2, 0, true),
            (5, 4, false),
            (9, 4, false),
            (10, 4, true),
            (201, 100, false),
            (202, 100, true),
        ] {
            assert_eq!(is_uneven(own, other), uneven, "{own} {other}");
        }
    }
}
