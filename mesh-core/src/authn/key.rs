//! Keys of issuers: JSON Web Key Sets, RFC 7517, of which only public keys for signatures are taken.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::algorithm::Algorithm;
use super::json;

/// The keys of an issuer that its tokens can be checked with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// A key, and what its issuer says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What tokens name it by.
    pub id: Option<Box<str>>,
    /// The only algorithm that it is for, where it says so.
    pub algorithm: Option<Algorithm>,
    /// The key itself.
    pub public: PublicKey,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// Of RSA with 2048 to 8192 bits: modulus and exponent, big-endian, without zeros before them.
    Rsa {
        /// The modulus.
        n: Box<[u8]>,
        /// The exponent.
        e: Box<[u8]>,
    },
    /// Of an elliptic curve: a point, uncompressed as SEC 1 has it.
    Ec(Curve, Box<[u8]>),
    /// Of Ed25519.
    Ed25519([u8; 32]),
}

/// A curve of ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

/// Why text is no key set. It says nothing of what the text holds: that may come from anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It has more than [`MAX_TEXT`] bytes.
    #[error("is longer than a key set may be, {MAX_TEXT} bytes")]
    TooLong,
    /// It is not JSON with a list `keys` of at most [`MAX_KEYS`].
    #[error("is not a JSON Web Key Set of at most {MAX_KEYS} keys")]
    Form,
}

impl KeySet {
    /// Reads a key set. Keys that are for something else, are secret, or are of a kind or size that tokens are not checked
    /// with, are left out: an issuer may have such beside the others.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_TEXT {
            return Err(KeySetError::TooLong);
        }
        let set = json::object(text).ok_or(KeySetError::Form)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::Form)?;
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::Form);
        }
        Ok(Self { keys: keys.iter().filter_map(Value::as_object).filter_map(Key::parse).collect() })
    }

    /// Whether no token can be checked with it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that a token may be signed with which names this algorithm and key: the key decides what it is for. A key
    /// without a name may be the one that a token means.
    pub fn candidates<'s>(
        &'s self,
        algorithm: Algorithm,
        id: Option<&'s str>,
    ) -> impl Iterator<Item = &'s Key> {
        let is_named = move |key: &&Key| match (id, key.id.as_deref()) {
            (Some(wanted), Some(own)) => wanted == own,
            (None, _) | (_, None) => true,
        };
        self.keys.iter().filter(move |key| key.is_for(algorithm)).filter(is_named)
    }

    /// The key set as text that [`Self::parse`] reads, with nothing in it that is not used.
    pub fn to_json(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(Key::to_json).collect();
        json!({ "keys": keys }).to_string()
    }
}

impl Key {
    fn parse(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        // What is secret is no key to check with, and should not have come here.
        if key.contains_key("d") || key.contains_key("k") {
            return None;
        }
        if key.get("use").is_some_and(|usage| usage.as_str() != Some("sig")) {
            return None;
        }
        let verifies = |usages: &Value| {
            usages.as_array().is_some_and(|all| all.iter().any(|usage| usage.as_str() == Some("verify")))
        };
        if !key.get("key_ops").is_none_or(verifies) {
            return None;
        }
        let public = match text("kty")? {
            "RSA" => PublicKey::rsa(&bytes(text("n")?)?, &bytes(text("e")?)?),
            "EC" => PublicKey::ec(text("crv")?, &bytes(text("x")?)?, &bytes(text("y")?)?),
            "OKP" if text("crv")? == "Ed25519" => bytes(text("x")?)?.try_into().ok().map(PublicKey::Ed25519),
            _ => None,
        }?;
        let algorithm = match key.get("alg") {
            None => None,
            // For one that is not known here, it is of no use.
            Some(name) => Some(Algorithm::parse(name.as_str()?)?),
        };
        let id = match key.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.into()),
        };
        let known = Self { id, algorithm, public };
        algorithm.is_none_or(|algorithm| known.public.is_of(algorithm)).then_some(known)
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm) && self.public.is_of(algorithm)
    }

    fn to_json(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut key = match &self.public {
            PublicKey::Rsa { n, e } => json!({ "kty": "RSA", "n": text(n), "e": text(e) }),
            PublicKey::Ec(curve, point) => {
                let (x, y) =
                    point.get(1..).unwrap_or_default().split_at_checked(curve.size()).unwrap_or_default();
                json!({ "kty": "EC", "crv": curve.name(), "x": text(x), "y": text(y) })
            }
            PublicKey::Ed25519(x) => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(x) }),
        };
        if let Some(id) = &self.id {
            key["kid"] = Value::from(&**id);
        }
        if let Some(algorithm) = self.algorithm {
            key["alg"] = Value::from(algorithm.name());
        }
        key
    }
}

impl PublicKey {
    fn rsa(n: &[u8], e: &[u8]) -> Option<Self> {
        let (n, e) = (trimmed(n), trimmed(e));
        let bits = n.len() * 8 - usize::try_from(n.first()?.leading_zeros()).ok()?;
        let is_usable = (2048..=8192).contains(&bits) && e.len() <= 5 && e.last()? % 2 == 1 && e != [1];
        is_usable.then(|| Self::Rsa { n: n.into(), e: e.into() })
    }

