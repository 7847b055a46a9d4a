//! The certificate of a peer, kept as it came: what it says is read when somebody asks, which is an access log of the user's own
//! format and hardly ever anybody else.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::strangers::names;

/// See the module. What cannot be read is not there.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf(Arc<[CertificateDer<'static>]>);

/// Something that a certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// URIs among its names, separated by commas.
    Uris,
    /// DNS names, separated by commas.
    Dns,
    /// Whose it is, as RFC 2253 writes it.
    Subject,
    /// Who has signed it, written alike.
    Issuer,
    /// Its number, in hexadecimal.
    Serial,
    /// SHA-256 of it, in hexadecimal.
    Sha256,
}

impl Leaf {
    /// The first certificate of a chain; the rest is kept with it, and costs nothing where others have it as well.
    pub(crate) fn of(chain: &Arc<[CertificateDer<'static>]>) -> Option<Self> {
        (!chain.is_empty()).then(|| Self(Arc::clone(chain)))
    }

    /// What it says of something; nothing if it says nothing.
    pub fn says(&self, part: Part) -> Option<String> {
        let leaf = self.0.first()?;
        if part == Part::Sha256 {
            return Some(hex(digest(&SHA256, leaf).as_ref()));
        }
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let text = match part {
            Part::Uris => joined(&certificate, |name| match name {
                GeneralName::URI(uri) => Some(uri),
                _ => None,
            }),
            Part::Dns => joined(&certificate, |name| match name {
                GeneralName::DNSName(name) => Some(name),
                _ => None,
            }),
            Part::Subject => rfc2253(certificate.subject()),
            Part::Issuer => rfc2253(certificate.issuer()),
            Part::Serial => {
                let serial = hex(certificate.raw_serial());
                // Of a positive number the first byte may be a zero that says only that.
                serial.strip_prefix("00").map(str::to_owned).filter(|it| !it.is_empty()).unwrap_or(serial)
            }
            Part::Sha256 => String::new(),
        };
        (!text.is_empty()).then_some(text)
    }

    /// From when to when it is good.
    pub fn validity(&self) -> Option<(SystemTime, SystemTime)> {
        let (_, certificate) = X509Certificate::from_der(self.0.first()?).ok()?;
        let validity = certificate.validity();
        let [from, until] = [validity.not_before, validity.not_after];
        Some((mesh_ca::chain::time(from.timestamp()), mesh_ca::chain::time(until.timestamp())))
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leaf").field(&self.says(Part::Sha256)).finish()
    }
}

fn joined<'c>(
    certificate: &'c X509Certificate<'_>,
    wanted: impl Fn(&'c GeneralName<'c>) -> Option<&'c str>,
) -> String {
    names(certificate).filter_map(wanted).collect::<Vec<_>>().join(",")
}

/// Bytes in hexadecimal, lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// A name with its most specific part first, `CN=a,O=b`.
pub(crate) fn rfc2253(name: &X509Name<'_>) -> String {
    let part = |(oid, value): (String, String)| {
        let short = ATTRIBUTES.iter().find(|(known, _)| *known == oid).map(|(_, short)| *short);
        format!("{}={}", short.unwrap_or(&oid), escaped(&value))
    };
    let parts = name.iter_rdn().map(|rdn| {
        let attributes = rdn.iter().map(|attribute| {
            let value = attribute.as_str().unwrap_or_default().to_owned();
            part((attribute.attr_type().to_id_string(), value))
        });
        attributes.collect::<Vec<_>>().join("+")
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let last = value.len().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (at, c) in value.char_indices() {
        let at_an_end = (at == 0 && (c == ' ' || c == '#')) || (at == last && c == ' ');
        if at_an_end || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The attributes that RFC 2253 has short names for, and the one that everybody else has.
const ATTRIBUTES: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::{Kind, Pki, params};
    use rcgen::{SanType, SerialNumber};

    #[test]
    fn a_certificate_says_what_is_in_it_and_garbage_says_nothing() {
        let mut wanted = params(&["a.shop.test", "b.shop.test"]);
        wanted.serial_number = Some(SerialNumber::from_slice(&[0x80, 1]));
        for uri in ["spiffe://a/b", "urn:c"] {
            wanted.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        let chain: Arc<[_]> = Pki::new("root").made(Kind::Ecdsa, wanted).chain().into();
        let leaf = Leaf::of(&chain).unwrap();
        let says = |part| leaf.says(part).unwrap();
        assert_eq!(says(Part::Uris), "spiffe://a/b,urn:c");
        assert_eq!(says(Part::Dns), "a.shop.test,b.shop.test");
        assert_eq!((&*says(Part::Subject), &*says(Part::Serial)), ("CN=a.shop.test,O=Acme\\, Inc.", "8001"));
        assert!(says(Part::Issuer).starts_with("CN=root"));
        let (from, until) = leaf.validity().unwrap();
        assert!(from < SystemTime::now() && SystemTime::now() < until);
        let nothing: Arc<[_]> = Arc::new([CertificateDer::from(vec![1, 2, 3])]);
        let garbage = Leaf::of(&nothing).unwrap();
        let parts = [Part::Uris, Part::Dns, Part::Subject, Part::Issuer, Part::Serial];
        assert!(parts.iter().all(|part| garbage.says(*part).is_none()) && garbage.validity().is_none());
        assert_eq!(garbage.says(Part::Sha256).unwrap().len(), 64);
        assert!(Leaf::of(&Arc::from(Vec::new())).is_none());
    }

    #[test]
    fn texts_are_written_so_that_they_can_be_read_again() {
        for (text, expected) in
            [("a", "a"), (" a ", "\\ a\\ "), ("#a", "\\#a"), ("a\\\"+;<>", "a\\\\\\\"\\+\\;\\<\\>"), ("", "")]
        {
            assert_eq!(escaped(text), expected);
        }
    }
}
