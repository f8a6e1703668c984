//! For tests of time limits on real sockets. A paused clock runs on to the next timer whenever nothing is
//! ready, and what one socket has sent may take the system a moment to bring to the other: [`hold`] keeps
//! the clock where it is meanwhile.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// For how long a test may hold the clock, in real time: one that waits in vain is to fail, not to hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Holds the paused clock of this runtime, which must be a current-thread one, until the answer is dropped:
/// only `tokio::time::advance` moves it. A test's runtime never runs ahead of its blocking tasks.
pub(crate) fn hold() -> Sender<()> {
    let (held, until) = channel();
    // Ends by an error either way.
    drop(tokio::task::spawn_blocking(move || until.recv_timeout(PATIENCE).is_ok()));
    held
}
