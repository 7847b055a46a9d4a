//! Tracing: which requests are traced, as what, and what is said of them. Who carries requests reads the trace that a request
//! is part of, decides, and sends a [`Span`] to a [`Collector`] when it is over.
//!
//! Invariant: what comes in headers is only read in one way; what is no trace starts none and is replaced.

pub use self::collector::{Collector, Speaks, Unsupported};
pub use self::context::{Forms, Incoming, Own, Parent, Received, TraceWord};
pub use self::sample::{Wish, drawn_by, is_drawn, is_traced, mark, random_id};
pub use self::span::{Facts, Istio, Kind, Span, cut, is_error};
pub use self::tags::Tags;
pub use self::zipkin::ZipkinList;

mod collector;
mod context;
mod hex;
mod sample;
mod span;
mod tags;
mod zipkin;
