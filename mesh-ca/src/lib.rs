//! The certificate authority of the mesh: who may have which certificate ([`authorize`]), the signing of it
//! ([`Authority`]), the roots and revocations that peers are checked against ([`Bundle`]), and the change from one root
//! to the next ([`rotation`]).
//!
//! Invariants: nothing is signed without a [`Grant`], and a certificate carries the name of the grant, never one of the
//! request. A vault holds a CA that works at every moment, also between any two writes of a change. Time is an argument;
//! random numbers come from where the keys come from.
#![forbid(unsafe_code)]

pub mod audit;
pub mod authority;
pub mod authorize;
pub mod bundle;
pub mod ca;
pub mod chain;
pub mod crl;
pub mod csr;
pub mod error;
pub mod issue;
pub mod join;
mod leaf;
pub mod material;
mod random;
pub mod rotation;
#[cfg(test)]
mod testkit;
pub mod token_review;
pub mod vault;

pub use authority::{Authority, Limits, Signed};
pub use authorize::Grant;
pub use bundle::Bundle;
pub use ca::Ca;
pub use csr::{Csr, CsrError};
pub use error::CaError;
pub use issue::{IssueError, issue};
pub use material::Material;
pub use vault::{Change, Contents, FileVault, Pending, Vault, VaultError};
