//! `mesh/1`, the tunnel between two nodes of ours: many connections over one mutual-TLS connection, like HBONE, with a
//! framing that says no more than that takes. `docs/tunnel.md` describes it for people.
//!
//! [`frame`] is the form on the wire, [`open`] what a connection is opened with, [`credit`] how much of it may be under way.

pub mod credit;
pub mod frame;
pub mod open;

/// The protocol's name in the TLS handshake (ALPN). Anything that old and new would understand differently is `mesh/2`.
pub const ALPN: &[u8] = b"mesh/1";
/// Streams of one tunnel at the same time; what is opened beyond is refused, see [`frame::Refusal::NotTaken`].
pub const MAX_STREAMS: usize = 100;
/// Bytes of a stream that may go out before it was answered: what a frame carries.
pub const MAX_EARLY: usize = frame::MAX_PAYLOAD;
