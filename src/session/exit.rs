//! An exit as the data path sees it: where its proxy listens, what to present there, and where it
//! leaves from. Made by the session table from a pod, used by the proxy; the two share nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use crate::secret::Secret;
use crate::selector::SessionKey;

/// Bytes of one claim through this replica, whichever of its exits they went through: what was relayed so
/// far, tunnels that are open included.
#[derive(Debug, Default)]
pub struct Traffic {
    up: AtomicU64,
    down: AtomicU64,
}

impl Traffic {
    /// Counts bytes towards the exit.
    pub fn add_up(&self, bytes: u64) {
        self.up.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes towards clients.
    pub fn add_down(&self, bytes: u64) {
        self.down.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes towards the exit and towards clients.
    pub fn get(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// A VPN pod that bytes can leave from.
#[derive(Debug)]
#[repr(C)]
pub struct Exit {
    /// Requests and tunnels of this replica that use it now. First, beside the count of those who hold this:
    /// every request writes both.
    pub(super) active: AtomicUsize,
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Uid of the pod: a pod of the same name made later is another exit.
    pub uid: Arc<str>,
    /// The session that it serves.
    pub(super) key: SessionKey,
    /// Uid of the claim that it serves.
    pub(super) claim_uid: Arc<str>,
    /// Which exit of the claim it is.
    pub(super) transition: i32,
    /// Where its HTTP proxy listens.
    pub proxy_addr: SocketAddr,
    /// Where its health server listens.
    pub health_addr: SocketAddr,
    /// User of its own credentials, by which they are found.
    pub(super) user: Arc<str>,
    /// The whole value of `Proxy-Authorization` for its proxy (`Basic …`).
    pub authorization: Secret,
    /// Hostname of the VPN server.
    pub server: Arc<str>,
    /// The country's name, as the provider spells it.
    pub country: Arc<str>,
    /// The city's name, as the provider spells it; empty where it has none.
    pub city: Arc<str>,
    /// Cancelled when the pod is gone or was destroyed: its tunnels end with it, since a vanished pod
    /// sends no reset.
    pub gone: CancellationToken,
    /// Cancelled when it was found, here or by another replica, to pass nothing on: requests that wait for
    /// its answer go elsewhere, its tunnels stay.
    pub dead: CancellationToken,
    /// Where the bytes through it are counted.
    pub traffic: Arc<Traffic>,
    /// Whether its proxy has ever reached its own check address: without that, a later silence proves
    /// nothing.
    pub reached_check: AtomicBool,
}

impl Exit {
    /// Requests and tunnels of this replica that use it now.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// An exit of no pod, for tests of the data path.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) fn at(proxy_addr: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            pod: Arc::from("gluetun-test"),
            uid: Arc::from(format!("uid-{proxy_addr}")),
            key: SessionKey::parse_canonical("demo-country-se").unwrap(),
            user: Arc::from("pod"),
            claim_uid: Arc::from("claim-uid"),
            transition: 0,
            proxy_addr,
            health_addr: proxy_addr,
            authorization: Secret::from("Basic cG9kOnNlc2FtZQ=="),
            server: Arc::from("se-sto-wg-001"),
            country: Arc::from("Sweden"),
            city: Arc::from("Stockholm"),
            gone: CancellationToken::new(),
            dead: CancellationToken::new(),
            active: AtomicUsize::new(0),
            traffic: Arc::default(),
            reached_check: AtomicBool::new(false),
        })
    }
}
