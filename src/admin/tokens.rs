//! The tokens in use, followed while the gateway runs where they come from a file: so they are rotated
//! without a restart, the new one beside the old until every client has it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::config::read_token_file;
use crate::secret::Secret;

/// The tokens in use; none for an open API.
pub type Tokens = watch::Receiver<Arc<Vec<Secret>>>;

/// Takes the tokens over each time that they change in the file. It is polled, as every mounted file is.
/// On any mistake the old ones stay, with one log line and one call of `on_mistake` for each new mistake:
/// an empty file does not open the API. Never ends.
pub async fn watch_tokens(
    path: Option<PathBuf>,
    tokens: watch::Sender<Arc<Vec<Secret>>>,
    interval: Duration,
    on_mistake: impl Fn() + Send,
) -> Infallible {
    let Some(path) = path else {
        let never = std::future::pending().await;
        // The sender lives as long as its receivers may look.
        drop(tokens);
        return never;
    };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_mistake = String::new();
    loop {
        ticks.tick().await;
        let file = path.clone();
        let read = tokio::task::spawn_blocking(move || read_token_file(&file)).await;
        match read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string()))
        {
            Ok(new) => {
                last_mistake.clear();
                if **tokens.borrow() != new {
                    tracing::info!(path = %path.display(), tokens = new.len(), "admin tokens read anew");
                    tokens.send_replace(Arc::new(new));
                }
            }
            Err(mistake) if mistake == last_mistake => {}
            Err(mistake) => {
                on_mistake();
                tracing::warn!(path = %path.display(), error = %mistake, "admin tokens not taken, the old ones stay");
                last_mistake = mistake;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const A: &str = "0123456789abcdef";
    const B: &str = "fedcba9876543210";

    #[tokio::test]
    async fn a_token_is_rotated_and_a_mistake_keeps_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, A).unwrap();
        let (tx, mut rx) = watch::channel(Arc::new(vec![Secret::from(A)]));
        let mistakes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&mistakes);
        let count = move || _ = counted.fetch_add(1, Ordering::Relaxed);
        let watcher = tokio::spawn(watch_tokens(Some(path.clone()), tx, Duration::from_millis(5), count));

        let publish = |text: String| {
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), &path).unwrap();
        };
        publish(format!("{A}\n# the new one\n{B}\n"));
        rx.changed().await.unwrap();
        assert_eq!(**rx.borrow_and_update(), [Secret::from(A), Secret::from(B)]);
        // A mistake publishes nothing: the next change that arrives is the one after it.
        publish("# all gone\n".to_owned());
        while mistakes.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        publish(B.to_owned());
        rx.changed().await.unwrap();
        assert_eq!(**rx.borrow_and_update(), [Secret::from(B)]);
        assert_eq!(mistakes.load(Ordering::Relaxed), 1, "one mistake is told once");
        watcher.abort();
    }
}
