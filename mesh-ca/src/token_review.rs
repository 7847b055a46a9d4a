//! What the API server says about a token, as a [`Caller`]. Whoever asks it must name our audience in the review's
//! `spec.audiences`; the answer counts only if that audience comes back.

use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

use crate::authorize::{Caller, NodeName, PodRef};

/// Why a review names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is not good, in the words of the API server.
    #[error("the token is not valid: {0}")]
    Unauthenticated(String),
    /// None of our audiences came back. An API server that knows nothing of audiences answers without any.
    #[error("the token is not for this CA")]
    WrongAudience,
    /// A user, a node's own credential, or a malformed name.
    #[error("{0:?} is not a service account")]
    NotAServiceAccount(String),
    /// An attribute of the token that should have one value has several, or an impossible one.
    #[error("the token's attribute {0} cannot be understood")]
    BadAttribute(&'static str),
}

impl TokenError {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "token_invalid",
            Self::WrongAudience => "wrong_audience",
            Self::NotAServiceAccount(_) => "not_a_service_account",
            Self::BadAttribute(_) => "token_attribute",
        }
    }
}

/// Who holds the token that was reviewed for `audiences`.
pub fn parse(status: &TokenReviewStatus, audiences: &[String]) -> Result<Caller, TokenError> {
    let error = status.error.as_deref().filter(|error| !error.is_empty());
    if status.authenticated != Some(true) || error.is_some() {
        return Err(TokenError::Unauthenticated(error.unwrap_or("no reason given").to_owned()));
    }
    let found = status.audiences.clone().unwrap_or_default();
    if !found.iter().any(|audience| audiences.contains(audience)) {
        return Err(TokenError::WrongAudience);
    }
    let user = status.user.as_ref().ok_or_else(|| TokenError::NotAServiceAccount(String::new()))?;
    let name = user.username.as_deref().unwrap_or_default();
    let (namespace, service_account) =
        account(name).ok_or_else(|| TokenError::NotAServiceAccount(name.to_owned()))?;
    let pod = match (one(user, POD_NAME)?, one(user, POD_UID)?) {
        (Some(name), Some(uid)) => Some(PodRef { name: name.to_owned(), uid: uid.to_owned() }),
        (None, None) => None,
        (Some(_), None) => return Err(TokenError::BadAttribute(POD_UID)),
        (None, Some(_)) => return Err(TokenError::BadAttribute(POD_NAME)),
    };
    let node = one(user, NODE_NAME)?.map(NodeName::parse).transpose();
    Ok(Caller::ServiceAccountToken {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        audiences: found,
        pod,
        node: node.map_err(|_| TokenError::BadAttribute(NODE_NAME))?,
    })
}

/// `system:serviceaccount:<namespace>:<name>`; neither part can hold a colon.
fn account(username: &str) -> Option<(&str, &str)> {
    let (namespace, name) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let good = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    good.then_some((namespace, name))
}

/// The one value of an attribute that may be absent.
fn one<'a>(user: &'a UserInfo, key: &'static str) -> Result<Option<&'a str>, TokenError> {
    match user.extra.as_ref().and_then(|extra| extra.get(key)).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([value]) if !value.is_empty() => Ok(Some(value)),
        Some(_) => Err(TokenError::BadAttribute(key)),
    }
}

/// Attributes of tokens that are bound to a pod. The node's came with Kubernetes 1.30; the API server takes all three
/// from the token's signed claims.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

#[cfg(test)]
mod tests;
