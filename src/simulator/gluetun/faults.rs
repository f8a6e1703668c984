//! What goes wrong in look-alikes: set by tests and by the simulator's fault route, read by the VPN
//! loop of each container. A change takes effect at once in containers that run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One way for a container to misbehave. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// The VPN server does not answer. A running exit is then dead: its health goes on saying 200
    /// for `healthy_for_ms`, CONNECTs hang, open tunnels stall. A container that starts meanwhile
    /// has a silent tunnel. Taking this away revives both.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dead: bool,
    /// How long a dead exit still calls itself healthy, in milliseconds; without it
    /// [`Options::dead_health`](super::Options::dead_health).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_for_ms: Option<u64>,
    /// A container that starts never gets an answer through its tunnel, as with a key that the
    /// provider does not know. Exits that are up already are not touched.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
    /// A container that starts listens, and never gets as far as its first health check.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub never_healthy: bool,
    /// A container that starts takes so much longer between listening and its tunnel, in
    /// milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// A container that starts logs this as its ` ERROR ` line and exits with code 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crash: Option<String>,
    /// What `format-servers` does instead of printing the image's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<ListFault>,
}

/// What `format-servers` does instead of printing the image's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ListFault {
    /// It never ends by itself.
    Hang,
    /// It prints this and ends.
    Print {
        /// The text, line by line.
        text: String,
        /// The exit code.
        #[serde(default)]
        code: i32,
    },
}

impl Fault {
    /// A VPN server that does not answer.
    pub fn dead() -> Self {
        Self { dead: true, ..Self::default() }
    }

    /// Whether a tunnel that is being set up gets no answer.
    pub(super) fn mutes_a_start(&self) -> bool {
        self.dead || self.silent
    }
}

/// The faults of all containers. `only` is keyed by a server's hostname or a pod's name and replaces
/// `all` for it; a pod's name goes before its server's.
///
/// As JSON, for example: `{"all":{"delay_ms":5000},"only":{"se-mma-wg-001":{"dead":true}}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultRules {
    /// What happens to every container that `only` does not name.
    pub all: Fault,
    /// What happens to the containers of one server or pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub only: BTreeMap<String, Fault>,
}

impl FaultRules {
    /// The fault of one container.
    pub fn of(&self, pod_name: &str, hostname: &str) -> &Fault {
        self.only.get(pod_name).or_else(|| self.only.get(hostname)).unwrap_or(&self.all)
    }
}

/// The faults in force, shared by all containers of a [`Gluetun`](super::Gluetun). A CONNECT or a
/// health check that begins after a change is answered by the new rules; tunnels that are open follow
/// a moment later.
#[derive(Debug)]
pub struct Faults {
    rules: watch::Sender<Versioned>,
}

/// Rules, and how often they have changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Versioned {
    pub(super) version: u64,
    pub(super) rules: FaultRules,
}

impl Default for Faults {
    fn default() -> Self {
        Self { rules: watch::channel(Versioned::default()).0 }
    }
}

impl Faults {
    /// The rules in force.
    pub fn get(&self) -> FaultRules {
        self.rules.borrow().rules.clone()
    }

    /// Replaces all rules.
    pub fn set(&self, rules: FaultRules) {
        self.change(|now| *now = rules);
    }

    /// Sets the fault of one server's hostname or one pod's name.
    pub fn set_for(&self, name: &str, fault: Fault) {
        self.change(|rules| {
            rules.only.insert(name.to_owned(), fault);
        });
    }

    /// Takes the fault of one server's hostname or pod's name away.
    pub fn clear_for(&self, name: &str) {
        self.change(|rules| {
            rules.only.remove(name);
        });
    }

    /// Takes every fault away.
    pub fn clear(&self) {
        self.set(FaultRules::default());
    }

    fn change(&self, change: impl FnOnce(&mut FaultRules)) {
        self.rules.send_modify(|now| {
            now.version += 1;
            change(&mut now.rules);
        });
    }

    /// How often the rules have changed.
    pub(super) fn version(&self) -> u64 {
        self.rules.borrow().version
    }

    /// For a container's VPN loop.
    pub(super) fn subscribe(&self) -> watch::Receiver<Versioned> {
        self.rules.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_goes_before_its_server_and_both_before_all() {
        let faults = Faults::default();
        faults.set(FaultRules { all: Fault::dead(), only: BTreeMap::new() });
        assert!(faults.get().of("pod", "server").dead);
        faults.set_for("server", Fault { silent: true, ..Fault::default() });
        assert_eq!(
            (faults.get().of("pod", "server").dead, faults.get().of("pod", "other").dead),
            (false, true)
        );
        faults.set_for("pod", Fault { delay_ms: Some(3), ..Fault::default() });
        assert_eq!(faults.get().of("pod", "server").delay_ms, Some(3));
        faults.clear_for("pod");
        assert!(faults.get().of("pod", "server").silent);
        faults.clear();
        assert_eq!(*faults.get().of("pod", "server"), Fault::default());
    }

    #[test]
    fn rules_have_a_json_form_that_refuses_what_it_does_not_know() {
        let text = r#"{"all":{"delay_ms":5000},"only":{"se-mma-wg-001":{"dead":true,"healthy_for_ms":7}}}"#;
        let rules: FaultRules = serde_json::from_str(text).unwrap();
        assert_eq!(rules.of("p", "se-mma-wg-001").healthy_for_ms, Some(7));
        assert_eq!(serde_json::to_string(&rules).unwrap(), text);
        assert!(serde_json::from_str::<FaultRules>(r#"{"all":{"ded":true}}"#).is_err());
        for (text, list) in [
            (r#"{"list":"hang"}"#, ListFault::Hang),
            (r#"{"list":{"print":{"text":"[]"}}}"#, ListFault::Print { text: "[]".into(), code: 0 }),
        ] {
            assert_eq!(serde_json::from_str::<Fault>(text).unwrap().list, Some(list));
        }
    }
}
