//! Objects as rows: the `Table` that kubectl asks for, so that `kubectl get` shows what is worth
//! knowing. Columns are those of the real server, and a few more under `-o wide` that read the
//! annotations of VPN pods and claims.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use super::json::{at, is_empty, list, map, text};
use super::resources::Kind;

/// A column: its name, and whether it is shown under `-o wide` only.
struct Column(&'static str, bool);

const fn plain(name: &'static str) -> Column {
    Column(name, false)
}

const fn wide(name: &'static str) -> Column {
    Column(name, true)
}

/// Annotations of VPN pods and claims.
const ACCOUNT: &str = "gluetun-gateway/account";
const KEY: &str = "gluetun-gateway/key";
const SERVER: &str = "gluetun-gateway/server";
const COUNTRY: &str = "gluetun-gateway/country";
const CITY: &str = "gluetun-gateway/city";

fn columns(kind: Kind) -> Vec<Column> {
    let (name, age) = (plain("Name"), plain("Age"));
    match kind {
        Kind::Pod => vec![
            name,
            plain("Ready"),
            plain("Status"),
            plain("Restarts"),
            age,
            wide("IP"),
            wide("Node"),
            wide("Account"),
            wide("Server"),
            wide("Country"),
            wide("City"),
        ],
        Kind::Lease => {
            // The user name that means the session: account, selector and session in one.
            vec![name, plain("Holder"), age, wide("User"), wide("Renewed")]
        }
        Kind::ConfigMap => vec![name, plain("Data"), age],
        Kind::Secret => vec![name, plain("Type"), plain("Data"), age],
        Kind::Namespace => vec![name, plain("Status"), age],
        Kind::Node => vec![
            name,
            plain("Status"),
            plain("Roles"),
            age,
            plain("Version"),
            wide("Internal-IP"),
            wide("OS-Image"),
            wide("Container-Runtime"),
        ],
        Kind::Job => vec![
            name,
            plain("Status"),
            plain("Completions"),
            plain("Duration"),
            age,
            wide("Containers"),
            wide("Images"),
        ],
        Kind::Event | Kind::EventV1 => vec![
            plain("Last Seen"),
            plain("Type"),
            plain("Reason"),
            plain("Object"),
            wide("Subobject"),
            wide("Source"),
            plain("Message"),
            wide("First Seen"),
            wide("Count"),
            wide("Name"),
        ],
    }
}

/// `columnDefinitions` of a kind.
pub(super) fn definitions(kind: Kind) -> Value {
    columns(kind)
        .iter()
        .map(|Column(name, wide)| {
            json!({
                "name": name, "type": "string", "format": if *name == "Name" { "name" } else { "" },
                "description": "", "priority": i32::from(*wide),
            })
        })
        .collect()
}

/// The cells of an object (events in their core form), in the order of the columns.
pub(super) fn cells(kind: Kind, object: &Value) -> Value {
    let name = json!(text(object, &["metadata", "name"]));
    let age = json!(age::since(&object["metadata"]["creationTimestamp"]));
    let cells = match kind {
        Kind::Pod => pod(object, name, age),
        Kind::Lease => vec![
            name,
            json!(text(object, &["spec", "holderIdentity"])),
            age,
            annotation(object, KEY),
            json!(age::since(&object["spec"]["renewTime"])),
        ],
        Kind::ConfigMap => vec![name, json!(count(object, "data") + count(object, "binaryData")), age],
        Kind::Secret => vec![name, json!(text(object, &["type"])), json!(count(object, "data")), age],
        Kind::Namespace => vec![name, json!(text(object, &["status", "phase"])), age],
        Kind::Node => node(object, name, age),
        Kind::Job => job(object, name, age),
        Kind::Event | Kind::EventV1 => event(object, name),
    };
    Value::Array(cells)
}

fn count(object: &Value, field: &str) -> usize {
    map(object, &[field]).map_or(0, serde_json::Map::len)
}

fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

fn annotation(object: &Value, key: &str) -> Value {
    or_none(text(object, &["metadata", "annotations", key]))
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, &["status", "conditions"]).iter().find(|condition| condition["type"] == kind)
}

