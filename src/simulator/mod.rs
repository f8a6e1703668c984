//! The embedded cluster: a small Kubernetes API server and a kubelet that know each other only
//! through the Kubernetes API, so that the gateway can be tried and tested with nothing installed.
//! Nothing of the gateway knows that it is simulated.

pub mod api;
pub mod cluster;
pub mod container;
mod control;
pub mod demo;
pub mod gluetun;
pub mod kubelet;
