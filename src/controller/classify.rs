//! What a pod's state means: whether its exit is up, still starting, or has failed, and of what kind.
//!
//! The order is that in which a real kubelet shows failures: the container's state comes a second before
//! the pod's phase, and after a `deletionTimestamp` nothing means anything. Texts are Gluetun's and the
//! kubelet's, as measured; only the class leaves this file, since the texts hold names of the cluster,
//! and the one about the key holds characters of it.

use std::time::Duration;

use super::facts::{PodFacts, Why};
use super::observations::PodSeen;
use super::probe::Health;
use crate::session::FailureClass;
use crate::session::pod::Stage;

/// How long a pod may be unschedulable. Longer than our own pods take to go (grace 5), since one of them
/// may be what is in the way.
const UNSCHEDULABLE: Duration = Duration::from_secs(10);

/// How long a container may wait for its image or Secret after the kubelet has said that it cannot have
/// it: objects that are applied together come in any order. The kubelet tries again only after 10 s or
/// more, so waiting longer for it to heal would mean waiting much longer.
const BLOCKED: Duration = Duration::from_secs(3);

/// After how long without a container the warnings about the pod are read for the first time: a node
/// without `/dev/net/tun` shows in nothing else. A good start has its container in 0.3 s; only one that
/// pulls its image takes as long.
const FIRST_WARNING: Duration = Duration::from_secs(3);

/// How long starts may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the container's start to healthy (`START_ATTEMPT_TIMEOUT`).
    pub(super) attempt: Duration,
    /// From the pod's creation to its container's start (`START_TIMEOUT`): nobody is held longer.
    pub(super) start: Duration,
}

/// What a pod's state means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its VPN is up.
    Up,
    /// Too early to tell; look again then at the latest.
    Wait(Option<Duration>),
    /// Its log tells.
    AskLog,
    /// The warnings about it tell.
    AskWarning,
    /// It has failed.
    Failed(FailureClass),
}

/// Judges a pod. `was_ready` for one whose exit has been in use: how it ended is then of less interest
/// than that it did.
pub(super) fn judge(
    pod: &PodFacts,
    seen: &PodSeen,
    was_ready: bool,
    now: Duration,
    patience: Patience,
) -> Verdict {
    match pod.view.stage {
        Stage::Terminating => Verdict::Failed(FailureClass::Deleted),
        Stage::Ended => match (ended(pod), seen.cause) {
            (Some(class), _) => Verdict::Failed(class),
            (None, Some(cause)) => Verdict::Failed(cause.unwrap_or(FailureClass::Exited)),
            (None, None) if was_ready => Verdict::Failed(FailureClass::Exited),
            (None, None) => Verdict::AskLog,
        },
        Stage::Running if seen.is_healthy(pod) => Verdict::Up,
        Stage::Running if !was_ready && seen.probe == Some(Health::Silent) => {
            Verdict::Failed(FailureClass::TunnelSilent)
        }
        Stage::Running => {
            let end = seen.unhealthy.unwrap_or(now) + patience.attempt;
            if end <= now { Verdict::Failed(FailureClass::AttemptTimeout) } else { Verdict::Wait(Some(end)) }
        }
        Stage::Pending => pending(pod, seen, now, patience),
    }
}

fn pending(pod: &PodFacts, seen: &PodSeen, now: Duration, patience: Patience) -> Verdict {
    let end = seen.first + patience.start;
    let mut next = end;
    if let Some(since) = seen.unschedulable {
        if since + UNSCHEDULABLE <= now {
            return Verdict::Failed(FailureClass::Unschedulable);
        }
        next = next.min(since + UNSCHEDULABLE);
    }
    if let (Some(since), Some(why)) = (seen.blocked, &pod.waiting) {
        // An invalid name does not heal.
        let patience = if why.reason == "InvalidImageName" { Duration::ZERO } else { BLOCKED };
        if since + patience <= now {
            return Verdict::Failed(blocked(why));
        }
        next = next.min(since + patience);
    }
    let cause = seen.cause.flatten();
    if cause == Some(FailureClass::TunMissing) {
        return Verdict::Failed(FailureClass::TunMissing);
    }
    // Asked twice: early, for what only a warning shows; and when a container that were to come would have.
    let second = seen.first + patience.attempt.max(FIRST_WARNING);
    let ask = match seen.warned {
        None => Some(seen.first + FIRST_WARNING),
        Some(at) if at < second => Some(second),
        Some(_) => None,
    };
    match (ask, cause) {
        (Some(at), _) if at <= now && seen.blocked.is_none() && seen.unschedulable.is_none() => {
            return Verdict::AskWarning;
        }
        (Some(at), _) if at > now => next = next.min(at),
        (Some(_), _) => {}
        (None, Some(class)) => return Verdict::Failed(class),
        (None, None) => {}
    }
    if end <= now {
        return Verdict::Failed(cause.unwrap_or(FailureClass::AttemptTimeout));
    }
    Verdict::Wait(Some(next))
}

