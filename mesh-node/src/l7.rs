//! Layer 7: what the node does with HTTP, once somebody asked for it.

pub mod h1;
