//! Who may see what: figures and readiness are for whoever asks; what names everybody's is for this machine, and for service
//! accounts of the mesh's own namespace, as Istio's control plane has it.
//!
//! Whoever comes by `kubectl port-forward` connects from within the pod, which is this machine. A page of somebody else's in a
//! browser here is given away by the name that it asks for (DNS rebinding). From elsewhere a token is needed that the API
//! server vouches for; where there is no API server nobody has one.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use http::header::AUTHORIZATION;
use http::request::Parts;
use mesh_ca::authorize::Caller;
use tokio::sync::Semaphore;

use crate::authn::{Authenticator, ReviewError};
use crate::dashboard::names_this_machine;

/// Decides who sees what.
#[derive(Debug)]
pub struct Doorkeeper {
    authenticator: Arc<Authenticator>,
    /// Whose service accounts may see everything.
    namespace: String,
    reviews: Semaphore,
}

/// Why somebody may not see something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A browser's request for somebody else's name.
    #[error("{0}")]
    Elsewhere(&'static str),
    /// From elsewhere, without a token.
    #[error(
        "this is for this machine, and for whoever shows the token of a service account of the mesh's namespace: \
         use kubectl port-forward"
    )]
    NoToken,
    /// The token is not good.
    #[error("the token is nobody's")]
    BadToken,
    /// The token is of somebody else.
    #[error("the service account is of another namespace than the mesh's")]
    Stranger,
    /// Too many ask, or the API server does not answer.
    #[error("the token cannot be checked now")]
    Unavailable,
}

impl Refused {
    /// As HTTP says it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoToken | Self::BadToken => StatusCode::UNAUTHORIZED,
            Self::Elsewhere(_) | Self::Stranger => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Doorkeeper {
    /// Lets service accounts of `namespace` in, which `authenticator` knows by their tokens.
    pub fn new(authenticator: Arc<Authenticator>, namespace: &str) -> Self {
        Self { authenticator, namespace: namespace.to_owned(), reviews: Semaphore::new(REVIEWS) }
    }

    /// Whether `peer` may have an answer to `request`.
    ///
    /// # Errors
    /// If not, why.
    pub async fn admit(&self, peer: IpAddr, request: &Parts) -> Result<(), Refused> {
        if OPEN.contains(&request.uri.path()) {
            return Ok(());
        }
        if peer.to_canonical().is_loopback() {
            return names_this_machine(request).map_err(Refused::Elsewhere);
        }
        let shown = request.headers.get(AUTHORIZATION).ok_or(Refused::NoToken)?;
        let shown = shown.to_str().map_err(|_| Refused::BadToken)?;
        let token = shown.strip_prefix("Bearer ").or_else(|| shown.strip_prefix("bearer "));
        // The API server is asked for certificates as well, which come first.
        let _turn = self.reviews.try_acquire().map_err(|_| Refused::Unavailable)?;
        match self.authenticator.account(token.ok_or(Refused::BadToken)?).await {
            Ok(Caller::ServiceAccountToken { namespace, .. }) if namespace == self.namespace => Ok(()),
            Ok(_) => Err(Refused::Stranger),
            Err(ReviewError::Refused(_)) => Err(Refused::BadToken),
            Err(ReviewError::Unavailable(_)) => Err(Refused::Unavailable),
        }
    }
}

/// For whoever asks: figures, and what a kubelet and a load balancer look at.
const OPEN: [&str; 4] = ["/metrics", "/ready", "/healthz/ready", "/version"];
/// Tokens that are checked at a time.
const REVIEWS: usize = 2;
