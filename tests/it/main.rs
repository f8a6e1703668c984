//! The integration suite: the real application on port 0, through the real kube client and real
//! sockets, against the embedded cluster and, where `KUBEBUILDER_ASSETS` is set, a real kube-apiserver.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[macro_use]
mod support;

mod abuse;
mod accounts;
mod api;
mod api_access;
mod api_input;
mod api_lost;
mod api_replicas;
mod capacity;
mod catalogue;
mod control_plane;
mod failures;
mod kubectl;
mod lifecycle;
mod main_job;
mod manifest;
mod preflight;
mod program;
mod proxy_errors;
mod relay;
mod sessions;
mod simulator;
mod strict;
mod v1;
mod websocket;
