//! A gateway of a test as a process of its own, and certificates for it.

pub mod pki;
pub mod process;
