//! The control plane: what users write comes in through a source, is compiled, and goes out to every node, waypoint and
//! gateway as it changes; and whoever proves who it is gets the certificates it may have.
//!
//! Invariants: a change costs what depends on it, on the way in and on the way out; a subscriber costs the same however
//! large the mesh is, and a slow one only itself.
#![forbid(unsafe_code)]

pub mod session;
pub mod shelf;
