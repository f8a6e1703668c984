//! Sessions: the meeting point of the data path and the cluster. The proxy asks [`Sessions`] for an
//! exit; a table that watches of pods and claims feed answers at once where there is one, and has the
//! claim made, renewed and waited for where there is none. The controller reads the same objects
//! through [`claim`] and [`pod`].

pub mod api;
pub mod claim;
mod exit;
pub mod failure;
pub mod pod;

pub use exit::Exit;
pub use failure::{AcquireError, FailureClass};