/// The class of a container that waits for what it does not get.
fn blocked(why: &Why) -> FailureClass {
    match why.reason.as_str() {
        "CreateContainerConfigError" => FailureClass::MissingSecret,
        "CreateContainerError" | "RunContainerError" => FailureClass::StartError,
        _ => FailureClass::ImagePull,
    }
}

/// The class of a pod that has ended, where its status tells; else its log may.
fn ended(pod: &PodFacts) -> Option<FailureClass> {
    // The kubelet and the controllers of nodes give the pod a reason only when they end it themselves.
    if pod.status.is_some() {
        return Some(FailureClass::Evicted);
    }
    let ended = pod.ended.as_ref()?;
    match ended.reason.as_str() {
        "OOMKilled" => Some(FailureClass::OutOfMemory),
        "StartError" | "ContainerCannotRun" => Some(FailureClass::StartError),
        "ContainerStatusUnknown" => Some(FailureClass::Evicted),
        _ => None,
    }
}

/// What the end of Gluetun's log means, and what of it may be logged. The line that tells is the last
/// error, not the last line: that is about the shutdown.
pub(super) fn from_log(text: &str) -> (Option<FailureClass>, Option<String>) {
    let Some(line) = text.lines().rev().find(|line| line.contains("ERROR")) else { return (None, None) };
    let has = |part: &str| line.contains(part);
    let key = ["private key", "preshared key", "WIREGUARD_PRIVATE_KEY", "WIREGUARD_ADDRESSES"];
    let class = if key.into_iter().any(has) {
        // Not even shortened: the text may hold characters of the key.
        return (Some(FailureClass::BadKey), None);
    } else if has("hostname specified is not valid") {
        Some(FailureClass::BadServer)
    } else if has("NET_ADMIN") || has("iptables") {
        Some(FailureClass::NoNetAdmin)
    } else if has("tun device") || has("TUN device") {
        Some(FailureClass::TunMissing)
    } else if has("environment variable") || has("settings:") {
        Some(FailureClass::BadSetting)
    } else {
        None
    };
    // The list of every hostname follows this text.
    let shown = line.split_once("value is not one of").map_or(line, |(before, _)| before);
    (class, Some(shown.chars().filter(|c| !c.is_control()).take(300).collect()))
}

/// What the newest warning about a pod without a container means.
pub(super) fn from_warning(reason: &str, message: &str) -> Option<FailureClass> {
    match reason {
        "FailedMount" if message.contains("hostPath type check failed") => Some(FailureClass::TunMissing),
        "FailedMount" if message.contains("secret") => Some(FailureClass::MissingSecret),
        "FailedMount" | "FailedAttachVolume" | "FailedCreatePodSandBox" | "NetworkNotReady" => {
            Some(FailureClass::StartError)
        }
        _ => None,
    }
}

