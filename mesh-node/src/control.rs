//! The control plane on the other side of a network: what it tells is applied as it comes and kept on disk, so that the
//! node serves without it; and it signs the certificates of this node's pods.
//!
//! Invariants: what was good stays in force whatever the control plane says or fails to say; a resource that cannot be
//! used is rejected alone, by name; nothing is believed from anybody who does not prove to be the control plane.

pub mod connect;
mod credential;
mod discovery;
mod journal;
mod signer;
mod subscriber;
mod tell;
mod trust;

pub use connect::{ConnectError, Endpoint};
pub use credential::{Credential, Link, LinkError, Own};
pub use discovery::{Discovery, Status};
pub use journal::{Entry, Journal};
pub use signer::RemoteCa;
pub use subscriber::{Machine, Subscriber};
pub use tell::{Captured, Captures, Teller, Trouble};
pub use trust::Trust;
