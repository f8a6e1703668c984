//! The pod's manifest, before a real API server.
