//! Layer 7: one engine that reads requests, decides, and carries them, for the node and for gateways.

mod deadline;
pub mod h1;
pub mod io;
mod message;
mod out;
mod reply;
mod streams;
mod transfer;

/// Clients.
mod down {
    pub mod h1;
    pub mod h2;
}

/// Servers.
mod up {
    pub mod h1;
    pub mod h2;
}
