//! Tokens as they come: JSON Web Tokens in the compact form of RFC 7515, with one signature.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::json;

/// A token that has been read. Nobody has checked what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct Token<'t> {
    /// What is signed.
    pub signed: &'t str,
    /// The payload as the token has it, in base64url.
    pub payload_text: &'t str,
    /// How it says that it is signed.
    pub algorithm: Algorithm,
    /// The key that it names.
    pub key: Option<Box<str>>,
    /// What it says.
    pub payload: Map<String, Value>,
    /// `exp`, `nbf`: seconds since the Unix epoch, rounded down. What is too large for any clock is the largest.
    pub expires: Option<u64>,
    /// See [`Self::expires`].
    pub not_before: Option<u64>,
    /// Its signature.
    pub signature: Vec<u8>,
}

/// Why a token is not accepted. What it says to clients is Envoy's to the letter, so that what they look for in it is there, and
/// nothing of what is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.text())]
pub enum Invalid {
    /// It does not have three parts, or is longer than [`MAX_TOKEN`].
    Form,
    /// Its header is not base64url.
    HeaderEncoding,
    /// Its header is not a JSON object, has a name twice, or is too deep.
    Header,
    /// It asks for something that must be understood, and nothing is (RFC 7515, 4.1.11).
    Critical,
    /// It names no algorithm.
    NoAlgorithm,
    /// It names one that is not accepted from anybody.
    Algorithm,
    /// What it names its key by is no text.
    KeyId,
    /// Its payload is not base64url.
    PayloadEncoding,
    /// Its payload is not a JSON object, has a name twice, or is too deep.
    Payload,
    /// `iss` or `sub` is no text, `aud` neither text nor a list of texts, or `exp` or `nbf` no number that is not negative.
    Claim,
    /// Its signature is not base64url.
    SignatureEncoding,
    /// No rule is for its issuer.
    Issuer,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYet,
    /// It is for others.
    Audience,
    /// There are no keys of its issuer.
    NoKeys,
    /// No key of its issuer is the one it names, or is for its algorithm.
    NoKey,
    /// The signature is not that of any such key.
    Signature,
    /// The request has more than [`super::MAX_TOKENS`].
    TooMany,
}

impl<'t> Token<'t> {
    /// Reads a token.
    pub fn parse(text: &'t str) -> Result<Self, Invalid> {
        if text.len() > MAX_TOKEN {
            return Err(Invalid::Form);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Invalid::Form)?;
        let (header, payload_text) = signed.split_once('.').ok_or(Invalid::Form)?;
        if payload_text.contains('.') || header.is_empty() || payload_text.is_empty() || signature.is_empty()
        {
            return Err(Invalid::Form);
        }
        let decode = |part: &str, wrong| URL_SAFE_NO_PAD.decode(part).map_err(|_| wrong);
        let header = decode(header, Invalid::HeaderEncoding)?;
        let header = json::object(&header).ok_or(Invalid::Header)?;
        if header.contains_key("crit") {
            return Err(Invalid::Critical);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Invalid::NoAlgorithm)?;
        let algorithm = Algorithm::parse(algorithm).ok_or(Invalid::Algorithm)?;
        let key = match header.get("kid") {
            None => None,
            Some(key) => Some(key.as_str().ok_or(Invalid::KeyId)?.into()),
        };
        let payload = decode(payload_text, Invalid::PayloadEncoding)?;
        let payload = json::object(&payload).ok_or(Invalid::Payload)?;
        check_types(&payload)?;
        Ok(Self {
            signed,
            payload_text,
            algorithm,
            key,
            expires: time(&payload, "exp")?,
            not_before: time(&payload, "nbf")?,
            payload,
            signature: decode(signature, Invalid::SignatureEncoding)?,
        })
    }

    /// `iss`.
    pub fn issuer(&self) -> Option<&str> {
        self.payload.get("iss").and_then(Value::as_str)
    }

    /// Whether it is for one of these; nothing is for everybody.
    pub fn is_for(&self, audiences: &[String]) -> bool {
        let is_one = |own: &Value| own.as_str().is_some_and(|own| audiences.iter().any(|it| it == own));
        match self.payload.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_one),
            Some(one) => is_one(one),
            None => false,
        }
    }
}

impl Invalid {
    /// What the client is told.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Form => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::HeaderEncoding => "Jwt header is an invalid Base64url encoded",
            Self::Header => "Jwt header is an invalid JSON",
            Self::Critical => "Jwt header [crit] is not supported",
            Self::NoAlgorithm => "Jwt header [alg] field is required and must be a string",
            Self::Algorithm => "Jwt header [alg] is not supported",
            Self::KeyId => "Jwt header [kid] field is not a string",
            Self::PayloadEncoding => "Jwt payload is an invalid Base64url encoded",
            Self::Payload => "Jwt payload is an invalid JSON",
            Self::Claim => "Jwt payload field is of an invalid type",
            Self::SignatureEncoding => "Jwt signature is an invalid Base64url encoded",
            Self::Issuer => "Jwt issuer is not configured",
            Self::Expired => "Jwt is expired",
            Self::NotYet => "Jwt not yet valid",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::NoKeys => "Jwks remote fetch is failed",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Signature => "Jwt verification fails",
            Self::TooMany => "Multiple JWTs are not supported",
        }
    }

    /// The status of the answer. Envoy's, which refuses a token that is for others as somebody who is known.
    pub const fn status(self) -> http::StatusCode {
        match self {
            Self::Audience => http::StatusCode::FORBIDDEN,
            _ => http::StatusCode::UNAUTHORIZED,
        }
    }
}

fn check_types(payload: &Map<String, Value>) -> Result<(), Invalid> {
    let texts = ["iss", "sub"].into_iter().all(|name| payload.get(name).is_none_or(Value::is_string));
    let audiences = payload.get("aud").is_none_or(|all| match all {
        Value::Array(all) => all.iter().all(Value::is_string),
        one => one.is_string(),
    });
    if texts && audiences { Ok(()) } else { Err(Invalid::Claim) }
}

fn time(payload: &Map<String, Value>, name: &str) -> Result<Option<u64>, Invalid> {
    let Some(value) = payload.get(name) else { return Ok(None) };
    if let Some(whole) = value.as_u64() {
        return Ok(Some(whole));
    }
    let fraction = value.as_f64().filter(|time| *time >= 0.0).ok_or(Invalid::Claim)?;
    // Without a cast: digits before the point are a number, or more than any clock has.
    let whole = format!("{:.0}", fraction.floor());
    Ok(Some(whole.parse().unwrap_or(u64::MAX)))
}

/// Bytes of a token. Nothing longer fits into what servers take for a header.
pub const MAX_TOKEN: usize = 16 << 10;
