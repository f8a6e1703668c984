//! The last failures of the proxy port, for whoever looks for a reason that his client hides: browsers
//! show nothing of a refused CONNECT. Written by the data threads when a request fails and at no other
//! time, read by the admin port.
//!
//! Each data thread has a shard that it alone writes: its lock is free but for the moment in which someone
//! reads. A full shard drops the oldest entry of whoever has most in it, so that an account whose client
//! fails a thousand times a second cannot wash out the one failure of another. Requests that have not
//! proved who they are share one place.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::trail::Noted;

/// Failures that are kept in all. One takes 1 KiB, at most 6 KiB (24 steps with details of 160 bytes, a
/// message below 1 KiB, a target): 1 MiB, at most 6 MiB.
pub const MOST: usize = 1024;

/// The fewest that a data thread keeps: below that a shard would be of no use. So a gateway of more than
/// 16 threads keeps more than [`MOST`].
const LEAST_PER_SHARD: usize = 64;

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its id, which the client got in `X-Gateway-Request-Id`.
    pub request_id: Box<str>,
    /// When its head was complete.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The account, if it has proved who it is. What others say of themselves is not kept.
    pub account: Option<Arc<str>>,
    /// What it asked for.
    pub selector: Option<Arc<str>>,
    /// Name of the session's claim.
    pub session: Option<Arc<str>>,
    /// Where it came from.
    pub client: SocketAddr,
    /// Its method.
    pub method: Option<http::Method>,
    /// Where it wanted to go.
    pub target: Option<Box<str>>,
    /// The pod of its last exit and the VPN server.
    pub exit: Option<(Arc<str>, Arc<str>)>,
    /// The code: of an error, or of how it broke off.
    pub code: &'static str,
    /// Status of the answer; none where there was no answer.
    pub status: Option<u16>,
    /// One sentence for a person.
    pub message: Cow<'static, str>,
    /// What can be done.
    pub hint: Cow<'static, str>,
    /// Whether the same request may do better later.
    pub retryable: bool,
    /// Its way.
    pub steps: Vec<Noted>,
}

/// How a request can break off, beside the errors of the gateway's own.
pub const BROKEN_OFF: [&str; 3] = ["client_gone", "upstream_reset", "exit_gone"];

/// Which failures are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those of this account.
    pub account: Option<String>,
    /// The one with this id.
    pub request_id: Option<String>,
    /// Those with this code.
    pub code: Option<String>,
}

impl Filter {
    fn wants(&self, failure: &Failure) -> bool {
        let is = |wanted: &Option<String>, is: Option<&str>| wanted.as_deref().is_none_or(|w| Some(w) == is);
        is(&self.account, failure.account.as_deref())
            && is(&self.request_id, Some(&failure.request_id))
            && is(&self.code, Some(failure.code))
    }
}

/// The failures of all data threads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Failures {
    shards: Arc<Mutex<Vec<Arc<Shard>>>>,
    per_shard: usize,
}

impl Failures {
    /// Room for [`MOST`] of so many data threads.
    pub fn new(threads: usize) -> Self {
        Self { shards: Arc::default(), per_shard: (MOST / threads.max(1)).max(LEAST_PER_SHARD) }
    }

    /// A shard for one data thread.
    pub(super) fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard { room: self.per_shard, kept: Mutex::default() });
        locked(&self.shards).push(Arc::clone(&shard));
        shard
    }

    /// The last failures, the newest first: at most `limit`, and how many there are.
    pub fn last(&self, filter: &Filter, limit: usize) -> (Vec<Arc<Failure>>, usize) {
        let shards = locked(&self.shards).clone();
        let mut found: Vec<Arc<Failure>> = Vec::new();
        for shard in &shards {
            let kept = locked(&shard.kept);
            let all = kept.by_account.values().flatten();
            found.extend(all.filter(|(_, failure)| filter.wants(failure)).map(|(_, f)| Arc::clone(f)));
        }
        let total = found.len();
        found.sort_by_key(|failure| std::cmp::Reverse(failure.began + failure.took));
        found.truncate(limit);
        (found, total)
    }
}

/// The failures of one data thread.
#[derive(Debug)]
pub(super) struct Shard {
    room: usize,
    kept: Mutex<Kept>,
}

/// Failures in the order in which they came, with their numbers.
type Numbered = VecDeque<(u64, Arc<Failure>)>;

