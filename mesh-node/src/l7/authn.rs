//! Asks requests for tokens, where a RequestAuthentication is for what they come to: before anybody decides what they may.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderValue, header};
use mesh_core::authn::{Invalid, Providers};

use super::exchange::{Ended, Stage, view};
use super::h1::Target;
use super::message::RequestHead;
use super::record::Record;
use super::reply::Refusal;
use crate::report::Event;

pub use self::verify::Signatures;

mod verify;

/// Notes what the tokens of a request say, and makes it what the workload is to see; a request with one that is not accepted is
/// refused. One without any passes, as nobody's.
pub(super) fn request(stage: &Stage<'_>, head: &mut RequestHead, record: &mut Record) -> Result<(), Ended> {
    let providers = stage.site.providers().unwrap_or_else(|| stage.engine.providers());
    if providers.is_empty() {
        return Ok(());
    }
    ask(&providers, stage, head).map_err(|invalid| {
        stage.engine.reporter.count(Event::TokenRefused);
        record.add_to_answer(challenge(head, invalid).into_iter().map(|it| (header::WWW_AUTHENTICATE, it)));
        Ended::Refused(Refusal::Token(invalid), invalid.text().to_owned())
    })
}

fn ask(providers: &Rc<Providers>, stage: &Stage<'_>, head: &mut RequestHead) -> Result<(), Invalid> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let passed = providers.authenticate(&view(stage, head), now, &Signatures)?;
    let query = head.target.query().and_then(|query| passed.query(query));
    if let Some(query) = query {
        // What is left of a good target is one.
        head.target = head.target.with_query(&query).unwrap_or_else(|_| Target::unread());
    }
    passed.apply(&mut head.headers);
    head.claims = passed.claims;
    Ok(())
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
