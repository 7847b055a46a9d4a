//! Who calls: by certificate, by token of a service account, or by join token.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_ca::authorize::Caller;
use mesh_ca::join::{JoinToken, JoinTokens};
use tonic::{Request, Status};

use crate::peer::{Connection, Proven, Security};

/// Asks an API server who holds a token.
pub trait ReviewToken: Send + Sync {
    /// Who holds `token`, or why that is nobody.
    fn review<'a>(
        &'a self,
        token: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Caller, ReviewError>> + Send + 'a>>;
}

/// Why a token names nobody.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It is not good.
    #[error("{0}")]
    Refused(String),
    /// Nobody could be asked.
    #[error("the token could not be checked: {0}")]
    Unavailable(String),
}

/// Finds out who calls.
pub struct Authenticator {
    join_tokens: Option<JoinTokens>,
    reviewer: Option<Arc<dyn ReviewToken>>,
}

impl Authenticator {
    /// Accepts join tokens and tokens of service accounts as far as they are given something to be checked with.
    pub fn new(join_tokens: Option<JoinTokens>, reviewer: Option<Arc<dyn ReviewToken>>) -> Self {
        Self { join_tokens, reviewer }
    }

    /// Who makes `request`. A certificate comes before a token; on a plain port a token counts if there is one.
    pub async fn authenticate<T>(&self, request: &Request<T>) -> Result<Proven, Status> {
        let security = request.extensions().get::<Connection>().map(|connection| &connection.security);
        if let Some(Security::Mutual(id)) = security {
            return Ok(Proven::Caller(Arc::new(Caller::Svid(id.clone()))));
        }
        let token = request.metadata().get("authorization").map(|value| {
            let text = value.to_str().map_err(|_| Status::unauthenticated("the token is no text"))?;
            let token = text.strip_prefix("Bearer ").or_else(|| text.strip_prefix("bearer "));
            token.ok_or_else(|| Status::unauthenticated("the authorization is no bearer token"))
        });
        match (token.transpose()?, security) {
            (Some(token), _) if token.len() > MAX_TOKEN => {
                Err(Status::unauthenticated("the token is longer than any"))
            }
            (Some(token), _) => self.by_token(token).await,
            (None, Some(Security::Plain)) => Ok(Proven::Nobody),
            (None, _) => Err(Status::unauthenticated("neither certificate nor token")),
        }
    }

    /// Who holds the token of a service account, which the API server vouches for. Join tokens are no such tokens, and are not
    /// used up here.
    ///
    /// # Errors
    /// If it is nobody's, or there is nobody to ask.
    pub async fn account(&self, token: &str) -> Result<Caller, ReviewError> {
        if token.len() > MAX_TOKEN {
            return Err(ReviewError::Refused("the token is longer than any".to_owned()));
        }
        let reviewer = self.reviewer.as_ref();
        let nobody = || ReviewError::Unavailable("there is no API server to ask".to_owned());
        reviewer.ok_or_else(nobody)?.review(token).await
    }

    /// How the caller of `request` tries to prove who it is, as a stable token: a certificate comes before a token.
    pub fn method<T>(request: &Request<T>) -> &'static str {
        let connection = request.extensions().get::<Connection>();
        if matches!(connection.map(|one| &one.security), Some(Security::Mutual(_))) {
            return "svid";
        }
        let Some(value) = request.metadata().get("authorization") else { return "none" };
        let joins =
            |text: &str| text.split_once(' ').is_some_and(|(_, token)| JoinToken::parse(token).is_ok());
        if value.to_str().is_ok_and(joins) { "join_token" } else { "token" }
    }

    async fn by_token(&self, token: &str) -> Result<Proven, Status> {
        let caller = if JoinToken::parse(token).is_ok() {
            let tokens =
                self.join_tokens.as_ref().ok_or_else(|| Status::unauthenticated("no join tokens here"))?;
            let redeemed = tokens.redeem(token, SystemTime::now()).await;
            redeemed.map_err(|error| Status::unauthenticated(error.to_string()))?
        } else {
            let reviewer = self
                .reviewer
                .as_ref()
                .ok_or_else(|| Status::unauthenticated("the token is no join token"))?;
            reviewer.review(token).await.map_err(|error| match &error {
                ReviewError::Refused(_) => Status::unauthenticated(error.to_string()),
                ReviewError::Unavailable(_) => Status::unavailable(error.to_string()),
            })?
        };
        Ok(Proven::Caller(Arc::new(caller)))
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("join_tokens", &self.join_tokens.is_some())
            .field("reviewer", &self.reviewer.is_some())
            .finish()
    }
}

/// Bytes of a token; one of a service account has about 1,200.
const MAX_TOKEN: usize = 16 * 1024;
