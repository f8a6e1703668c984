//! How long a broken watch rests before it is tried again: for the watches of the session table and of
//! the controller alike.

use std::time::Duration;

use kube::runtime::utils::Backoff;

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
