//! The Job that prints the server list of the pods' own image: made, waited for and read by [`Runner`],
//! which the keeper of the list calls. `manifest` and `judge` are pure.

mod failure;
mod judge;
mod manifest;
mod run;

pub use failure::{JobError, JobFailure};
pub(super) use run::Runner;

/// What the Job is made of.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Where it runs.
    pub(super) namespace: String,
    /// The image of the pods.
    pub(super) image: String,
    /// The provider, by the name that Gluetun knows it by.
    pub(super) provider: String,
}
