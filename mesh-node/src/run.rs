//! Processes' inner life: threads, tasks, draining, signals.

pub mod cleanup;
pub mod drain;
pub mod node;
pub mod state;
pub mod tasks;
pub mod worker;
