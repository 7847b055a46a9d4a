//! The control plane: what users write comes in through a source, is compiled, and goes out to every node, waypoint and
//! gateway as it changes; and whoever proves who it is gets the certificates it may have.
//!
//! Invariants: a change costs what depends on it, on the way in and on the way out; a subscriber costs the same however
//! large the mesh is, and a slow one only itself.
#![forbid(unsafe_code)]

pub mod allotment;
pub mod authn;
pub mod catalog;
pub mod certificates;
pub mod config;
pub mod dashboard;
pub mod debug;
pub mod discovery;
pub mod events;
pub mod feed;
pub mod gate;
pub mod histogram;
pub mod hub;
pub mod intake;
pub mod keys;
pub mod kubernetes;
pub mod listen;
pub mod machines;
pub mod metrics;
pub mod peer;
mod process;
pub mod replicas;
pub mod run;
pub mod session;
pub mod shelf;
pub mod tasks;
pub mod tls;
pub mod topology;
pub mod turns;
pub mod vaults;
