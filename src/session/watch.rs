//! How long a watch lives, how long its server may be silent, and how long a broken one rests before it is
//! tried again: for the watches of the session table and of the controller alike.

use std::time::Duration;

use kube::runtime::utils::Backoff;

/// How long the API server keeps a watch open. Load balancers in front of API servers drop connections
/// that are idle for 240 s without a word; a bookmark comes each minute only from a busy server.
pub(crate) const WATCH_SECONDS: u32 = 120;

/// How long the API server may say nothing while an answer is due. kube limits only the silence of a watch
/// that is open, at [`WATCH_SECONDS`] and 5 s: a list, or the opening of a watch, that is never answered
/// would hang for good. Above that limit, since a watch on which nothing happens is silent until the server
/// ends it.
pub(crate) const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 30);

/// The first pause, doubled each time.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause. kube's own grow to 30 s: a request that is held while its exit has long been ready,
/// and a leader whose plan waits for a list, cannot wait that long once the API server is back. A try a
/// second of a few replicas costs it nothing.
const LONGEST: Duration = Duration::from_secs(1);

/// Pauses between two tries to watch.
#[derive(Debug, Default)]
pub(crate) struct Pauses(u32);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = FIRST.saturating_mul(2_u32.saturating_pow(self.0));
        self.0 = self.0.saturating_add(1);
        Some(pause.min(LONGEST))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_start_anew() {
        let mut pauses = Pauses::default();
        let millis: Vec<u128> = pauses.by_ref().take(6).map(|pause| pause.as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1000, 1000]);
        pauses.reset();
        assert_eq!(pauses.next(), Some(FIRST));
    }
}
