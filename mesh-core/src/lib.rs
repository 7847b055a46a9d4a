//! Pure decisions of the mesh: what users write becomes typed resources, resources compile to an immutable
//! [`model::Snapshot`], and the snapshot answers "where to", "as whom" and "may it".
//!
//! Invariant: no I/O, no clock, no randomness, no runtime. Whatever changes between two calls is an argument.
#![forbid(unsafe_code)]

pub mod addressee;
pub mod allocate;
pub mod allowance;
pub mod analyze;
pub mod authn;
pub mod balance;
pub mod cgroup;
pub mod cluster;
pub mod cni;
pub mod datagrams;
pub mod dns;
pub mod dynamodb;
pub mod express;
pub mod external;
pub mod gateway_api;
pub mod health;
pub mod http;
pub mod id;
pub mod limit;
pub mod log_gate;
pub mod log_service;
pub mod machine;
pub mod model;
pub mod mongo;
pub mod net;
pub mod own;
pub mod policy;
pub mod process;
pub mod proxy_header;
pub mod resource;
pub mod retry;
pub mod route;
pub mod service_host;
pub mod stall;
pub mod telemetry;
pub mod topology;
pub mod trace;
pub mod tunnel;
pub mod waypoint;
