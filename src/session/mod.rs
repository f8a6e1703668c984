//! Sessions: the meeting point of the data path and the cluster. The proxy asks [`Sessions`] for an
//! exit; a table that watches of pods and claims feed answers at once where there is one, and has the
//! claim made, renewed and waited for where there is none. The controller reads the same objects
//! through [`claim`] and [`pod`].

pub mod api;
pub mod claim;
mod ensure;
mod entry;
mod exit;
pub mod failure;
mod feed;
mod id;
mod index;
mod login;
pub mod manage;
pub mod pod;
pub mod probe;
mod progress;
mod renewal;
mod sessions;
mod start;
mod table;
#[cfg(test)]
mod tests;
pub mod view;
pub(crate) mod watch;

pub use entry::InUse;
pub use exit::{Exit, Traffic};
pub use failure::{AcquireError, FailureClass};
pub use feed::{Driver, sessions};
pub use id::SessionId;
pub use manage::Manager;
pub use progress::Progress;
pub use sessions::{Fault, Grant, Sessions};
pub use start::{StartError, Started};
pub use table::{WAITERS, WAITERS_PER_SESSION};
