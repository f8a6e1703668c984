//! Which resources the server knows: one description of each, from which routing, discovery, storage
//! and error texts follow.

/// A resource type. `EventV1` is `events.k8s.io/v1`'s view of the very events that `Event` is the
/// core/v1 view of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Pod,
    Secret,
    ConfigMap,
    Event,
    Namespace,
    Node,
    Lease,
    Job,
    EventV1,
}

/// A part of an object that has a path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subresource {
    Status,
    Log,
    Binding,
}

impl Subresource {
    /// The last segment of its path.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Log => "log",
            Self::Binding => "binding",
        }
    }
}

struct Description {
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    group: &'static str,
    namespaced: bool,
    subresources: &'static [Subresource],
}

const POD: Description = Description {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short: &["po"],
    categories: &["all"],
    group: "",
    namespaced: true,
    subresources: &[Subresource::Status, Subresource::Log, Subresource::Binding],
};
const SECRET: Description = Description {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short: &[],
    categories: &[],
    group: "",
    namespaced: true,
    subresources: &[],
};
const CONFIG_MAP: Description =
    Description { kind: "ConfigMap", plural: "configmaps", singular: "configmap", short: &["cm"], ..SECRET };
const EVENT: Description =
    Description { kind: "Event", plural: "events", singular: "event", short: &["ev"], ..SECRET };
const EVENT_V1: Description = Description { group: "events.k8s.io", ..EVENT };
const NAMESPACE: Description = Description {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short: &["ns"],
    namespaced: false,
    subresources: &[Subresource::Status],
    ..SECRET
};
const NODE: Description =
    Description { kind: "Node", plural: "nodes", singular: "node", short: &["no"], ..NAMESPACE };
const LEASE: Description = Description {
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    group: "coordination.k8s.io",
    ..SECRET
};
const JOB: Description = Description {
    kind: "Job",
    plural: "jobs",
    singular: "job",
    group: "batch",
    categories: &["all"],
    subresources: &[Subresource::Status],
    ..SECRET
};

impl Kind {
    /// Every resource type, in the order of discovery.
    pub(super) const ALL: [Self; 9] = [
        Self::ConfigMap,
        Self::Event,
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Secret,
        Self::Lease,
        Self::Job,
        Self::EventV1,
    ];

    /// Number of separate collections in the store.
    pub(super) const COLLECTIONS: usize = 8;

    fn description(self) -> &'static Description {
        match self {
            Self::Pod => &POD,
            Self::Secret => &SECRET,
            Self::ConfigMap => &CONFIG_MAP,
            Self::Event => &EVENT,
            Self::Namespace => &NAMESPACE,
            Self::Node => &NODE,
            Self::Lease => &LEASE,
            Self::Job => &JOB,
            Self::EventV1 => &EVENT_V1,
        }
    }

    /// Which collection of the store holds it.
    pub(super) fn collection(self) -> usize {
        match self {
            Self::Pod => 0,
            Self::Secret => 1,
            Self::ConfigMap => 2,
            Self::Event | Self::EventV1 => 3,
            Self::Namespace => 4,
            Self::Node => 5,
            Self::Lease => 6,
            Self::Job => 7,
        }
    }

    /// `kind` of its objects.
    pub(super) fn name(self) -> &'static str {
        self.description().kind
    }

    /// Name in paths and rules: `pods`.
    pub(super) fn plural(self) -> &'static str {
        self.description().plural
    }

    /// Singular name, for discovery.
    pub(super) fn singular(self) -> &'static str {
        self.description().singular
    }

    /// Short names that kubectl takes.
    pub(super) fn short_names(self) -> &'static [&'static str] {
        self.description().short
    }

    /// Categories that kubectl takes, such as `all`.
    pub(super) fn categories(self) -> &'static [&'static str] {
        self.description().categories
    }

    /// API group, empty for the core group.
    pub(super) fn group(self) -> &'static str {
        self.description().group
    }

    /// API version within the group: all are `v1`.
    pub(super) fn version(self) -> &'static str {
        "v1"
    }

    /// `apiVersion` of its objects.
    pub(super) fn api_version(self) -> &'static str {
        match self.group() {
            "coordination.k8s.io" => "coordination.k8s.io/v1",
            "batch" => "batch/v1",
            "events.k8s.io" => "events.k8s.io/v1",
            _ => "v1",
        }
    }

    /// Whether its objects live in a namespace.
    pub(super) fn namespaced(self) -> bool {
        self.description().namespaced
    }

    /// Its subresources.
    pub(super) fn subresources(self) -> &'static [Subresource] {
        self.description().subresources
    }

    /// Whether its objects have a status that only the `status` subresource writes.
    pub(super) fn has_status(self) -> bool {
        self.subresources().contains(&Subresource::Status)
    }

    /// Whether a PUT of a missing object creates it (`AllowCreateOnUpdate` of the real strategies).
    pub(super) fn create_on_update(self) -> bool {
        match self {
            Self::Lease | Self::Event | Self::EventV1 => true,
            Self::Pod | Self::Secret | Self::ConfigMap | Self::Namespace | Self::Node | Self::Job => false,
        }
    }

    /// Whether a PUT may leave out `resourceVersion` (`AllowUnconditionalUpdate`).
    pub(super) fn unconditional_update(self) -> bool {
        self != Self::Lease
    }

    /// Resource with its group, as messages have it: `leases.coordination.k8s.io`.
    pub(super) fn qualified_resource(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    /// The resource at a path.
    pub(super) fn find(group: &str, version: &str, plural: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.group() == group && kind.version() == version && kind.plural() == plural)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_dense_and_shared_by_both_views_of_events() {
        let mut used = [false; Kind::COLLECTIONS];
        for kind in Kind::ALL {
            used[kind.collection()] = true;
        }
        assert!(used.iter().all(|used| *used));
        assert_eq!(Kind::Event.collection(), Kind::EventV1.collection());
    }

    #[test]
    fn api_versions_follow_the_group() {
        for kind in Kind::ALL {
            let expected = match kind.group() {
                "" => kind.version().to_owned(),
                group => format!("{group}/{}", kind.version()),
            };
            assert_eq!(kind.api_version(), expected);
            assert_eq!(Kind::find(kind.group(), "v1", kind.plural()), Some(kind));
        }
        assert_eq!(Kind::find("batch", "v1", "pods"), None);
    }
}
