//! The Job that prints the server list of the pods' own image.

mod failure;

pub use failure::{JobError, JobFailure};
