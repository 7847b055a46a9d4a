//! Processes' inner life: threads, tasks, draining, signals.

pub mod cleanup;
pub mod drain;
mod figures;
pub mod node;
pub mod state;
pub mod tasks;
pub mod worker;
