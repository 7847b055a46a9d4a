//! Processes' inner life: threads, tasks, draining, signals.

pub mod cleanup;
pub mod drain;
mod embedded;
mod figures;
pub mod node;
pub mod publish;
mod source;
pub mod state;
pub mod tasks;
pub mod worker;
