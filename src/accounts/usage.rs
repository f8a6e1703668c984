//! What an account uses on this replica: open tunnels, and how fast new ones come. Atomics, so that the
//! hot path takes no lock and allocates nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rules::Rate;

/// One account's use of this replica. It outlives the accounts file that it was made under.
#[derive(Debug)]
pub struct Usage {
    /// Tunnels and plain requests under way.
    tunnels: AtomicU32,
    /// When the bucket of new tunnels would be full again, in nanoseconds since `start`: the theoretical
    /// arrival time of the generic cell rate algorithm (ITU-T I.371), one word for a whole bucket.
    full_at: AtomicU64,
    start: Instant,
    /// Cancelled when what is open must end.
    ended: CancellationToken,
}

/// One tunnel or plain request of an account. Counts until it is dropped.
#[derive(Debug)]
pub struct Slot {
    usage: Arc<Usage>,
}

impl Usage {
    pub(super) fn new() -> Self {
        Self {
            tunnels: AtomicU32::new(0),
            full_at: AtomicU64::new(0),
            start: Instant::now(),
            ended: CancellationToken::new(),
        }
    }

    /// Tunnels and plain requests under way.
    #[must_use]
    pub fn tunnels(&self) -> u32 {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Cancelled when what is open must end.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Takes a slot, unless `most` are taken: then how many are.
    pub(super) fn take(self: &Arc<Self>, most: Option<u32>) -> Result<Slot, u32> {
        let below = |used: u32| most.is_none_or(|most| used < most).then(|| used.saturating_add(1));
        self.tunnels
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
            .map(|_| Slot { usage: Arc::clone(self) })
    }

    /// Takes a new tunnel out of the bucket, or says after how long there will be one.
    pub(super) fn pass(&self, rate: Rate) -> Result<(), Duration> {
        let now = nanos(self.start.elapsed());
        let each = (1e9 / rate.per_second) as u64;
        let tolerance = each.saturating_mul(u64::from(rate.burst.saturating_sub(1)));
        let next = |full_at: u64| {
            let full_at = full_at.max(now);
            (full_at - now <= tolerance).then(|| full_at.saturating_add(each))
        };
        match self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(full_at) => Err(Duration::from_nanos(full_at.max(now) - now - tolerance)),
        }
    }
}

impl Slot {
    /// Whose it is.
    #[must_use]
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.usage.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_exact_under_contention() {
        let usage = Arc::new(Usage::new());
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let usage = Arc::clone(&usage);
                std::thread::spawn(move || {
                    for _ in 0..2000 {
                        if let Ok(slot) = usage.take(Some(3)) {
                            assert!(usage.tunnels() <= 3);
                            drop(slot);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(usage.tunnels(), 0);
        let slots: Vec<_> = (0..3).map(|_| usage.take(Some(3)).unwrap()).collect();
        assert_eq!(usage.take(Some(3)).unwrap_err(), 3);
        assert!(usage.take(None).is_ok());
        drop(slots);
        assert!(usage.take(Some(1)).is_ok());
        assert_eq!(usage.take(Some(0)).unwrap_err(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_bucket_lets_a_burst_through_and_then_the_rate() {
        let usage = Usage::new();
        let rate = Rate { per_second: 4.0, burst: 3 };
        for _ in 0..3 {
            assert_eq!(usage.pass(rate), Ok(()));
        }
        assert_eq!(usage.pass(rate), Err(Duration::from_millis(250)));
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(usage.pass(rate), Ok(()));
        assert!(usage.pass(rate).is_err());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(
            (0..10).filter(|_| usage.pass(rate).is_ok()).count(),
            3,
            "no more than the burst is saved"
        );
        let slow = Rate { per_second: 0.01, burst: 1 };
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(usage.pass(slow), Ok(()));
        assert_eq!(usage.pass(slow), Err(Duration::from_secs(100)));
    }
}
