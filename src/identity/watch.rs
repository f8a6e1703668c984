//! The users file, followed while the gateway runs.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Authenticator;
use super::users::{self, MAX_FILE, Users};

/// Takes over the users file each time that its content changes. It is polled: a mounted Secret or
/// ConfigMap changes by swapping a symlink two levels up, which a watch on the file does not survive. On
/// any mistake the old accounts stay, with one log line and one call of `on_mistake` for each new state
/// of the file. Never ends.
pub async fn watch_users(
    path: PathBuf,
    authenticator: Authenticator,
    interval: Duration,
    on_mistake: impl Fn() + Send,
) -> Infallible {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_mistake = String::new();
    loop {
        ticks.tick().await;
        let (file, current) = (path.clone(), authenticator.fingerprint());
        let read = tokio::task::spawn_blocking(move || reload(&file, &current));
        match read.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(None) => last_mistake.clear(),
            Ok(Some(users)) => {
                last_mistake.clear();
                let accounts = users.len();
                authenticator.replace(users);
                tracing::info!(path = %path.display(), accounts, "users file read anew");
            }
            Err(mistake) if mistake == last_mistake => {}
            Err(mistake) => {
                on_mistake();
                tracing::warn!(path = %path.display(), error = %mistake, "users file not taken, the old accounts stay");
                last_mistake = mistake;
            }
        }
    }
}

/// The file's accounts, if its content is another than the current one's.
fn reload(path: &Path, current: &[u8; 32]) -> Result<Option<Users>, String> {
    let text = read(path).map_err(|error| format!("cannot read it: {error}"))?;
    if users::fingerprint(&text) == *current {
        return Ok(None);
    }
    let mistakes = match Users::parse(&text) {
        Ok(users) => return Ok(Some(users)),
        Err(mistakes) => mistakes,
    };
    let told: Vec<_> = mistakes.iter().take(5).map(ToString::to_string).collect();
    let more = match mistakes.len() - told.len() {
        0 => String::new(),
        more => format!("; and {more} more (`gluetun-gateway check` names them all)"),
    };
    Err(told.join("; ") + &more)
}

/// Reads no more than the largest users file and one byte, by which too large a one is noticed.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use base64::Engine as _;

    use super::*;
    use crate::identity::AuthError;

    fn line(name: &str, password: &str) -> String {
        format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())
    }

    fn header(pair: &str) -> Vec<u8> {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)).into_bytes()
    }

    #[test]
    fn reload_tells_unchanged_changed_and_wrong_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let text = line("demo", "demo");
        std::fs::write(&path, &text).unwrap();
        assert!(reload(&path, &users::fingerprint(&text)).unwrap().is_none());
        assert_eq!(reload(&path, &[0; 32]).unwrap().unwrap().len(), 1);
        std::fs::write(&path, "x\n".repeat(7)).unwrap();
        let error = reload(&path, &[0; 32]).unwrap_err();
        assert!(error.contains("line 5: ") && error.contains("and 2 more"), "{error}");
        std::fs::write(&path, "#".repeat(MAX_FILE + 5)).unwrap();
        assert!(reload(&path, &[0; 32]).unwrap_err().contains("1 MiB"));
        std::fs::remove_file(&path).unwrap();
        assert!(reload(&path, &[0; 32]).unwrap_err().contains("cannot read"));
    }

    #[tokio::test]
    async fn a_secrets_swap_changes_who_may_and_a_mistake_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let publish = |version: &str, text: &str| {
            std::fs::create_dir(dir.path().join(version)).unwrap();
            std::fs::write(dir.path().join(version).join("users"), text).unwrap();
            let new = dir.path().join("..data_tmp");
            std::os::unix::fs::symlink(version, &new).unwrap();
            std::fs::rename(new, dir.path().join("..data")).unwrap();
        };
        let first = line("demo", "old");
        publish("1", &first);
        let path = dir.path().join("users");
        std::os::unix::fs::symlink("..data/users", &path).unwrap();
        let auth = Authenticator::new(Users::parse(&first).unwrap()).unwrap();
        assert_eq!(auth.authenticate(&header("demo:old")).await.unwrap().account.as_str(), "demo");
        let mistakes = Arc::new(AtomicUsize::new(0));
        let watcher = tokio::spawn(watch_users(path, auth.clone(), Duration::from_millis(5), {
            let mistakes = Arc::clone(&mistakes);
            move || _ = mistakes.fetch_add(1, Ordering::Relaxed)
        }));

        let until = async |text: &str| {
            while auth.fingerprint() != users::fingerprint(text) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        publish("2", "demo:plain");
        while mistakes.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let third = line("demo", "new") + &line("anna", "x");
        publish("3", &third);
        until(&third).await;
        assert_eq!(auth.cached(&header("demo:old")), None);
        assert_eq!(auth.authenticate(&header("demo:old")).await, Err(AuthError::Refused));
        assert!(auth.authenticate(&header("demo:new")).await.is_ok());
        assert!(auth.authenticate(&header("anna:x")).await.is_ok());
        assert_eq!(mistakes.load(Ordering::Relaxed), 1, "one mistake is told once");
        watcher.abort();
    }
}