    fn ec(curve: &str, x: &[u8], y: &[u8]) -> Option<Self> {
        let curve = [Curve::P256, Curve::P384, Curve::P521].into_iter().find(|it| it.name() == curve)?;
        let is_whole = x.len() == curve.size() && y.len() == curve.size();
        is_whole.then(|| Self::Ec(curve, [&[4], x, y].concat().into()))
    }

    /// Whether signatures of this algorithm are checked with such a key.
    pub const fn is_of(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self {
            Self::Rsa { .. } => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Self::Ec(Curve::P256, _) => matches!(algorithm, Es256),
            Self::Ec(Curve::P384, _) => matches!(algorithm, Es384),
            Self::Ec(Curve::P521, _) => matches!(algorithm, Es512),
            Self::Ed25519(_) => matches!(algorithm, EdDsa),
        }
    }
}

impl Curve {
    const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of a coordinate.
    const fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

fn trimmed(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number.get(start..).unwrap_or_default()
}

/// Bytes of a key set: those of the large issuers have some 5 KiB, with certificates 20.
pub const MAX_TEXT: usize = 256 << 10;
/// Keys of one set: each may have to be tried for a token that names none.
pub const MAX_KEYS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn rsa(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xab; bytes])
    }

    fn ec(crv: &str, size: usize) -> Value {
        let half = URL_SAFE_NO_PAD.encode(vec![7; size]);
        json!({"kty": "EC", "crv": crv, "x": half, "y": half})
    }

    #[test]
    fn a_key_is_taken_if_tokens_can_be_checked_with_it() {
        let good = json!({"kty": "RSA", "n": rsa(256), "e": "AQAB"});
        let with = |name: &str, value: Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        let okp =
            |crv: &str, size| json!({"kty": "OKP", "crv": crv, "x": URL_SAFE_NO_PAD.encode(vec![7; size])});
        for (key, taken) in [
            (good.clone(), true),
            (with("use", json!("sig")), true),
            (with("use", json!("enc")), false),
            (with("use", json!(1)), false),
            (with("key_ops", json!(["verify"])), true),
            (with("key_ops", json!(["encrypt"])), false),
            (with("alg", json!("PS384")), true),
            (with("alg", json!("HS256")), false),
            (with("alg", json!("ES256")), false),
            (with("alg", json!("none")), false),
            (with("kid", json!(1)), false),
            (with("d", json!("AQAB")), false),
            (with("n", json!(rsa(1024))), true),
            (with("n", json!(rsa(128))), false),
            (with("n", json!(rsa(1025))), false),
            (with("n", json!("")), false),
            (with("n", json!("*")), false),
            (with("e", json!("AQ")), false),
            (with("e", json!("AAAC")), false),
            (with("e", json!("AQABAQAB")), false),
            (json!({"kty": "oct", "k": "c2VjcmV0"}), false),
            (ec("P-256", 32), true),
            (ec("P-384", 48), true),
            (ec("P-521", 66), true),
            (ec("P-256", 31), false),
            (ec("P-384", 32), false),
            (ec("secp256k1", 32), false),
            (okp("Ed25519", 32), true),
            (okp("Ed25519", 31), false),
            (okp("X25519", 32), false),
            (json!({"n": rsa(256), "e": "AQAB"}), false),
        ] {
            let set = KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap();
            assert_eq!(!set.is_empty(), taken, "{key}");
            assert_eq!(KeySet::parse(set.to_json().as_bytes()), Ok(set), "{key}");
        }
    }

    #[test]
    fn what_is_no_key_set_is_refused_whole() {
        let many = |count| json!({ "keys": vec![ec("P-256", 32); count] }).to_string();
        assert_eq!(KeySet::parse(many(MAX_KEYS).as_bytes()).unwrap().len(), MAX_KEYS);
        let long = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(MAX_TEXT));
        for (text, error) in [
            (many(MAX_KEYS + 1), KeySetError::Form),
            (long, KeySetError::TooLong),
            ("{}".to_owned(), KeySetError::Form),
            ("[]".to_owned(), KeySetError::Form),
            (r#"{"keys": {}}"#.to_owned(), KeySetError::Form),
            (r#"{"keys": [], "keys": []}"#.to_owned(), KeySetError::Form),
        ] {
            assert_eq!(KeySet::parse(text.as_bytes()), Err(error));
        }
    }

    #[test]
    fn the_key_decides_which_tokens_it_is_for() {
        let mut named = json!({"kty": "RSA", "n": rsa(256), "e": "AQAB", "kid": "one", "alg": "RS256"});
        let one = named.clone();
        named["kid"] = json!("two");
        named.as_object_mut().unwrap().remove("alg");
        let set = json!({ "keys": [one, named, ec("P-256", 32)] }).to_string();
        let set = KeySet::parse(set.as_bytes()).unwrap();
        for (algorithm, id, count) in [
            (Algorithm::Rs256, None, 2),
            (Algorithm::Rs256, Some("one"), 1),
            (Algorithm::Ps256, Some("one"), 0),
            (Algorithm::Ps256, Some("two"), 1),
            (Algorithm::Rs512, None, 1),
            (Algorithm::Rs256, Some("three"), 0),
            (Algorithm::Es256, Some("three"), 1),
            (Algorithm::Es384, None, 0),
            (Algorithm::EdDsa, None, 0),
        ] {
            assert_eq!(set.candidates(algorithm, id).count(), count, "{algorithm:?} {id:?}");
        }
    }
}
