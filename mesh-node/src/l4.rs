//! The connection stories at layer 4: what an enrolled pod opens (outbound), what reaches it in plaintext and what
//! reaches it through a tunnel (inbound).
//!
//! Invariant: a socket to a workload is made in [`dial`] only, and only for a [`Permit`](mesh_core::policy::Permit).

mod dial;
pub(crate) mod forwarded;
pub mod inbound;
pub mod outbound;
pub mod relay;
mod requests;
mod revoke;
mod waypoint;

pub use requests::{PodRequests, deliver, is_plain};
