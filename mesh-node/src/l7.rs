//! Layer 7: one engine that reads requests, decides, and carries them, for the node and for gateways.

mod ahead;
mod announce;
pub(crate) mod authn;
pub(crate) mod authorize;
mod call;
mod cluster;
mod connect;
mod deadline;
mod edge;
pub mod engine;
mod exchange;
pub mod external;
mod forward;
pub mod h1;
mod health;
pub mod io;
mod kept;
pub(crate) mod limit;
pub(crate) mod logs;
mod message;
mod mirror;
pub(crate) mod originate;
mod out;
pub(crate) mod outbox;
mod pool;
mod record;
mod reply;
pub mod serve;
mod session;
pub mod shared;
pub mod site;
pub(crate) mod sniff;
pub mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod trace;
mod transfer;
mod upload;
mod wishes;

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
