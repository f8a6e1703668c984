//! The data path as a whole: real data threads and real sockets, a pod of our own making and a session
//! table that does as it is told.

mod accounts;
mod connect;
mod direct;
mod failures;
mod files;
mod lifecycle;
mod plain;
mod pod;
mod rig;

use pod::{Pod, Route};
use rig::{Answer, Gateway, basic, echo, eventually};
