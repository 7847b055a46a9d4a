//! The audit log: one line for each certificate that was asked for, with who asked, how they proved who they are, and
//! the outcome. Lines go to the tracing target `audit`, so that a subscriber can send them where they cannot be lost.

use std::net::SocketAddr;
use std::time::SystemTime;

use mesh_core::id::SpiffeId;

use crate::authority::Signed;
use crate::authorize::{Binding, Caller, Grant, Refusal};
use crate::error::CaError;
use crate::rotation::{Status, Step};

/// The outcome of a request that was granted.
pub(crate) fn signed(grant: &Grant, outcome: &Result<Signed, CaError>) {
    let (caller, method, identity) = (grant.asked_by(), grant.method(), grant.id().uri());
    match outcome {
        Ok(signed) => tracing::info!(
            target: TARGET,
            caller,
            method,
            identity,
            serial = signed.serial,
            not_before = seconds(signed.not_before),
            not_after = seconds(signed.not_after),
            outcome = "signed",
            "Certificate signed."
        ),
        Err(error) => tracing::error!(
            target: TARGET, caller, method, identity, %error, outcome = error.reason(), "Certificate not signed."
        ),
    }
}

/// The certificate of a server of the control plane.
pub(crate) fn signed_server(id: &SpiffeId, outcome: &Result<Signed, CaError>) {
    let (caller, method, identity) = ("the control plane itself", "embedded", id.uri());
    match outcome {
        Ok(signed) => tracing::info!(
            target: TARGET, caller, method, identity, serial = signed.serial, outcome = "signed", "Certificate signed."
        ),
        Err(error) => tracing::error!(
            target: TARGET, caller, method, identity, %error, outcome = error.reason(), "Certificate not signed."
        ),
    }
}

/// A request that was not granted.
pub(crate) fn refused(caller: &Caller, wanted: Option<&SpiffeId>, refusal: &Refusal) {
    let (method, identity) = (caller.method(), wanted.map(SpiffeId::uri));
    tracing::warn!(
        target: TARGET, %caller, method, identity, error = %refusal, outcome = refusal.reason(), "Certificate refused."
    );
}

/// Somebody at `peer` who could not prove who they are, or whose request could not be read. `method` is the way they
/// tried.
pub fn turned_away(peer: Option<SocketAddr>, method: &str, reason: &str, error: &str) {
    let peer = peer.map(tracing::field::display);
    tracing::warn!(target: TARGET, peer, method, error, outcome = reason, "Certificate refused.");
}

/// A step of a change of the root.
pub(crate) fn rotated(step: Step, status: &Status) {
    let signer = status.roots.first().map(|root| &*root.fingerprint);
    let (phase, trusted) = (status.phase, status.roots.len());
    tracing::info!(target: TARGET, %step, %phase, signer, trusted, "The CA's root changes.");
}

/// A join token made or revoked, or one that let somebody in.
pub(crate) fn join_token(event: &str, token: &str, binding: &Binding) {
    tracing::info!(target: TARGET, event, token, %binding, "Join token.");
}

/// Seconds since 1970.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The tracing target of the audit log.
pub const TARGET: &str = "audit";

#[cfg(test)]
mod tests;
