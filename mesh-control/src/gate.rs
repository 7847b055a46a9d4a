//! What is logged about clients is limited: whoever is turned away comes again at once, and need not have proven
//! anything to be worth a line.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use mesh_core::log_gate::LogGate;

/// A [`LogGate`] for whoever comes by.
#[derive(Debug)]
pub struct Gate(Mutex<LogGate>);

impl Gate {
    /// The number of lines left out since the last one, if this one may pass.
    pub fn pass(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pass(Instant::now())
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self(Mutex::new(LogGate::new(LINES)))
    }
}

/// Lines a second about clients, of each kind and port.
const LINES: u32 = 20;