/// The class in one sentence for clients: without names of the cluster, and with what to do.
pub(super) const fn sentence(class: FailureClass) -> &'static str {
    match class {
        FailureClass::ImagePull => "the image of the VPN pod cannot be pulled",
        FailureClass::Unschedulable => "no node of the cluster can take the VPN pod",
        FailureClass::MissingSecret => "the Secret with the VPN credentials, or one of its keys, is missing",
        FailureClass::NoNetAdmin => "the VPN pod is not granted NET_ADMIN",
        FailureClass::TunMissing => "the VPN pod has no /dev/net/tun",
        FailureClass::BadKey => "the VPN key or its addresses are malformed",
        FailureClass::BadSetting => "a setting of the VPN pod is invalid",
        FailureClass::BadServer => "the VPN pod's image does not know the server",
        FailureClass::TunnelSilent => {
            "nothing comes through the VPN tunnel: a wrong key, a wrong address or a dead server"
        }
        FailureClass::AttemptTimeout => "the VPN pod did not become healthy in time",
        FailureClass::OutOfMemory => "the VPN pod was killed for want of memory",
        FailureClass::Evicted => "the VPN pod was ended by its node",
        FailureClass::StartError => "the VPN pod's container could not be started",
        FailureClass::Exited => "the VPN program ended by itself",
        FailureClass::Deleted => "the VPN pod was deleted by someone else",
        FailureClass::PodSecurity => "the namespace's Pod Security level refuses the VPN pod",
        FailureClass::Admission => "the cluster's admission control refuses the VPN pod",
        FailureClass::NoServer => "the server list has no such server any more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::facts::Ended;
    use crate::controller::testing;
    use crate::selector::SessionKey;

    const PATIENCE: Patience = Patience { attempt: s(20), start: s(90) };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pod(stage: Stage) -> PodFacts {
        let claim = testing::claim(&SessionKey::parse_canonical("demo").unwrap(), "u1");
        testing::pod(&claim, "p1", stage)
    }

    fn waiting(reason: &str) -> PodFacts {
        let waiting = Some(Why { reason: reason.into(), message: String::new() });
        PodFacts { waiting, ..pod(Stage::Pending) }
    }

    fn ended_with(reason: &str, exit_code: i32) -> PodFacts {
        PodFacts { ended: Some(Ended { reason: reason.into(), exit_code }), ..pod(Stage::Ended) }
    }

    /// The verdict at `at` on a pod that has been as it is since 0.
    fn at(pod: &PodFacts, at: u64) -> Verdict {
        let mut seen = PodSeen::new(s(0));
        seen.update(pod, s(0));
        judge(pod, &seen, false, s(at), PATIENCE)
    }

    #[test]
    fn nothing_after_a_deletion_is_another_failure() {
        let mut pod = ended_with("OOMKilled", 137);
        pod.view.stage = Stage::Terminating;
        assert_eq!(at(&pod, 0), Verdict::Failed(FailureClass::Deleted));
    }

    #[test]
    fn a_container_that_waits_for_what_it_does_not_get() {
        for (reason, class) in [
            ("ErrImagePull", FailureClass::ImagePull),
            ("ImagePullBackOff", FailureClass::ImagePull),
            ("CreateContainerConfigError", FailureClass::MissingSecret),
            ("CreateContainerError", FailureClass::StartError),
        ] {
            assert_eq!(at(&waiting(reason), 2), Verdict::Wait(Some(s(3))), "{reason}");
            assert_eq!(at(&waiting(reason), 3), Verdict::Failed(class), "{reason}");
        }
        assert_eq!(at(&waiting("InvalidImageName"), 0), Verdict::Failed(FailureClass::ImagePull));
    }

    #[test]
    fn a_pod_that_no_node_takes() {
        let unschedulable = Some(Why { reason: "Unschedulable".into(), message: String::new() });
        let pod = PodFacts { unschedulable, ..pod(Stage::Pending) };
        assert_eq!(at(&pod, 9), Verdict::Wait(Some(s(10))));
        assert_eq!(at(&pod, 10), Verdict::Failed(FailureClass::Unschedulable));
    }

    #[test]
    fn a_container_that_does_not_come_has_its_warnings_read_twice() {
        let pod = waiting("ContainerCreating");
        let mut seen = PodSeen::new(s(0));
        let judge = |seen: &PodSeen, now| judge(&pod, seen, false, s(now), PATIENCE);
        assert_eq!(judge(&seen, 0), Verdict::Wait(Some(s(3))));
        assert_eq!(judge(&seen, 3), Verdict::AskWarning);
        (seen.warned, seen.cause) = (Some(s(3)), Some(Some(FailureClass::StartError)));
        assert_eq!(judge(&seen, 4), Verdict::Wait(Some(s(20))), "a sandbox may come at the second try");
        assert_eq!(judge(&seen, 20), Verdict::AskWarning);
        seen.warned = Some(s(20));
        assert_eq!(judge(&seen, 20), Verdict::Failed(FailureClass::StartError));
        seen.cause = Some(None);
        assert_eq!(judge(&seen, 21), Verdict::Wait(Some(s(90))), "its image is being pulled");
        assert_eq!(judge(&seen, 90), Verdict::Failed(FailureClass::AttemptTimeout));
        (seen.warned, seen.cause) = (Some(s(3)), Some(Some(FailureClass::TunMissing)));
        assert_eq!(judge(&seen, 4), Verdict::Failed(FailureClass::TunMissing));
    }

    #[test]
    fn a_running_container_has_the_attempts_time_to_become_healthy() {
        let mut pod = pod(Stage::Running);
        assert_eq!(at(&pod, 19), Verdict::Wait(Some(s(20))));
        assert_eq!(at(&pod, 20), Verdict::Failed(FailureClass::AttemptTimeout));
        pod.view.ready = true;
        assert_eq!(at(&pod, 99), Verdict::Up);
    }

    #[test]
    fn a_silent_tunnel_is_known_before_the_attempts_time_is_over() {
        let pod = pod(Stage::Running);
        let mut seen = PodSeen::new(s(0));
        seen.update(&pod, s(0));
        seen.probe = Some(Health::Silent);
        let failed = Verdict::Failed(FailureClass::TunnelSilent);
        assert_eq!(judge(&pod, &seen, false, s(6), PATIENCE), failed);
        // Gluetun restarts the VPN of an exit that has been up: that may work.
        assert_eq!(judge(&pod, &seen, true, s(6), PATIENCE), Verdict::Wait(Some(s(20))));
        seen.probe = Some(Health::Up);
        assert_eq!(judge(&pod, &seen, false, s(6), PATIENCE), Verdict::Up);
    }

    #[test]
    fn how_a_container_ended() {
        assert_eq!(at(&ended_with("OOMKilled", 137), 0), Verdict::Failed(FailureClass::OutOfMemory));
        assert_eq!(at(&ended_with("StartError", 128), 0), Verdict::Failed(FailureClass::StartError));
        let evicted = Some(Why { reason: "Evicted".into(), message: String::new() });
        let pod = PodFacts { status: evicted, ..ended_with("Error", 137) };
        assert_eq!(at(&pod, 0), Verdict::Failed(FailureClass::Evicted));

        let pod = ended_with("Error", 1);
        assert_eq!(at(&pod, 0), Verdict::AskLog);
        let mut seen = PodSeen::new(s(0));
        assert_eq!(judge(&pod, &seen, true, s(0), PATIENCE), Verdict::Failed(FailureClass::Exited));
        seen.cause = Some(Some(FailureClass::BadKey));
        assert_eq!(judge(&pod, &seen, false, s(0), PATIENCE), Verdict::Failed(FailureClass::BadKey));
        seen.cause = Some(None);
        assert_eq!(judge(&pod, &seen, false, s(0), PATIENCE), Verdict::Failed(FailureClass::Exited));
    }

    #[test]
    fn gluetuns_last_error_tells_the_class() {
        let class = |line: &str| {
            from_log(&format!("INFO up\n2026-11-22T10:00:00Z ERROR {line}\nINFO Shutdown successful\n")).0
        };
        for (line, expected) in [
            ("VPN settings: Wireguard settings: private key is not valid: x", FailureClass::BadKey),
            ("reading VPN settings: environment variable WIREGUARD_ADDRESSES: x", FailureClass::BadKey),
            ("VPN settings: the hostname specified is not valid: x", FailureClass::BadServer),
            ("reading firewall settings: environment variable NAME: x", FailureClass::BadSetting),
            ("NET_ADMIN capability is missing: iptables-legacy: x", FailureClass::NoNetAdmin),
            ("no iptables supported found", FailureClass::NoNetAdmin),
            ("creating tun device: x", FailureClass::TunMissing),
            ("unix opening TUN device file: permission denied", FailureClass::TunMissing),
        ] {
            assert_eq!(class(line), Some(expected), "{line}");
        }
        assert_eq!(class("something new"), None);
        assert_eq!(from_log("INFO nothing\n"), (None, None));
    }

    #[test]
    fn neither_the_key_nor_every_hostname_reaches_the_log() {
        let (_, shown) = from_log("ERROR private key is not valid: wireguard key qLd+x");
        assert_eq!(shown, None);
        let long = format!(
            "ERROR VPN settings: the hostname specified is not valid: value is not one of the possible \
             choices: none of x is one of {}",
            "se-got-wg-001, ".repeat(1000)
        );
        let (class, shown) = from_log(&long);
        assert_eq!(class, Some(FailureClass::BadServer));
        assert_eq!(shown.unwrap(), "ERROR VPN settings: the hostname specified is not valid: ");
        assert!(from_log(&format!("ERROR {}", "x".repeat(1000))).1.unwrap().len() <= 300);
    }

    #[test]
    fn warnings() {
        let missing = "MountVolume.SetUp failed for volume \"tun\": hostPath type check failed: /dev/net/tun is \
                       not a character device";
        assert_eq!(from_warning("FailedMount", missing), Some(FailureClass::TunMissing));
        assert_eq!(from_warning("FailedCreatePodSandBox", "x"), Some(FailureClass::StartError));
        assert_eq!(from_warning("Unhealthy", "Readiness probe failed"), None);
    }

    #[test]
    fn every_class_has_a_sentence_without_names() {
        for class in FailureClass::ALL {
            assert!(sentence(class).len() > 20);
            assert!(!sentence(class).contains("gluetun-"));
        }
    }
}
