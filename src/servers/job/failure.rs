//! Why a Job brought no list.

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobFailure {
    /// The gateway's Role lacks a right.
    Forbidden,
    /// A ResourceQuota leaves no room.
    Quota,
    /// The namespace's Pod Security level refuses the pod.
    PodSecurity,
    /// An admission plugin, webhook or policy refuses the Job or its pod.
    Admission,
    /// The image cannot be pulled.
    ImagePull,
    /// No node can take the pod.
    Unschedulable,
    /// The container cannot be started.
    StartError,
    /// The container was killed for want of memory.
    OutOfMemory,
    /// The container ended with an exit code other than 0.
    Exited,
    /// It was not done in time.
    Deadline,
    /// Its pod or itself was deleted, or its node is lost.
    Deleted,
    /// Something else has the Job's name.
    NameTaken,
    /// What it printed could not be read, or was too large.
    Log,
    /// The Kubernetes API cannot be reached, or could not answer.
    Api,
}

impl JobFailure {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Forbidden,
        Self::Quota,
        Self::PodSecurity,
        Self::Admission,
        Self::ImagePull,
        Self::Unschedulable,
        Self::StartError,
        Self::OutOfMemory,
        Self::Exited,
        Self::Deadline,
        Self::Deleted,
        Self::NameTaken,
        Self::Log,
        Self::Api,
    ];

    /// Its word in the log and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::Quota => "quota",
            Self::PodSecurity => "pod_security",
            Self::Admission => "admission",
            Self::ImagePull => "image_pull",
            Self::Unschedulable => "unschedulable",
            Self::StartError => "start_error",
            Self::OutOfMemory => "out_of_memory",
            Self::Exited => "exited",
            Self::Deadline => "deadline",
            Self::Deleted => "deleted",
            Self::NameTaken => "name_taken",
            Self::Log => "log",
            Self::Api => "api",
        }
    }
}

/// Why a Job brought no list: the kind, and what was seen, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct JobError {
    /// The kind.
    pub kind: JobFailure,
    /// What was seen, and what to do about it.
    pub text: String,
}
