//! What a request is, before anybody decides on it: its path in the one form that is matched and sent on, its host, the
//! client that it comes from and its certificate, and how much of HTTP/2 a peer may make without one.

pub mod frames;
mod heads;
pub mod host;
pub mod loopback;
pub mod messages;
pub mod path;
pub mod xfcc;
pub mod xff;