fn holds(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

fn pod(pod: &Value, name: Value, age: Value) -> Vec<Value> {
    let summary = PodSummary::of(pod);
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts > 0 => {
            let ago = age::human(Timestamp::now().duration_since(time));
            json!(format!("{} ({ago} ago)", summary.restarts))
        }
        _ => json!(summary.restarts.to_string()),
    };
    let total = list(pod, &["spec", "containers"]).len();
    vec![
        name,
        json!(format!("{}/{total}", summary.ready)),
        json!(summary.status),
        restarts,
        age,
        or_none(text(pod, &["status", "podIP"])),
        or_none(text(pod, &["spec", "nodeName"])),
        annotation(pod, ACCOUNT),
        annotation(pod, SERVER),
        annotation(pod, COUNTRY),
        annotation(pod, CITY),
    ]
}

/// What kubectl shows of a pod: `printPod` of Kubernetes' `printers.go`.
struct PodSummary {
    status: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl PodSummary {
    fn of(pod: &Value) -> Self {
        let status = &pod["status"];
        let phase = text(status, &["phase"]);
        let reason = text(status, &["reason"]);
        let mut summary = Self {
            status: if reason.is_empty() { phase.to_owned() } else { reason.to_owned() },
            ready: 0,
            restarts: 0,
            last_restart: None,
        };
        if !summary.initializing(pod) {
            summary.containers(pod);
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            if reason == "NodeLost" {
                summary.status = "Unknown".into();
            } else if phase != "Succeeded" && phase != "Failed" {
                summary.status = "Terminating".into();
            }
        }
        summary
    }

    fn restarted(&mut self, container: &Value) {
        self.restarts += container["restartCount"].as_i64().unwrap_or(0);
        let last = age::parse(&container["lastState"]["terminated"]["finishedAt"]);
        self.last_restart = self.last_restart.max(last);
    }

    /// Looks at the init containers; whether one of them is what the pod waits for.
    fn initializing(&mut self, pod: &Value) -> bool {
        let total = list(pod, &["spec", "initContainers"]).len();
        for (index, container) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
            self.restarted(container);
            let state = &container["state"];
            if let Some(ended) = at(state, &["terminated"]) {
                if ended["exitCode"] == 0 {
                    continue;
                }
                self.status = format!("Init:{}", end(ended));
                return true;
            }
            let waiting = text(state, &["waiting", "reason"]);
            self.status = if waiting.is_empty() || waiting == "PodInitializing" {
                format!("Init:{index}/{total}")
            } else {
                format!("Init:{waiting}")
            };
            return true;
        }
        false
    }

