//! How policies compare: typed matchers, compared as bytes. Nothing here builds a pattern out of a string, so no
//! character of a user's value has a meaning that the user did not give it.

use ipnet::{IpNet, Ipv4Net};
use serde::{Serialize, Serializer};

use crate::id::TrustDomain;

/// Exact, `prefix*`, `*suffix` or `*` (present).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StringMatch {
    /// This text.
    Exact(Box<str>),
    /// Begins with it.
    Prefix(Box<str>),
    /// Ends with it.
    Suffix(Box<str>),
    /// Anything but nothing.
    Present,
}

impl StringMatch {
    /// Every text is a pattern. A star anywhere but at one end is a plain character; if both ends have one, the first
    /// counts, as it does for Istio.
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(text.into())
        }
    }

    pub(super) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Prefix(prefix) => value.starts_with(&**prefix),
            Self::Suffix(suffix) => value.ends_with(&**suffix),
            Self::Present => !value.is_empty(),
        }
    }

    /// As [`Self::matches`], without regard to case; the pattern itself is in lower case.
    pub(super) fn matches_folded(&self, value: &str) -> bool {
        let (own, value) = (self.text().as_bytes(), value.as_bytes());
        let beside = value.len().checked_sub(own.len());
        let is = |part: Option<&[u8]>| part.is_some_and(|part| part.eq_ignore_ascii_case(own));
        match self {
            Self::Exact(_) => is(Some(value)),
            Self::Prefix(_) => is(value.get(..own.len())),
            Self::Suffix(_) => is(beside.and_then(|start| value.get(start..))),
            Self::Present => !value.is_empty(),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
            Self::Present => "",
        }
    }
}

/// In the form in which users write it.
impl Serialize for StringMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact(text) => serializer.serialize_str(text),
            Self::Prefix(text) => serializer.collect_str(&format_args!("{text}*")),
            Self::Suffix(text) => serializer.collect_str(&format_args!("*{text}")),
            Self::Present => serializer.serialize_str("*"),
        }
    }
}

/// The names of one trust domain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrustDomains<'a> {
    pub(crate) own: &'a TrustDomain,
    pub(crate) aliases: &'a [TrustDomain],
}

impl<'a> TrustDomains<'a> {
    fn all(self) -> impl Iterator<Item = &'a TrustDomain> {
        std::iter::once(self.own).chain(self.aliases)
    }

    /// The matchers for a principal: one that names any of the trust domains (or `cluster.local`, which in policies
    /// means "this mesh") is meant for all of them.
    pub(super) fn principals(self, text: &str) -> Vec<StringMatch> {
        let literal = StringMatch::parse(text);
        let Some((domain, rest)) = text.split_once('/') else {
            return vec![literal];
        };
        match domain.strip_prefix('*') {
            // Whatever ends like this.
            Some("") => vec![literal],
            Some(end) => {
                let ours = self.all().any(|domain| domain.as_str().ends_with(end));
                let expanded = self.all().filter(|_| ours).map(|domain| format!("{domain}/{rest}"));
                let expanded = expanded.map(|text| StringMatch::Exact(text.into()));
                std::iter::once(literal).chain(expanded).collect()
            }
            None if domain == "cluster.local" || self.all().any(|known| known.as_str() == domain) => {
                self.all().map(|domain| StringMatch::parse(&format!("{domain}/{rest}"))).collect()
            }
            None => vec![literal],
        }
    }
}

/// A service account of any trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountMatch {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl AccountMatch {
    /// `namespace/name`, or `name` in `own_namespace`. No wildcards.
    pub(super) fn parse(text: &str, own_namespace: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/').unwrap_or((own_namespace, text));
        let plain = |part: &str| !part.is_empty() && !part.contains(['/', '*']);
        (plain(namespace) && plain(name)).then(|| Self { namespace: namespace.into(), name: name.into() })
    }
}

impl Serialize for AccountMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}/{}", self.namespace, self.name))
    }
}

/// An address or a CIDR. Addresses arrive in canonical form, so a block of IPv4-mapped addresses is turned into the
/// IPv4 block it means.
pub(super) fn parse_ip_block(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network.trunc(),
        Err(_) => IpNet::from(text.parse::<std::net::IpAddr>().ok()?),
    };
    let IpNet::V6(v6) = network else {
        return Some(network);
    };
    let mapped = v6.addr().to_ipv4_mapped().filter(|_| v6.prefix_len() >= MAPPED_BITS);
    match mapped {
        Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - MAPPED_BITS).ok().map(IpNet::V4),
        None => Some(network),
    }
}

/// A port as policies write it.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// The length of `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("ab", &["ab"], &["a", "abc", "cab", "", "AB"]),
            ("ab*", &["ab", "abc"], &["a", "cab", ""]),
            ("*ab", &["ab", "cab"], &["abc", "cabc", "b", ""]),
            ("*", &["a", "*"], &[""]),
            ("a*b", &["a*b"], &["ab", "acb"]),
            ("*ab*", &["ab*", "xab*"], &["ab", "xabx"]),
            ("**", &["*", "a*"], &["a", ""]),
            ("a.b", &["a.b"], &["acb"]),
            ("", &[""], &["a"]),
        ];
        for (pattern, matching, others) in cases {
            let compiled = StringMatch::parse(pattern);
            assert_eq!(serde_json::to_value(&compiled).unwrap(), **pattern);
            assert!(matching.iter().all(|value| compiled.matches(value)), "{pattern}");
            assert!(others.iter().all(|value| !compiled.matches(value)), "{pattern}");
        }
    }

    #[test]
    fn accounts_have_no_wildcards() {
        let parse = |text| AccountMatch::parse(text, "own");
        let account = |namespace: &str, name: &str| {
            Some(AccountMatch { namespace: namespace.into(), name: name.into() })
        };
        assert_eq!(parse("ns/sa"), account("ns", "sa"));
        assert_eq!(parse("sa"), account("own", "sa"));
        for bad in ["", "/", "ns/", "/sa", "*", "ns/*", "*/sa", "a/b/c"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn blocks_and_ports() {
        let block = |text| parse_ip_block(text).map(|network| network.to_string());
        assert_eq!(block("10.1.2.3").as_deref(), Some("10.1.2.3/32"));
        assert_eq!(block("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(block("fd00::1").as_deref(), Some("fd00::1/128"));
        assert_eq!(block("::ffff:10.1.2.3").as_deref(), Some("10.1.2.3/32"));
        assert_eq!(block("::ffff:10.1.2.3/104").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(block("::ffff:0:0/96").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(block("::/0").as_deref(), Some("::/0"));
        for bad in ["", "10.0.0.0/33", "10.0.0", "a", "10.0.0.1/", "*", "10.0.0.0-10.0.0.9", "fe80::1%eth0"] {
            assert_eq!(block(bad), None, "{bad}");
        }
        assert_eq!((parse_port("80"), parse_port("65535")), (Some(80), Some(65535)));
        for bad in ["", "0", "65536", "+80", "-1", " 80", "80-90", "*"] {
            assert_eq!(parse_port(bad), None, "{bad}");
        }
    }
}
