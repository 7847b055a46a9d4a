//! What a request is, before anybody decides on it: its path in the one form that is matched and sent on, and the
//! client that it comes from.

pub mod path;
pub mod xff;
