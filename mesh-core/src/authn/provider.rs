//! One rule of a RequestAuthentication: whose tokens it accepts, and what becomes of them.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header};
use serde_json::Value;

use super::algorithm::Algorithm;
use super::claims::Claims;
use super::key::{KeySet, PublicKey};
use super::place::Place;
use super::token::{Invalid, Token};
use crate::resource::request_authentication::{ClaimToHeader, JwtRule, KeySource};

/// Checks signatures. The cryptography is not this crate's.
pub trait Verify {
    /// Whether `signature` is one of `message` by the owner of `key`, made with `algorithm`, which is one of the key's.
    fn verify(&self, key: &PublicKey, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool;
}

/// A rule, compiled.
#[derive(Debug)]
pub struct Provider {
    /// Differs from that of every other that is or was.
    pub(super) id: u64,
    pub(super) rule: JwtRule,
    /// `None` if there are none: nothing is accepted.
    keys: Option<KeySet>,
    pub(super) places: Vec<Place>,
    payload_header: Option<HeaderName>,
    claim_headers: Vec<(HeaderName, Vec<Box<str>>)>,
}

/// What a rule has found in a token.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// What it says.
    pub claims: Arc<Claims>,
    /// What the workload is told of it.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Provider {
    pub(super) fn new(id: u64, rule: &JwtRule) -> Self {
        let keys = match rule.keys() {
            KeySource::Inline(text) => KeySet::parse(text.as_bytes()).ok(),
            // Whoever serves the configuration fetches them, and puts them into the rule.
            KeySource::Url(_) | KeySource::Issuer(_) | KeySource::Nowhere => None,
        };
        let claim_header = |output: &ClaimToHeader| {
            let path = output.claim.split('.').map(Into::into).collect();
            Some((header_name(&output.header)?, path))
        };
        Self {
            id,
            keys: keys.filter(|keys| !keys.is_empty()),
            places: Place::all_of(rule),
            payload_header: rule.output_payload_to_header.as_deref().and_then(header_name),
            claim_headers: rule.output_claim_to_headers.iter().filter_map(claim_header).collect(),
            rule: rule.clone(),
        }
    }

    pub(super) fn is_of(&self, rule: &JwtRule) -> bool {
        self.rule == *rule
    }

    /// Whether the workload gets the token as well.
    pub(super) fn forwards(&self) -> bool {
        self.rule.forward_original_token
    }

    /// The headers that only it may set.
    pub(super) fn outputs(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload_header.iter().chain(self.claim_headers.iter().map(|(name, _)| name))
    }

    /// Checks a token at a time in seconds since the Unix epoch. What comes back holds until the second time, and not then.
    pub(super) fn check(
        &self,
        token: &Token<'_>,
        now: u64,
        verify: &dyn Verify,
    ) -> Result<(Accepted, u64), Invalid> {
        if self.rule.issuer.as_deref().is_some_and(|issuer| token.issuer() != Some(issuer)) {
            return Err(Invalid::Issuer);
        }
        let end = token.expires.map(|end| end.saturating_add(SKEW));
        if end.is_some_and(|end| end < now) {
            return Err(Invalid::Expired);
        }
        if token.not_before.is_some_and(|begin| begin > now.saturating_add(SKEW)) {
            return Err(Invalid::NotYet);
        }
        if !self.rule.audiences.is_empty() && !token.is_for(&self.rule.audiences) {
            return Err(Invalid::Audience);
        }
        self.check_signature(token, verify)?;
        let kept = now.saturating_add(KEPT);
        Ok((self.accept(token), end.map_or(kept, |end| kept.min(end.saturating_add(1)))))
    }

    fn check_signature(&self, token: &Token<'_>, verify: &dyn Verify) -> Result<(), Invalid> {
        let keys = self.keys.as_ref().ok_or(Invalid::NoKeys)?;
        let mut candidates =
            keys.candidates(token.algorithm, token.key.as_deref()).take(MAX_TRIES).peekable();
        candidates.peek().ok_or(Invalid::NoKey)?;
        let message = token.signed.as_bytes();
        let signed =
            candidates.any(|key| verify.verify(&key.public, token.algorithm, message, &token.signature));
        if signed { Ok(()) } else { Err(Invalid::Signature) }
    }

    fn accept(&self, token: &Token<'_>) -> Accepted {
        let payload = self
            .payload_header
            .iter()
            .filter_map(|name| Some((name.clone(), HeaderValue::from_str(token.payload_text).ok()?)));
        let claims = self.claim_headers.iter().filter_map(|(name, path)| {
            let (first, rest) = path.split_first()?;
            let found = rest.iter().try_fold(token.payload.get(&**first)?, |it, name| it.get(&**name))?;
            let text = match found {
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) => found.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => return None,
            };
            // What cannot stand in a header is not told.
            Some((name.clone(), HeaderValue::from_bytes(text.as_bytes()).ok()?))
        });
        Accepted {
            headers: payload.chain(claims).collect(),
            claims: Arc::new(Claims::verified(token.payload.clone(), &self.rule.space_delimited_claims)),
        }
    }
}

/// What frames a message, or says whose connection it is, is not for rules to say.
fn header_name(name: &str) -> Option<HeaderName> {
    let taken = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::HOST,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
    ];
    HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !taken.contains(name))
}

/// Seconds by which clocks may differ: Envoy's.
pub const SKEW: u64 = 60;
/// Seconds for which a token that was checked is believed, if it does not end before.
pub const KEPT: u64 = 300;
/// Keys that are tried for one token; it names its key, or its issuer has few.
const MAX_TRIES: usize = 16;
