//! Failed logins, slowed by where they come from: a token bucket for each address (IPv4) or /64 (IPv6,
//! where one host has as many addresses as it likes). Never by account: whoever guesses at an account
//! must not lock its owner out. [`super::Authenticator`] asks before a password is hashed, after
//! everything that is remembered as good.
//!
//! A bucket is one instant: when it will be full again. That says how many tokens it holds now, needs no
//! refilling, and makes a bucket that is full the same as none at all, so those are what is forgotten
//! first.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::cache::lock;

/// Addresses that are remembered: some 2 MiB.
const REMEMBERED: usize = 32 * 1024;

/// Failures beyond an empty bucket that are remembered: checks that were under way when it ran dry. As
/// many as wait for the verifier, so that a burst of parallel guesses is paid for in full.
const MOST_DEBT: u32 = 64;

/// Most failures that a rate may allow at once.
const MOST_FAILURES: u32 = 1_000_000;

/// Longest time of a rate.
const LONGEST: Duration = Duration::from_secs(86_400);

/// How many failed logins one address has: so many at once, and as many again in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    failures: u32,
    /// After how long one more is allowed.
    interval: Duration,
}

impl Rate {
    /// `failures` at once, and as many again in each `period`; none where either is out of its bounds.
    #[must_use]
    pub fn new(failures: u32, period: Duration) -> Option<Self> {
        if !(1..=MOST_FAILURES).contains(&failures) || period > LONGEST {
            return None;
        }
        let interval = period / failures;
        (!interval.is_zero()).then_some(Self { failures, interval })
    }

    /// How long an empty bucket takes to be full.
    fn whole(self) -> Duration {
        self.interval * self.failures
    }
}

/// What is wrong with the text of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not FAILURES/DURATION")]
pub struct RateError;

/// `10/1m`: ten at once, and ten a minute.
impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (failures, period) = text.split_once('/').ok_or(RateError)?;
        let failures = failures.trim().parse().map_err(|_| RateError)?;
        let period = humantime::parse_duration(period.trim()).map_err(|_| RateError)?;
        Self::new(failures, period).ok_or(RateError)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.failures, humantime::format_duration(self.whole()))
    }
}

/// Where a client is, as far as it counts: the IPv4 address, or the first half of the IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    V4(u32),
    V6(u64),
}

impl Origin {
    fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

/// The failed logins of every address, for as long as they count.
#[derive(Debug)]
pub struct Throttle {
    rate: Option<Rate>,
    /// When each bucket is full again.
    full_at: Mutex<HashMap<Origin, Instant>>,
    capacity: usize,
}

impl Throttle {
    /// Slows failures to this rate; with none, not at all.
    #[must_use]
    pub fn new(rate: Option<Rate>) -> Self {
        Self { rate, full_at: Mutex::default(), capacity: REMEMBERED }
    }

    /// Whether a login from there is looked at.
    ///
    /// # Errors
    ///
    /// After how long it will be.
    pub(super) fn admits(&self, client: IpAddr, now: Instant) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let Some(full_at) = lock(&self.full_at).get(&Origin::of(client)).copied() else { return Ok(()) };
        // A token is there once the bucket lacks all but one of them at most.
        let due = full_at.checked_sub(rate.interval * (rate.failures - 1)).unwrap_or(now);
        if due <= now { Ok(()) } else { Err(due - now) }
    }

    /// Counts a failed login.
    pub(super) fn failed(&self, client: IpAddr, now: Instant) {
        let Some(rate) = self.rate else { return };
        let mut all = lock(&self.full_at);
        let origin = Origin::of(client);
        if all.len() >= self.capacity && !all.contains_key(&origin) {
            forget(&mut all, now);
        }
        let full_at = all.entry(origin).or_insert(now);
        let most = now + rate.whole() + rate.interval * MOST_DEBT;
        *full_at = ((*full_at).max(now) + rate.interval).min(most);
    }

    /// Addresses that are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.full_at).len()
    }
}

