//! One module for each command.

pub(crate) mod analyze;
pub(crate) mod authz;
pub(crate) mod bug_report;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod dashboard;
pub(crate) mod describe;
pub(crate) mod install;
pub(crate) mod log_level;
pub(crate) mod logs;
pub(crate) mod manifest;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod version;
pub(crate) mod waypoint;
pub(crate) mod workload;
