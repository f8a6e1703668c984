//! Where a server list comes from: a text, or a file that may change.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::origin::{Origin, SourceKind};
use super::{Catalogue, CatalogueError};

/// Largest list that is read. Gluetun's whole file, of all providers, has some 20 MiB.
const MAX_LIST: u64 = 64 << 20;

/// Where the list is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The text itself (`SERVERS_JSON`).
    Text(String),
    /// A file (`SERVERS_FILE_PATH`).
    File(PathBuf),
}

/// Why there is no catalogue.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the server list {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The text is not a list.
    #[error(transparent)]
    List(#[from] CatalogueError),
}

/// Reads a list, wherever it is.
///
/// # Errors
/// When the file cannot be read (or is larger than 64 MiB), or is not a usable list.
pub fn load(source: &Source) -> Result<Catalogue, LoadError> {
    match source {
        Source::Text(text) => Ok(Catalogue::parse(text)?.from_origin(Origin::now(SourceKind::Variable))),
        Source::File(path) => Ok(file(&read(path)?)?),
    }
}

fn file(text: &str) -> Result<Catalogue, CatalogueError> {
    Ok(Catalogue::parse(text)?.from_origin(Origin::now(SourceKind::File)))
}

fn read(path: &Path) -> Result<String, LoadError> {
    let read = || {
        let mut text = String::new();
        let length = File::open(path)?.take(MAX_LIST + 1).read_to_string(&mut text)?;
        if length as u64 > MAX_LIST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 64 MiB"));
        }
        Ok(text)
    };
    read().map_err(|error| LoadError::Io { path: path.to_owned(), error })
}

/// Publishes a new catalogue each time that the file's content changes. It is polled: a mounted
/// ConfigMap changes by swapping a symlink two levels up, which a watch on the file does not survive. On
/// any mistake the old catalogue stays, with one log line and one call of `on_mistake` for each new mistake.
pub(super) async fn watch_file(
    path: PathBuf,
    tx: watch::Sender<Arc<Catalogue>>,
    interval: Duration,
    on_mistake: impl Fn() + Send,
) -> Infallible {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_mistake = String::new();
    loop {
        ticks.tick().await;
        let current = *tx.borrow().fingerprint();
        // Off the runtime: a list of many megabytes takes its time to parse.
        let file = path.clone();
        let read = tokio::task::spawn_blocking(move || reload(&file, &current));
        let outcome = match read.await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok(None) => last_mistake.clear(),
            Ok(Some(catalogue)) => {
                last_mistake.clear();
                tracing::info!(
                    path = %path.display(),
                    servers = catalogue.len(),
                    skipped = catalogue.skipped(),
                    "server list read anew"
                );
                tx.send_replace(Arc::new(catalogue));
            }
            Err(mistake) => {
                if mistake != last_mistake {
                    on_mistake();
                    tracing::warn!(path = %path.display(), error = %mistake, "server list not taken, the old one stays");
                    last_mistake = mistake;
                }
            }
        }
    }
}

/// Reads the file again, publishes its list if it has changed, and says which one is in use.
pub(super) async fn read_again(
    path: &Path,
    published: &watch::Sender<Arc<Catalogue>>,
) -> Result<Arc<Catalogue>, String> {
    let current = *published.borrow().fingerprint();
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || reload(&path, &current)).await;
    match read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())? {
        Some(catalogue) => {
            let catalogue = Arc::new(catalogue);
            published.send_replace(Arc::clone(&catalogue));
            Ok(catalogue)
        }
        None => Ok(Arc::clone(&published.borrow())),
    }
}

/// The file's catalogue, if its content is another than the current one's.
fn reload(path: &Path, current: &[u8; 32]) -> Result<Option<Catalogue>, LoadError> {
    let text = read(path)?;
    if <[u8; 32]>::from(Sha256::digest(&text)) == *current {
        return Ok(None);
    }
    Ok(Some(file(&text)?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ONE: &str = r#"[{"vpn":"wireguard","country":"Sweden","hostname":"se-1"}]"#;
    const TWO: &str = r#"[{"vpn":"wireguard","country":"Sweden","hostname":"se-1"},{"vpn":"wireguard","country":"Sweden","hostname":"se-2"}]"#;

    #[test]
    fn loads_from_text_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("servers.json");
        assert_eq!(load(&Source::Text(ONE.to_owned())).unwrap().len(), 1);
        let missing = load(&Source::File(path.clone())).unwrap_err().to_string();
        assert!(missing.contains("servers.json"), "{missing}");
        std::fs::write(&path, TWO).unwrap();
        assert_eq!(load(&Source::File(path.clone())).unwrap().len(), 2);
        std::fs::write(&path, b"\xff").unwrap();
        assert!(matches!(load(&Source::File(path)), Err(LoadError::Io { .. })));
        assert!(matches!(load(&Source::Text("[]".to_owned())), Err(LoadError::List(CatalogueError::Empty))));
    }

    /// As the kubelet does it: `servers.json` -> `..data/servers.json`, `..data` -> a directory, swapped
    /// by a rename.
    #[tokio::test]
    async fn follows_a_config_maps_swap_and_keeps_the_old_on_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let publish = |version: &str, text: &str| {
            std::fs::create_dir(dir.path().join(version)).unwrap();
            std::fs::write(dir.path().join(version).join("servers.json"), text).unwrap();
            let new = dir.path().join("..data_tmp");
            std::os::unix::fs::symlink(version, &new).unwrap();
            std::fs::rename(new, dir.path().join("..data")).unwrap();
        };
        publish("1", ONE);
        let path = dir.path().join("servers.json");
        std::os::unix::fs::symlink("..data/servers.json", &path).unwrap();
        let first = load(&Source::File(path.clone())).unwrap();
        let (tx, mut rx) = watch::channel(Arc::new(first));
        let mistakes = Arc::new(AtomicUsize::new(0));
        let watcher = tokio::spawn(watch_file(path, tx, Duration::from_millis(5), {
            let mistakes = Arc::clone(&mistakes);
            move || _ = mistakes.fetch_add(1, Ordering::Relaxed)
        }));

        publish("2", TWO);
        rx.changed().await.unwrap();
        assert_eq!(rx.borrow_and_update().len(), 2);
        // A mistake publishes nothing: the next change that arrives is the one after it.
        publish("3", "[]");
        while mistakes.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        publish("4", ONE);
        rx.changed().await.unwrap();
        assert_eq!(rx.borrow_and_update().len(), 1);
        assert_eq!(mistakes.load(Ordering::Relaxed), 1, "one mistake is told once");
        watcher.abort();
    }

    #[test]
    fn reload_tells_unchanged_changed_and_wrong_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("servers.json");
        std::fs::write(&path, ONE).unwrap();
        let current = *Catalogue::parse(ONE).unwrap().fingerprint();
        assert!(reload(&path, &current).unwrap().is_none());
        assert_eq!(reload(&path, &[0; 32]).unwrap().unwrap().len(), 1);
        std::fs::write(&path, "{}").unwrap();
        assert!(reload(&path, &current).is_err());
    }
}
