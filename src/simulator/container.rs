//! What the simulator's kubelet and the programs that it runs know of each other: a container's
//! inputs, where its log goes, and how it ends. Used by `kubelet` (which starts containers) and by
//! `gluetun` (the built-in look-alike that a container is by default).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Everything a container is started with, its environment already resolved from Secrets and
/// ConfigMaps.
#[derive(Clone)]
pub struct ContainerSpec {
    /// Name of the pod that the container belongs to.
    pub pod_name: String,
    /// The pod's own address: what `:8888` in an environment variable listens on.
    pub pod_ip: IpAddr,
    /// Image reference, as the pod's spec has it.
    pub image: String,
    /// `command` of the container followed by its `args`; empty for the image's own entrypoint.
    pub argv: Vec<String>,
    /// Environment, in order, later entries winning.
    pub env: Vec<(String, String)>,
}

/// Without the values of its environment: some of them are credentials.
impl std::fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ContainerSpec")
            .field("pod_name", &self.pod_name)
            .field("pod_ip", &self.pod_ip)
            .field("image", &self.image)
            .field("argv", &self.argv)
            .field("env", &names)
            .finish()
    }
}

impl ContainerSpec {
    /// The value of an environment variable.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// How a container ended, as `state.terminated` of its status tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 137 for one that was killed.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: &'static str,
    /// Text of the runtime, where it has one.
    pub message: Option<String>,
}

impl Exit {
    /// A process that ended by itself with `code`.
    pub fn code(code: i32) -> Self {
        Self { code, reason: if code == 0 { "Completed" } else { "Error" }, message: None }
    }
}

/// Asks a running container to end: `term` is SIGTERM, `kill` is SIGKILL.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Cancelled when the pod is deleted.
    pub term: CancellationToken,
    /// Cancelled when the grace period is over, or to make a container vanish at once.
    pub kill: CancellationToken,
}

/// Lines of a container's log that are kept: `format-servers` writes a dozen a server, for up to ten
/// thousand servers.
const LOG_LINES: usize = 200_000;

/// A container's log: written line by line, read whole, followed by those who wait for more.
#[derive(Clone, Debug)]
pub struct Log {
    kept: Arc<Mutex<Kept>>,
    written: Arc<watch::Sender<u64>>,
}

/// The newest lines, and how many older ones have been dropped.
#[derive(Debug, Default)]
struct Kept {
    dropped: u64,
    lines: VecDeque<String>,
}

impl Default for Log {
    fn default() -> Self {
        Self { kept: Arc::default(), written: Arc::new(watch::channel(0).0) }
    }
}

impl Log {
    /// Appends a line (without its newline). The oldest goes when the log is full.
    pub fn line(&self, line: impl Into<String>) {
        let mut kept = self.kept();
        if kept.lines.len() == LOG_LINES {
            kept.lines.pop_front();
            kept.dropped += 1;
        }
        kept.lines.push_back(line.into());
        drop(kept);
        self.written.send_modify(|n| *n += 1);
    }

    /// All lines that are kept.
    pub fn lines(&self) -> Vec<String> {
        self.since(0).0
    }

    /// The lines from number `position` on (0 is the first ever written) as far as they are kept,
    /// and the position after the last of them: what to ask for next.
    pub fn since(&self, position: u64) -> (Vec<String>, u64) {
        let kept = self.kept();
        let end = kept.dropped + kept.lines.len() as u64;
        let skip = usize::try_from(position.saturating_sub(kept.dropped)).unwrap_or(usize::MAX);
        (kept.lines.iter().skip(skip).cloned().collect(), end)
    }

    /// A counter that changes with each line written, for those who follow.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_misses_no_line_and_a_full_log_drops_the_oldest() {
        let log = Log::default();
        log.line("a");
        let (lines, next) = log.since(0);
        assert_eq!((lines, next), (vec!["a".to_owned()], 1));
        assert_eq!(log.since(next), (vec![], 1));
        for n in 0..LOG_LINES {
            log.line(n.to_string());
        }
        let (lines, next) = log.since(next);
        assert_eq!((lines.len(), lines[0].as_str(), next), (LOG_LINES, "0", LOG_LINES as u64 + 1));
        assert_eq!(log.since(0).0.len(), LOG_LINES);
    }
}