#[derive(Debug, Default)]
struct Kept {
    by_account: HashMap<Option<Arc<str>>, Numbered>,
    count: usize,
    next: u64,
}

impl Shard {
    /// Keeps a failure.
    pub(super) fn keep(&self, failure: Failure) {
        let failure = Arc::new(failure);
        let mut kept = locked(&self.kept);
        if kept.count >= self.room {
            kept.make_room();
        }
        let number = kept.next;
        kept.next += 1;
        kept.count += 1;
        kept.by_account.entry(failure.account.clone()).or_default().push_back((number, failure));
    }
}

impl Kept {
    /// Drops the oldest of whoever has most; among equals, of the one whose oldest is the oldest.
    fn make_room(&mut self) {
        let oldest = |kept: &VecDeque<(u64, _)>| kept.front().map_or(0, |(number, _)| *number);
        let most = self
            .by_account
            .iter()
            .max_by_key(|(_, kept)| (kept.len(), std::cmp::Reverse(oldest(kept))))
            .map(|(account, _)| account.clone());
        let Some(account) = most else { return };
        if let Some(kept) = self.by_account.get_mut(&account) {
            kept.pop_front();
            self.count -= 1;
            if kept.is_empty() {
                self.by_account.remove(&account);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(account: Option<&str>, number: u64) -> Failure {
        Failure {
            request_id: format!("{number:016x}").into(),
            began: SystemTime::UNIX_EPOCH + Duration::from_secs(number),
            took: Duration::ZERO,
            account: account.map(Arc::from),
            selector: None,
            session: None,
            client: ([127, 0, 0, 1], 1).into(),
            method: None,
            target: None,
            exit: None,
            code: if number.is_multiple_of(2) { "capacity_full" } else { "upstream_dns" },
            status: Some(503),
            message: "full".into(),
            hint: "retry".into(),
            retryable: true,
            steps: Vec::new(),
        }
    }

    #[test]
    fn a_noisy_account_washes_out_nobody_else() {
        let failures = Failures::new(2);
        let (one, two) = (failures.shard(), failures.shard());
        one.keep(failure(Some("alice"), 1));
        two.keep(failure(None, 2));
        for number in 10..20_000 {
            one.keep(failure(Some("noisy"), number));
            two.keep(failure(Some("noisy"), number));
        }
        let (all, total) = failures.last(&Filter::default(), usize::MAX);
        assert_eq!((all.len(), total), (MOST, MOST), "bounded");
        assert!(all.is_sorted_by(|a, b| a.began >= b.began), "the newest first");
        let of = |account: &str| Filter { account: Some(account.to_owned()), ..Filter::default() };
        assert_eq!(failures.last(&of("alice"), 10).1, 1);
        assert!(all.iter().any(|failure| failure.account.is_none()));
        assert_eq!(failures.last(&of("bob"), 10).1, 0);
        let (noisy, total) = failures.last(&of("noisy"), 3);
        assert_eq!((noisy.len(), total), (3, MOST - 2));
        assert_eq!(&*noisy[0].request_id, format!("{:016x}", 19_999));
    }

    #[test]
    fn many_accounts_share_the_room() {
        let failures = Failures::new(1);
        let shard = failures.shard();
        for number in 0..5_000_u64 {
            shard.keep(failure(Some(&format!("account{}", number % 2000)), number));
        }
        let (all, _) = failures.last(&Filter::default(), usize::MAX);
        assert_eq!(all.len(), MOST);
        let oldest = all.last().unwrap();
        assert_eq!(&*oldest.request_id, format!("{:016x}", 5_000 - MOST), "among equals the oldest go");
    }

    #[test]
    fn filters_narrow() {
        let failures = Failures::new(1);
        let shard = failures.shard();
        (0..10).for_each(|number| shard.keep(failure(Some("alice"), number)));
        let by_code = Filter { code: Some("upstream_dns".to_owned()), ..Filter::default() };
        assert_eq!(failures.last(&by_code, 100).1, 5);
        let by_id = Filter { request_id: Some(format!("{:016x}", 4)), ..by_code.clone() };
        assert_eq!(failures.last(&by_id, 100).1, 0, "both must fit");
        let by_id = Filter { code: None, ..by_id };
        assert_eq!(failures.last(&by_id, 100).1, 1);
    }
}
