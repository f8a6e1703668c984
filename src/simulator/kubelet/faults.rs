//! Faults that tests and the curious inject into pods: rules that pods run into when they get that
//! far, and blows that strike running pods at once. Asked by the scheduler, the pod workers and their
//! probes. Rules and blows are JSON too: `super::super::control` takes them over HTTP.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Which pods a rule or a blow is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pods {
    /// Every pod.
    #[default]
    Any,
    /// The pod of this name.
    Named(String),
    /// Pods whose `SERVER_HOSTNAMES` is this server.
    Server(String),
}

/// What goes wrong with a pod. A pod that has run into one keeps it until its rule is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// No node takes it: `PodScheduled=False`, reason `Unschedulable`.
    Unschedulable {
        /// The scheduler's text; a shortage of CPU by default.
        #[serde(default)]
        message: Option<String>,
    },
    /// Its image cannot be pulled: `ErrImagePull` and `ImagePullBackOff` in turn.
    ImagePull {
        /// The runtime's text; "not found" by default.
        #[serde(default)]
        message: Option<String>,
    },
    /// Its volume cannot be mounted: `ContainerCreating`, and the event `FailedMount` again and again.
    FailedMount {
        /// The event's text; the missing `/dev/net/tun` by default.
        #[serde(default)]
        message: Option<String>,
    },
    /// Its sandbox cannot be made: `ContainerCreating`, and the event `FailedCreatePodSandBox`.
    FailedSandbox {
        /// The event's text; a network plugin's failure by default.
        #[serde(default)]
        message: Option<String>,
    },
    /// Its container runs out of memory: `OOMKilled`, exit code 137.
    OutOfMemory {
        /// Milliseconds after the container's start; at once by default.
        #[serde(default)]
        after_ms: u64,
    },
    /// Its container ends by itself.
    Exit {
        /// The exit code.
        code: i32,
        /// Lines that it writes before.
        #[serde(default)]
        log: Vec<String>,
        /// Milliseconds after the container's start; at once, without ever running, by default.
        #[serde(default)]
        after_ms: u64,
    },
    /// Neither SIGTERM nor SIGKILL does anything to it: a deletion never ends while the rule stands.
    StuckTerminating,
    /// Its readiness probe fails, whatever the container answers.
    NeverReady,
    /// It takes longer until its container starts.
    SlowStart {
        /// How many milliseconds longer.
        delay_ms: u64,
    },
}

/// A fault, for whom, and for how many of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Which pods run into it.
    #[serde(default)]
    pub pods: Pods,
    /// How many pods, the first that come; all by default.
    #[serde(default)]
    pub times: Option<u32>,
    /// What goes wrong.
    #[serde(flatten)]
    pub fault: Fault,
}

/// What happens at once to pods that are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "blow", rename_all = "snake_case")]
pub enum Blow {
    /// The container is killed: exit code 137.
    Kill,
    /// The container is killed for its memory: `OOMKilled`, exit code 137.
    OutOfMemory,
    /// The container ends by itself.
    Exit {
        /// The exit code.
        code: i32,
        /// Lines that it writes before.
        #[serde(default)]
        log: Vec<String>,
    },
    /// The pod is evicted: phase `Failed`, reason `Evicted`.
    Evict {
        /// The kubelet's text; a shortage of memory by default.
        #[serde(default)]
        message: Option<String>,
    },
    /// The pod's node is lost: the container is no more, and its status stays as it is, also when the
    /// pod is deleted.
    Lose,
    /// The node of lost pods comes back: their containers are found missing, and they fail.
    Recover,
}

/// What rules need to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) server: Option<String>,
}

impl Subject {
    pub(super) fn of(pod: &Pod) -> Self {
        let env = pod.spec.iter().flat_map(|spec| &spec.containers).next().and_then(|c| c.env.as_ref());
        let server = env.into_iter().flatten().rev().find(|var| var.name == "SERVER_HOSTNAMES");
        Self {
            uid: pod.uid().unwrap_or_default(),
            name: pod.name_any(),
            server: server.and_then(|var| var.value.clone()),
        }
    }

    pub(super) fn is_one_of(&self, pods: &Pods) -> bool {
        match pods {
            Pods::Any => true,
            Pods::Named(name) => *name == self.name,
            Pods::Server(server) => self.server.as_ref() == Some(server),
        }
    }
}

/// Names a rule that was added, to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RuleId(u64);

impl FromStr for RuleId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("`{text}` is no rule's id, which is a number"))
    }
}

/// The rules in force. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    rules: Arc<Mutex<Rules>>,
    version: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Rules {
    last: u64,
    standing: Vec<Standing>,
}

#[derive(Debug)]
struct Standing {
    id: RuleId,
    rule: Rule,
    /// The uids of the pods that have run into it.
    caught: HashSet<String>,
}