    fn containers(&mut self, pod: &Value) {
        self.restarts = 0;
        let mut running = false;
        // Backwards: the first container has the last word.
        for container in list(pod, &["status", "containerStatuses"]).iter().rev() {
            self.restarted(container);
            let state = &container["state"];
            let waiting = text(state, &["waiting", "reason"]);
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if let Some(ended) = at(state, &["terminated"]) {
                self.status = end(ended);
            } else if container["ready"] == true && at(state, &["running"]).is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && running {
            self.status = if holds(pod, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }
}

/// How a container ended, in a word.
fn end(terminated: &Value) -> String {
    let reason = text(terminated, &["reason"]);
    if !reason.is_empty() {
        return reason.to_owned();
    }
    let number = |field: &str| terminated[field].as_i64().unwrap_or(0);
    match number("signal") {
        0 => format!("ExitCode:{}", number("exitCode")),
        signal => format!("Signal:{signal}"),
    }
}

fn node(node: &Value, name: Value, age: Value) -> Vec<Value> {
    let mut status = match condition(node, "Ready").map(|ready| ready["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let roles: Vec<&str> = map(node, &["metadata", "labels"])
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    let address = list(node, &["status", "addresses"])
        .iter()
        .find(|address| address["type"] == "InternalIP")
        .map_or("", |address| text(address, &["address"]));
    let info = |field: &str| match text(node, &["status", "nodeInfo", field]) {
        "" => json!("<unknown>"),
        value => json!(value),
    };
    vec![
        name,
        json!(status),
        or_none(&roles.join(",")),
        age,
        json!(text(node, &["status", "nodeInfo", "kubeletVersion"])),
        or_none(address),
        info("osImage"),
        info("containerRuntimeVersion"),
    ]
}

fn job(job: &Value, name: Value, age: Value) -> Vec<Value> {
    let status = if holds(job, "Complete") {
        "Complete"
    } else if holds(job, "Failed") {
        "Failed"
    } else if !job["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else if holds(job, "Suspended") {
        "Suspended"
    } else {
        "Running"
    };
    let done = job["status"]["succeeded"].as_i64().unwrap_or(0);
    let wanted = job["spec"]["completions"].as_i64();
    let completions = match wanted {
        Some(wanted) => format!("{done}/{wanted}"),
        None => format!("{done}/1"),
    };
    let started = age::parse(&job["status"]["startTime"]);
    let ended = age::parse(&job["status"]["completionTime"]);
    let duration = started
        .map(|started| age::human(ended.unwrap_or_else(Timestamp::now).duration_since(started)))
        .unwrap_or_default();
    let containers = list(job, &["spec", "template", "spec", "containers"]);
    let all = |field: &str| {
        let values: Vec<&str> = containers.iter().map(|container| text(container, &[field])).collect();
        json!(values.join(","))
    };
    vec![name, json!(status), json!(completions), json!(duration), age, all("name"), all("image")]
}

fn event(event: &Value, name: Value) -> Vec<Value> {
    let or = |value: &Value, other: String| if value.is_null() { other } else { age::since(value) };
    let first = or(&event["firstTimestamp"], age::since(&event["eventTime"]));
    let mut last = or(&event["lastTimestamp"], first.clone());
    let mut count = event["count"].as_i64().unwrap_or(0);
    if let Some(series) = at(event, &["series"]).filter(|series| !is_empty(series)) {
        last = age::since(&series["lastObservedTime"]);
        count = series["count"].as_i64().unwrap_or(0);
    }
    let about = &event["involvedObject"];
    let object = format!("{}/{}", text(about, &["kind"]).to_lowercase(), text(about, &["name"]));
    let source = match text(event, &["source", "component"]) {
        "" => [text(event, &["reportingComponent"]), text(event, &["reportingInstance"])],
        component => [component, text(event, &["source", "host"])],
    };
    let source: Vec<&str> = source.into_iter().filter(|part| !part.is_empty()).collect();
    vec![
        json!(last),
        json!(text(event, &["type"])),
        json!(text(event, &["reason"])),
        json!(object),
        json!(text(about, &["fieldPath"])),
        json!(source.join(", ")),
        json!(text(event, &["message"]).trim()),
        json!(first),
        json!(count.max(1)),
        name,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(pod: &Value) -> String {
        PodSummary::of(pod).status
    }

    fn with_state(phase: &str, state: Value, ready: bool) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]},
               "status": {"phase": phase, "containerStatuses":
                   [{"ready": ready, "restartCount": 0, "state": state}]}})
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        for kind in Kind::ALL {
            let cells = cells(kind, &json!({"metadata": {"name": "x"}}));
            assert_eq!(cells.as_array().unwrap().len(), columns(kind).len(), "{kind:?}");
        }
    }

    #[test]
    fn pod_status_is_what_kubectl_shows() {
        let waiting = |reason: &str| with_state("Pending", json!({"waiting": {"reason": reason}}), false);
        assert_eq!(status_of(&waiting("ContainerCreating")), "ContainerCreating");
        assert_eq!(status_of(&waiting("CrashLoopBackOff")), "CrashLoopBackOff");
        let running = with_state("Running", json!({"running": {}}), true);
        assert_eq!((status_of(&running).as_str(), PodSummary::of(&running).ready), ("Running", 1));
        let ended = |reason: &str, code: i64| {
            with_state("Failed", json!({"terminated": {"reason": reason, "exitCode": code}}), false)
        };
        assert_eq!(status_of(&ended("Error", 1)), "Error");
        assert_eq!(status_of(&ended("Completed", 0)), "Completed");
        assert_eq!(status_of(&ended("", 3)), "ExitCode:3");
        let mut deleting = running.clone();
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(status_of(&deleting), "Terminating");
        deleting["status"]["phase"] = json!("Failed");
        assert_eq!(status_of(&deleting), "Failed");
        let evicted = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
        assert_eq!(status_of(&evicted), "Evicted");
        assert_eq!(status_of(&json!({"status": {"phase": "Pending"}})), "Pending");
    }

    #[test]
    fn init_containers_come_first() {
        let pod = |state: Value| {
            json!({"spec": {"initContainers": [{}, {}]}, "status": {"phase": "Pending",
                   "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}}, {"state": state}]}})
        };
        assert_eq!(status_of(&pod(json!({"running": {}}))), "Init:1/2");
        assert_eq!(status_of(&pod(json!({"waiting": {"reason": "ErrImagePull"}}))), "Init:ErrImagePull");
        assert_eq!(status_of(&pod(json!({"terminated": {"exitCode": 2}}))), "Init:ExitCode:2");
    }

    #[test]
    fn wide_columns_tell_where_a_pod_is() {
        let pod = json!({"metadata": {"name": "p", "annotations": {SERVER: "se-mma-1", CITY: "Malmö",
                         COUNTRY: "se", ACCOUNT: "alice"}}, "spec": {"nodeName": "n", "containers": [{}]},
                         "status": {"phase": "Running", "podIP": "127.42.0.1"}});
        let cells = cells(Kind::Pod, &pod);
        assert_eq!(
            cells.as_array().unwrap()[5..],
            [json!("127.42.0.1"), json!("n"), json!("alice"), json!("se-mma-1"), json!("se"), json!("Malmö")]
        );
        assert_eq!(cells[1], "0/1");
    }

    #[test]
    fn restarts_tell_when() {
        let mut pod = with_state("Running", json!({"running": {}}), true);
        pod["status"]["containerStatuses"][0]["restartCount"] = json!(2);
        let hour_ago = age::moved(Timestamp::now(), -3600);
        pod["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {"finishedAt": hour_ago}});
        assert_eq!(cells(Kind::Pod, &pod)[3], "2 (60m ago)");
    }

    #[test]
    fn leases_events_jobs_and_nodes() {
        let lease = json!({"metadata": {"name": "gw-a", "annotations": {KEY: "alice-country-se-session-a"}},
                           "spec": {"holderIdentity": "gluetun-1"}});
        let row = cells(Kind::Lease, &lease);
        assert_eq!((&row[1], &row[3]), (&json!("gluetun-1"), &json!("alice-country-se-session-a")));
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"},
                           "reportingComponent": "rc", "reportingInstance": "ri", "message": "m",
                           "series": {"count": 3}});
        let row = cells(Kind::Event, &event);
        assert_eq!((&row[3], &row[5], &row[8]), (&json!("pod/p"), &json!("rc, ri"), &json!(3)));
        let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 1},
                         "status": {"succeeded": 1, "startTime": "2026-01-01T00:00:00Z",
                         "completionTime": "2026-01-01T00:00:03Z",
                         "conditions": [{"type": "Complete", "status": "True"}]}});
        let row = cells(Kind::Job, &job);
        assert_eq!((&row[1], &row[2], &row[3]), (&json!("Complete"), &json!("1/1"), &json!("3s")));
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": ""}},
                          "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let row = cells(Kind::Node, &node);
        assert_eq!((&row[1], &row[2]), (&json!("Ready"), &json!("worker")));
    }
}
