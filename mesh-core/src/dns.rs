//! Answers to the queries of DNS that pods send: names of the mesh are answered from a [`crate::model::Snapshot`], everything
//! else is asked of the resolver that the pod had asked.
//!
//! Only questions are read, and of them only what an answer needs ([`Query`], RFC 1035 and RFC 6891). Answers of
//! resolvers are passed on as they are once it is certain that they are about the question that was sent ([`Sent`]), but
//! for those about what a name of the mesh is an alias of: of these, the addresses are read ([`Aliases`]). Nothing is
//! kept, so that nothing of them can come to be believed later.
//!
//! Invariants: whatever a packet says, reading it ends, costs no more than its length, and leads to at most one packet
//! in return; what is not certainly a query has no answer, so that two programs cannot keep each other busy.

mod alias;
mod name;
mod query;
mod reply;
mod upstream;
mod zone;

pub use alias::Aliases;
pub use query::{Kind, Query, Unanswerable};
pub use reply::{Code, Other, Records, Transport};
pub use upstream::{SECRET, Sent, Verdict};
pub use zone::Answer;

#[cfg(test)]
mod tests;