impl Faults {
    /// Adds a rule. Pods that are already past the point where it would show are not concerned,
    /// save by `StuckTerminating` and `NeverReady`, which hold for running pods too.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut rules = self.lock();
        rules.last += 1;
        let id = RuleId(rules.last);
        rules.standing.push(Standing { id, rule, caught: HashSet::new() });
        drop(rules);
        self.version.send_modify(|n| *n += 1);
        id
    }

    /// Adds `fault` for `pods`, without a limit.
    pub fn inject(&self, pods: Pods, fault: Fault) -> RuleId {
        self.add(Rule { pods, times: None, fault })
    }

    /// Removes a rule; the pods that ran into it go on as if nothing had been. False if it is not
    /// there.
    pub fn remove(&self, id: RuleId) -> bool {
        let mut rules = self.lock();
        let before = rules.standing.len();
        rules.standing.retain(|standing| standing.id != id);
        let removed = rules.standing.len() < before;
        drop(rules);
        self.version.send_modify(|n| *n += 1);
        removed
    }

    /// Removes every rule.
    pub fn clear(&self) {
        self.lock().standing.clear();
        self.version.send_modify(|n| *n += 1);
    }

    /// The rules in force, oldest first.
    pub fn list(&self) -> Vec<(RuleId, Rule)> {
        self.lock().standing.iter().map(|standing| (standing.id, standing.rule.clone())).collect()
    }

    /// How many pods have run into a rule; none if the rule is not there.
    pub fn caught(&self, id: RuleId) -> usize {
        self.lock().standing.iter().find(|standing| standing.id == id).map_or(0, |s| s.caught.len())
    }

    /// Changes whenever the rules do.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// What the first rule whose fault `pick` picks means for the pod, which has run into it by this.
    pub(super) fn meet<T>(&self, pod: &Subject, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let mut rules = self.lock();
        for Standing { rule, caught, .. } in &mut rules.standing {
            let Some(picked) = pick(&rule.fault) else { continue };
            if caught.contains(&pod.uid) {
                return Some(picked);
            }
            let left = rule.times.is_none_or(|times| caught.len() < times as usize);
            if left && pod.is_one_of(&rule.pods) {
                caught.insert(pod.uid.clone());
                return Some(picked);
            }
        }
        None
    }

    pub(super) fn is_stuck(&self, pod: &Subject) -> bool {
        self.meet(pod, |fault| matches!(fault, Fault::StuckTerminating).then_some(())).is_some()
    }

    pub(super) fn is_never_ready(&self, pod: &Subject) -> bool {
        self.meet(pod, |fault| matches!(fault, Fault::NeverReady).then_some(())).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(uid: &str, server: &str) -> Subject {
        Subject { uid: uid.into(), name: format!("pod-{uid}"), server: Some(server.into()) }
    }

    #[test]
    fn catches_the_pods_it_is_for_as_often_as_it_says() {
        let faults = Faults::default();
        let rule = Rule { pods: Pods::Server("a".into()), times: Some(1), fault: Fault::NeverReady };
        let id = faults.add(rule.clone());
        assert!(!faults.is_never_ready(&subject("0", "b")));
        assert!(faults.is_never_ready(&subject("1", "a")));
        assert!(faults.is_never_ready(&subject("1", "a")), "a pod keeps its fault");
        assert!(!faults.is_never_ready(&subject("2", "a")), "used up");
        assert!(!faults.is_stuck(&subject("1", "a")));
        assert_eq!((faults.caught(id), faults.list()), (1, vec![(id, rule)]));
        assert!(faults.remove(id) && !faults.remove(id));
        assert!(!faults.is_never_ready(&subject("1", "a")), "healed");
        faults.inject(Pods::Named("pod-7".into()), Fault::NeverReady);
        assert!(faults.is_never_ready(&subject("7", "x")) && !faults.is_never_ready(&subject("8", "x")));
        faults.clear();
        assert!(!faults.is_never_ready(&subject("7", "x")));
    }

    #[test]
    fn rules_and_blows_are_readable_json() {
        for (json, rule) in [
            (
                r#"{"pods":{"server":"se-sto"},"times":2,"fault":"exit","code":1,"log":["bad key"],"after_ms":5}"#,
                Rule {
                    pods: Pods::Server("se-sto".into()),
                    times: Some(2),
                    fault: Fault::Exit { code: 1, log: vec!["bad key".into()], after_ms: 5 },
                },
            ),
            (
                r#"{"fault":"unschedulable"}"#,
                Rule { pods: Pods::Any, times: None, fault: Fault::Unschedulable { message: None } },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Rule>(json).unwrap(), rule);
            let again = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<Rule>(&again).unwrap(), rule, "{again}");
        }
        assert_eq!(serde_json::from_str::<Blow>(r#"{"blow":"lose"}"#).unwrap(), Blow::Lose);
        assert!(serde_json::from_str::<Rule>(r#"{"fault":"nonsense"}"#).is_err());
    }

    #[test]
    fn knows_a_pod_by_its_server() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "gluetun", "env": [{"name": "SERVER_HOSTNAMES", "value": "se-1"}]}]},
        }))
        .unwrap();
        let expected = Subject { uid: "u".into(), name: "p".into(), server: Some("se-1".into()) };
        assert_eq!(Subject::of(&pod), expected);
    }
}
