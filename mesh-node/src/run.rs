//! Processes' inner life: threads, tasks, draining, signals.

pub mod access_log;
pub mod cleanup;
pub mod drain;
pub(crate) mod embedded;
pub mod enrolled;
pub(crate) mod figures;
pub mod handover;
pub mod lookup;
pub mod names;
pub mod node;
pub mod notify;
pub mod publish;
pub mod ready;
pub(crate) mod source;
pub mod state;
pub mod tasks;
pub(crate) mod turn;
pub mod watchdog;
pub mod worker;
