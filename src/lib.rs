//! gluetun-gateway: one stable proxy address in a Kubernetes cluster, behind which VPN pods are
//! allocated on demand.
//!
//! ```text
//!  client ──CONNECT──▶ proxy ──acquire(key)──▶ session table ◀──watch── ┐
//!                        │                        │ ensure / renew       │
//!                        │                        ▼                      │
//!                        │                    Lease (claim)  ◀──watch──  │  Kubernetes
//!                        │                        ▲                      │  is the only
//!                        │                        │ holder, reason       │  database
//!                        │                    leader: plan, act ────▶ Pod│
//!                        ▼                                               │
//!                    pod:8888  ◀───────────── health ─── kubelet ────────┘
//! ```
//!
//! The data path asks, the control path acts, and they meet only in the cluster. [`proxy`] runs on
//! one single-threaded runtime per core and never sees the Kubernetes client; [`session`] is the
//! meeting point; [`controller`] runs on the elected leader alone. [`identity`], [`selector`] and
//! [`servers`] know none of them.

pub mod accounts;
pub mod admin;
pub mod app;
#[cfg(test)]
mod clock;
pub mod config;
pub mod controller;
pub mod drain;
mod eight;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod hash;
pub mod identity;
pub mod kubernetes;
pub mod metrics;
pub mod preflight;
pub mod proxy;
pub mod readiness;
pub mod secret;
pub mod selector;
pub mod servers;
pub mod session;
pub mod signal;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod telemetry;
