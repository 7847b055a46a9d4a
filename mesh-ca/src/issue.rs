//! From a caller and a request to a certificate, with one line in the audit log whatever becomes of it.

use std::time::SystemTime;

use crate::audit;
use crate::authority::{Authority, Signed};
use crate::authorize::{Caller, Placement, Refusal, Request, Rules, authorize};
use crate::error::CaError;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The caller may not have it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The CA failed.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl IssueError {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Refused(e) => e.reason(),
            Self::Ca(e) => e.reason(),
        }
    }
}

/// Decides about a request and, if it is granted, signs.
pub fn issue(
    authority: &Authority,
    caller: &Caller,
    request: Request,
    (rules, placement): (&Rules, &dyn Placement),
    now: SystemTime,
) -> Result<Signed, IssueError> {
    let wanted = request.impersonated.clone();
    match authorize(caller, request, rules, placement) {
        Ok(grant) => Ok(authority.sign(&grant, now)?),
        Err(refusal) => {
            audit::refused(caller, wanted.as_ref(), &refusal);
            Err(refusal.into())
        }
    }
}
