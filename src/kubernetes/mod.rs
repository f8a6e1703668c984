//! Kubernetes' own spelling of things: quantities, names, labels. The check of the operator's pod template
//! ([`crate::controller::template`]) goes by it, and the embedded cluster's API server.

pub mod names;
pub mod quantity;
