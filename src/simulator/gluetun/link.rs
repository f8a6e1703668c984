//! The VPN of one container: whether its tunnel passes bytes, what the health server says of it, and
//! the loop that moves both along with time and faults. `dial` and `relay` ask it, `health` reads it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Container;
use super::faults::{Fault, Faults, Versioned};

/// Of the time from exec to healthy, the part after which the proxy listens (measured: 587 of
/// 824 ms).
pub(super) const LISTENS_AT: f64 = 0.70;
/// And the part after which the tunnel is set up (600 of 824 ms).
pub(super) const TUNNEL_AT: f64 = 0.73;

/// The state of a container's tunnel. The number counts the tunnels that the container has had: what
/// was opened through an older one is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// The tunnel device is not there yet.
    Absent,
    /// Bytes pass.
    Up(u64),
    /// Bytes vanish.
    Dead(u64),
}

/// What the health server says before the first check.
const NOT_RUN_YET: &str = "healthcheck did not run yet";

/// The state shared by all parts of a container.
#[derive(Debug)]
pub(super) struct Link {
    tunnel: watch::Sender<Tunnel>,
    /// The reason why the container is unhealthy, or `None`.
    unhealthy: watch::Sender<Option<String>>,
    /// The version of the faults that both follow.
    followed: watch::Sender<u64>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            tunnel: watch::channel(Tunnel::Absent).0,
            unhealthy: watch::channel(Some(NOT_RUN_YET.to_owned())).0,
            followed: watch::channel(0).0,
        }
    }
}

impl Link {
    /// The tunnel as it is now.
    pub(super) fn tunnel(&self) -> Tunnel {
        *self.tunnel.borrow()
    }

    /// For those who wait for the tunnel to change.
    pub(super) fn watch(&self) -> watch::Receiver<Tunnel> {
        self.tunnel.subscribe()
    }

    /// What the health server answers: nothing when healthy, else the reason.
    pub(super) fn unhealthy(&self) -> Option<String> {
        self.unhealthy.borrow().clone()
    }

    /// Waits until what is said here follows the faults as they are now.
    pub(super) async fn settled(&self, faults: &Faults) {
        let version = faults.version();
        // The sender is this very link's.
        let _ = self.followed.subscribe().wait_for(|followed| *followed >= version).await;
    }

    fn set_tunnel(&self, tunnel: Tunnel) {
        self.tunnel.send_if_modified(|now| std::mem::replace(now, tunnel) != tunnel);
    }
}

/// Waits until the tunnel passes bytes; false when it is another one than `opened` by then, or the
/// container is gone.
pub(super) async fn passes(tunnel: &mut watch::Receiver<Tunnel>, opened: u64) -> bool {
    tunnel.wait_for(|now| matches!(now, Tunnel::Up(_))).await.is_ok_and(|now| *now == Tunnel::Up(opened))
}

/// Waits until the tunnel that `opened` counts is replaced by another.
pub(super) async fn replaced(tunnel: &mut watch::Receiver<Tunnel>, opened: u64) {
    // An error means that the container is gone, which breaks its tunnels just as well.
    let _ = tunnel.wait_for(|now| matches!(now, Tunnel::Up(count) if *count != opened)).await;
}

/// The faults of one container, as its loop follows them.
struct Follower<'a> {
    container: &'a Container,
    hostname: &'a str,
    changes: watch::Receiver<Versioned>,
    read: u64,
}

impl Follower<'_> {
    /// The fault in force. To be acted upon before the next [`time`](Self::time).
    fn fault(&mut self) -> Fault {
        let now = self.changes.borrow_and_update();
        self.read = now.version;
        now.rules.of(&self.container.spec.pod_name, self.hostname).clone()
    }

    /// Waits for `until`, or for the faults to change; true when it is time. The fault that was read
    /// last is in force from here on.
    async fn time(&mut self, until: Option<Instant>) -> bool {
        self.container.link.followed.send_replace(self.read);
        let time = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => true,
            // The sender lives as long as the container, which holds it.
            _ = self.changes.changed() => false,
        }
    }
}

/// Runs a container's VPN from the moment its servers listen, until it is dropped.
pub(super) async fn run(container: Arc<Container>, exec: Instant, listening: Instant) -> Infallible {
    let Container { options, link, log, settings, .. } = container.as_ref();
    let Some(server) = settings.server.as_ref() else {
        log.entry("ERROR [vpn] finding a valid server connection: no server found: for VPN wireguard");
        // No fault changes that.
        link.followed.send_replace(u64::MAX);
        return std::future::pending().await;
    };
    let mut faults = Follower {
        container: &container,
        hostname: &server.hostname,
        changes: container.faults.subscribe(),
        read: 0,
    };

    // The tunnel device.
    loop {
        let now = faults.fault();
        let delay = Duration::from_millis(now.delay_ms.unwrap_or_default());
        let until = (!now.never_healthy).then_some(exec + options.start.mul_f64(TUNNEL_AT) + delay);
        if faults.time(until).await {
            break;
        }
    }
    let endpoint = server.ips.first().map_or("?", String::as_str);
    log.entry(&format!("INFO [wireguard] Connecting to {endpoint}:51820"));
    log.entry("INFO [wireguard] Wireguard setup is complete. Note Wireguard is a silent protocol and it may or may not work, without giving any error message. Typically i/o timeout errors indicate the Wireguard connection is not working.");

    // The start-up check.
    let device = Instant::now();
    let check = options.start.mul_f64(1.0 - TUNNEL_AT);
    loop {
        if faults.fault().mutes_a_start() {
            link.set_tunnel(Tunnel::Dead(1));
            if faults.time(Some(listening + options.silent_check)).await {
                fail_check(&container);
                faults.time(None).await;
            }
        } else {
            link.set_tunnel(Tunnel::Up(1));
            if faults.time(Some(device + check)).await {
                break;
            }
        }
    }
    link.unhealthy.send_replace(None);
    log.entry("INFO [healthcheck] healthy!");
    log.entry(&format!(
        "INFO [ip getter] Public IP address is {endpoint} ({}, {})",
        server.country, server.city
    ));

    // Up, until the server dies.
    let mut count = 1;
    loop {
        if !faults.fault().dead {
            faults.time(None).await;
            continue;
        }
        link.set_tunnel(Tunnel::Dead(count));
        let died = Instant::now();
        let mut noticed = false;
        loop {
            let now = faults.fault();
            if !now.dead {
                break;
            }
            let healthy_for = now.healthy_for_ms.map_or(options.dead_health, Duration::from_millis);
            let until = (!noticed).then_some(died + healthy_for);
            if faults.time(until).await {
                noticed = true;
                fail_check(&container);
            }
        }
        if noticed {
            // The VPN was restarted meanwhile, again and again: what was open is broken.
            count += 1;
            link.unhealthy.send_replace(None);
            log.entry("INFO [healthcheck] healthy!");
        }
        link.set_tunnel(Tunnel::Up(count));
    }
}

/// A failed check: the health server says why, and Gluetun restarts its VPN.
fn fail_check(container: &Container) {
    let targets = &container.settings.health_targets;
    let attempts: Vec<String> = targets
        .iter()
        .enumerate()
        .map(|(at, target)| {
            let (number, of) = (at + 1, targets.len());
            format!("parallel attempt {number}/{of} failed: dialing: dial tcp4 {target}: i/o timeout")
        })
        .collect();
    let reason = format!("startup check: all check tries failed: {}", attempts.join(", "));
    container
        .log
        .entry(&format!("WARN [vpn] restarting VPN because it failed to pass the healthcheck: {reason}"));
    container.link.unhealthy.send_replace(Some(reason));
}