/// Makes room: forgets the buckets that are full, and if those are few, the quarter that is fullest. So a
/// look at all of them buys many inserts, whatever is done to fill the table.
fn forget(all: &mut HashMap<Origin, Instant>, now: Instant) {
    let before = all.len();
    all.retain(|_, full_at| *full_at > now);
    let quarter = before / 4;
    if before - all.len() > quarter {
        return;
    }
    let mut instants: Vec<Instant> = all.values().copied().collect();
    let (_, edge, _) = instants.select_nth_unstable(quarter.min(before - 1).min(all.len() - 1));
    let edge = *edge;
    // Of those that are equal to the edge as many go as are needed: all may have failed in one instant.
    let mut left = quarter.max(1);
    all.retain(|_, full_at| {
        let goes = *full_at <= edge && left > 0;
        left -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn rates_are_read_and_shown() {
        assert_eq!(rate("10/1m"), Rate { failures: 10, interval: Duration::from_secs(6) });
        assert_eq!(rate(" 3 / 1h 30m "), Rate { failures: 3, interval: Duration::from_secs(1800) });
        assert_eq!(rate("10/1m").to_string(), "10/1m");
        for text in
            ["", "10", "10/", "/1m", "0/1m", "-1/1m", "10/60", "10/0s", "10/2days", "2000000/1s", "x/1m"]
        {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text}");
        }
    }

    #[test]
    fn a_burst_is_let_through_and_then_one_each_interval() {
        let throttle = Throttle::new(Some(rate("3/30s")));
        let (client, start) = (ip("192.0.2.1"), Instant::now());
        for _ in 0..3 {
            assert_eq!(throttle.admits(client, start), Ok(()));
            throttle.failed(client, start);
        }
        assert_eq!(throttle.admits(client, start), Err(Duration::from_secs(10)));
        let later = start + Duration::from_secs(9);
        assert_eq!(throttle.admits(client, later), Err(Duration::from_secs(1)));
        let later = start + Duration::from_secs(10);
        assert_eq!(throttle.admits(client, later), Ok(()));
        throttle.failed(client, later);
        assert_eq!(throttle.admits(client, later), Err(Duration::from_secs(10)));
        // Left alone it is full again, and no fuller.
        let rested = later + Duration::from_secs(3600);
        for _ in 0..3 {
            assert_eq!(throttle.admits(client, rested), Ok(()));
            throttle.failed(client, rested);
        }
        assert!(throttle.admits(client, rested).is_err());
    }

    #[test]
    fn guesses_in_parallel_are_paid_for_within_bounds() {
        let throttle = Throttle::new(Some(rate("3/30s")));
        let (client, start) = (ip("192.0.2.1"), Instant::now());
        for _ in 0..13 {
            throttle.failed(client, start);
        }
        assert_eq!(throttle.admits(client, start), Err(Duration::from_secs(110)));
        for _ in 0..10_000 {
            throttle.failed(client, start);
        }
        let most = Duration::from_secs(10) * (MOST_DEBT + 1);
        assert_eq!(throttle.admits(client, start), Err(most));
    }

    #[test]
    fn only_the_address_counts_and_of_ipv6_half() {
        let throttle = Throttle::new(Some(rate("1/1m")));
        let now = Instant::now();
        throttle.failed(ip("192.0.2.1"), now);
        assert!(throttle.admits(ip("192.0.2.1"), now).is_err());
        assert!(throttle.admits(ip("::ffff:192.0.2.1"), now).is_err(), "the same, as IPv6 sockets tell it");
        assert!(throttle.admits(ip("192.0.2.2"), now).is_ok());
        throttle.failed(ip("2001:db8:1:2:3::4"), now);
        assert!(throttle.admits(ip("2001:db8:1:2:ffff::1"), now).is_err());
        assert!(throttle.admits(ip("2001:db8:1:3::4"), now).is_ok());
        // No IPv4 address is the first half of an IPv6 one.
        throttle.failed(ip("::c000:203:0:0:0:1"), now);
        assert!(throttle.admits(ip("192.0.2.3"), now).is_ok());
    }

    #[test]
    fn turned_off_it_lets_everything_through() {
        let throttle = Throttle::new(None);
        let now = Instant::now();
        for _ in 0..1000 {
            throttle.failed(ip("192.0.2.1"), now);
        }
        assert_eq!((throttle.admits(ip("192.0.2.1"), now), throttle.len()), (Ok(()), 0));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let mut throttle = Throttle::new(Some(rate("10/1m")));
        throttle.capacity = 100;
        let start = Instant::now();
        let worst = ip("203.0.113.9");
        for _ in 0..20 {
            throttle.failed(worst, start);
        }
        for n in 0..10_000_u32 {
            throttle.failed(IpAddr::from(n.to_be_bytes()), start);
            assert!(throttle.len() <= 100);
        }
        assert!(throttle.admits(worst, start).is_err(), "others' failures do not wash it away");
        // What has recovered goes first.
        let later = start + Duration::from_secs(3600);
        let newer: Vec<IpAddr> = (0..52_u32).map(|n| IpAddr::from((n | 0x0b00_0000).to_be_bytes())).collect();
        for address in &newer {
            throttle.failed(*address, later);
            assert!(throttle.len() <= 100);
        }
        let all = lock(&throttle.full_at);
        assert!(newer.iter().all(|address| all.contains_key(&Origin::of(*address))));
    }

    proptest::proptest! {
        /// However failures and time follow each other, an address gets its burst and its rate, no more.
        #[test]
        fn no_more_than_the_rate_gets_through(steps in proptest::collection::vec(0_u64..20_000, 1..200)) {
            let throttle = Throttle::new(Some(rate("5/30s")));
            let (client, start) = (ip("192.0.2.1"), Instant::now());
            let (mut now, mut let_in) = (start, 0_u64);
            for step in steps {
                now += Duration::from_millis(step);
                if throttle.admits(client, now).is_ok() {
                    throttle.failed(client, now);
                    let_in += 1;
                }
                let most = 5 + (now - start).as_millis() / 6000;
                proptest::prop_assert!(u128::from(let_in) <= most, "{let_in} of {most}");
            }
        }
    }
}
