//! What clients of the mesh rely on an API server for. Runs against the suite's own, or against a real one: see
//! [`crate::real`]. What holds for one must hold for the other.

mod access;
mod objects;
mod reads;
mod watches;
mod writes;
