//! The data plane of the mesh: one process per node that serves every enrolled pod of it.

pub mod admin;
pub mod admit;
pub mod cni;
pub mod config;
pub mod control;
pub mod dns;
pub mod frames;
pub mod gateway;
pub mod identity;
pub mod l4;
pub mod l7;
pub mod probe;
pub mod redirect;
pub mod report;
pub mod run;
pub mod sys;
pub mod tls;
pub mod tunnel;
pub mod waypoint;
