//! Asks requests for tokens, where a RequestAuthentication is for what they come to: before anybody decides what they may, and
//! again when rules or keys change while they are under way.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method, header};
use mesh_core::authn::{Claims, Invalid, Providers};
use mesh_core::route::RequestView;

use super::exchange::{Ended, Stage, view};
use super::h1::{Authority, Target};
use super::message::RequestHead;
use super::record::Record;
use super::reply::Refusal;
use crate::report::Event;

pub use self::verify::Signatures;

mod verify;

/// What a request came with, to ask for its tokens again.
pub(super) struct Shown {
    method: Method,
    secure: bool,
    authority: Option<Authority>,
    target: Target,
    headers: HeaderMap,
    /// When it was asked, in seconds since the Unix epoch. That a token has ended since then is no reason to end what it began.
    at: u64,
    /// Who had nothing against it.
    providers: Rc<Providers>,
}

/// Notes what the tokens of a request say, and makes it what the workload is to see; a request with one that is not accepted is
/// refused. One without any passes, as nobody's. What comes back is `None` where nobody asks.
pub(super) fn request(
    stage: &Stage<'_>,
    head: &mut RequestHead,
    record: &mut Record,
) -> Result<Option<Box<Shown>>, Ended> {
    let providers = providers(stage);
    if providers.is_empty() {
        return Ok(None);
    }
    head.complete();
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let shown = Box::new(Shown {
        method: head.method.clone(),
        secure: head.secure,
        authority: head.authority.clone(),
        target: head.target.clone(),
        headers: head.headers.clone(),
        at,
        providers,
    });
    match ask(&shown, stage, head) {
        Ok(()) => Ok(Some(shown)),
        Err(invalid) => Err(refuse(stage, head, record, invalid)),
    }
}

/// Answers a request whose token is not accepted.
pub(super) fn refuse(stage: &Stage<'_>, head: &RequestHead, record: &mut Record, invalid: Invalid) -> Ended {
    stage.engine.reporter.count(Event::TokenRefused);
    record.add_to_answer(challenge(head, invalid).into_iter().map(|it| (header::WWW_AUTHENTICATE, it)));
    Ended::Refused(Refusal::Token(invalid), invalid.text().to_owned())
}

fn providers(stage: &Stage<'_>) -> Rc<Providers> {
    stage.site.providers().unwrap_or_else(|| stage.engine.providers())
}

fn ask(shown: &Shown, stage: &Stage<'_>, head: &mut RequestHead) -> Result<(), Invalid> {
    let passed = shown.providers.authenticate(&view(stage, head), shown.at, &Signatures)?;
    let query = head.target.query().and_then(|query| passed.query(query));
    if let Some(query) = query {
        // What is left of a good target is one.
        head.target = head.target.with_query(&query).unwrap_or_else(|_| Target::unread());
    }
    passed.apply(&mut head.headers);
    head.claims = passed.claims;
    Ok(())
}

impl Shown {
    /// Asks those who are to be asked by the configuration as it is now, and says what the token says to them; `None` if they are
    /// those who were asked last.
    pub(super) fn again(&mut self, stage: &Stage<'_>) -> Option<Result<Option<Arc<Claims>>, Invalid>> {
        let providers = providers(stage);
        if providers.are_same(&self.providers) {
            return None;
        }
        let view = RequestView {
            method: &self.method,
            scheme: if self.secure { "https" } else { "http" },
            authority: self.authority.as_ref().map_or("", |it| it.as_str()),
            path: self.target.path(),
            query: self.target.query(),
            headers: &self.headers,
            port: stage.site.port(),
            claims: None,
        };
        let claims = providers.authenticate(&view, self.at, &Signatures).map(|passed| passed.claims);
        self.providers = providers;
        Some(claims)
    }
}

/// What a client is told to come with (RFC 6750, 3), in Envoy's words. Whom a token is not for, no other one is asked of.
fn challenge(head: &RequestHead, invalid: Invalid) -> Option<HeaderValue> {
    if invalid.status() != http::StatusCode::UNAUTHORIZED {
        return None;
    }
    let scheme = if head.secure { "https" } else { "http" };
    let authority = head.authority.as_ref().map_or("", |it| it.as_str());
    let realm = format!("{scheme}://{authority}{}", head.target.path());
    let realm: String = realm.chars().filter(|it| !matches!(it, '"' | '\\')).take(MAX_REALM).collect();
    HeaderValue::from_str(&format!("Bearer realm=\"{realm}\", error=\"invalid_token\"")).ok()
}

/// What the access log says of each, in Envoy's words.
pub(super) const fn details(invalid: Invalid) -> &'static str {
    match invalid {
        Invalid::Form => {
            "jwt_authn_access_denied{Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections}"
        }
        Invalid::HeaderEncoding => "jwt_authn_access_denied{Jwt_header_is_an_invalid_Base64url_encoded}",
        Invalid::Header => "jwt_authn_access_denied{Jwt_header_is_an_invalid_JSON}",
        Invalid::Critical => "jwt_authn_access_denied{Jwt_header_[crit]_is_not_supported}",
        Invalid::NoAlgorithm => {
            "jwt_authn_access_denied{Jwt_header_[alg]_field_is_required_and_must_be_a_string}"
        }
        Invalid::Algorithm => "jwt_authn_access_denied{Jwt_header_[alg]_is_not_supported}",
        Invalid::KeyId => "jwt_authn_access_denied{Jwt_header_[kid]_field_is_not_a_string}",
        Invalid::PayloadEncoding => "jwt_authn_access_denied{Jwt_payload_is_an_invalid_Base64url_encoded}",
        Invalid::Payload => "jwt_authn_access_denied{Jwt_payload_is_an_invalid_JSON}",
        Invalid::Claim => "jwt_authn_access_denied{Jwt_payload_field_is_of_an_invalid_type}",
        Invalid::SignatureEncoding => {
            "jwt_authn_access_denied{Jwt_signature_is_an_invalid_Base64url_encoded}"
        }
        Invalid::Issuer => "jwt_authn_access_denied{Jwt_issuer_is_not_configured}",
        Invalid::Expired => "jwt_authn_access_denied{Jwt_is_expired}",
        Invalid::NotYet => "jwt_authn_access_denied{Jwt_not_yet_valid}",
        Invalid::Audience => "jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}",
        Invalid::NoKeys => "jwt_authn_access_denied{Jwks_remote_fetch_is_failed}",
        Invalid::NoKey => "jwt_authn_access_denied{Jwks_doesn't_have_key_to_match_kid_or_alg_from_Jwt}",
        Invalid::Signature => "jwt_authn_access_denied{Jwt_verification_fails}",
        Invalid::TooMany => "jwt_authn_access_denied{Multiple_JWTs_are_not_supported}",
    }
}

/// Characters of what a client has asked for that it is told again.
const MAX_REALM: usize = 1024;

#[cfg(test)]
mod tests;
