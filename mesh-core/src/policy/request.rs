//! Requests as policies see them, and how far a connection has been looked into when policy is asked.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName};

use super::matcher::StringMatch;
use crate::authn::Claims;

/// A request in the one form that is both matched and sent on.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method, as it was sent.
    pub method: &'a str,
    /// The host that it is for; `None` in HTTP/1.0 only.
    pub host: Option<&'a Host<'a>>,
    /// The path in normal form, without its query.
    pub path: &'a str,
    /// All headers but the host's.
    pub headers: &'a HeaderMap,
    /// Who sent it, as far back as proxies are believed.
    pub remote_ip: IpAddr,
    /// The server name that TLS asked for, if the client has used TLS.
    pub server_name: Option<&'a str>,
    /// What its token says, if it has one that was found valid. Only ever from what verifies tokens.
    pub claims: Option<&'a Claims>,
}

/// What is known of what a connection carries.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// Nothing yet: it can still be looked at.
    Nothing,
    /// Nothing, and it is too late to look: bytes have passed that nobody read. What needs more than addresses and
    /// identities gets the strict answer.
    Unread,
    /// That it carries no requests, and the server name that its TLS asks for. What needs a request gets the strict answer.
    Bytes {
        /// The name.
        server_name: Option<&'a str>,
    },
    /// One of its requests.
    Request(&'a Request<'a>),
}

/// The authority of a request in canonical form: the port stands by itself, and there is no dot at the end. Case makes
/// no difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    name: &'a str,
    /// With the port, if one was written.
    whole: Cow<'a, str>,
}

impl<'a> Host<'a> {
    /// Of an authority that is one: `host`, `host:port`, or an IPv6 address in brackets for the host.
    pub fn of(authority: &'a str) -> Self {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        let whole = match port {
            _ if name.len() == host.len() => Cow::Borrowed(authority),
            None => Cow::Borrowed(name),
            Some(port) => Cow::Owned(format!("{name}:{port}")),
        };
        Self { name, whole }
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

/// What can be said of a rule before all is known. Ordered, so that "all of" is the least and "any of" the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    No,
    /// It depends on a request that is still to come.
    Open,
    Yes,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

impl Truth {
    pub(super) fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Open => Self::Open,
            Self::Yes => Self::No,
        }
    }

    /// The least; stops at the first that cannot be.
    pub(super) fn all(of: impl Iterator<Item = Self>) -> Self {
        let mut least = Self::Yes;
        for one in of {
            least = least.min(one);
            if least == Self::No {
                break;
            }
        }
        least
    }

    /// The greatest; stops at the first that is certain.
    pub(super) fn any(of: impl Iterator<Item = Self>) -> Self {
        let mut greatest = Self::No;
        for one in of {
            greatest = greatest.max(one);
            if greatest == Self::Yes {
                break;
            }
        }
        greatest
    }
}

/// Whether any of `patterns`, which are in lower case, is for the host, with its port or without.
pub(super) fn is_host(patterns: &[StringMatch], host: Option<&Host<'_>>) -> bool {
    let Some(host) = host else { return false };
    let has_port = host.whole.len() != host.name.len();
    patterns
        .iter()
        .any(|pattern| pattern.matches_folded(host.name) || has_port && pattern.matches_folded(&host.whole))
}

/// How many of a header's values count where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Any, also one in a list: for whatever should rather be found than missed.
    Any,
    /// All: for whatever lets somebody pass.
    All,
}

/// Whether the values of a header match, each by itself: what proxies and servers make of several is anybody's guess.
pub(super) fn is_header(
    headers: &HeaderMap,
    name: &HeaderName,
    patterns: &[StringMatch],
    count: Count,
) -> bool {
    let mut values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let matches = |value: &str| patterns.iter().any(|pattern| pattern.matches(value));
    match count {
        Count::Any => values.any(|value| {
            let listed = || value.split(',').map(str::trim).any(matches);
            // A header without a value is there all the same.
            matches(&value) || patterns.contains(&StringMatch::Present) || value.contains(',') && listed()
        }),
        Count::All => {
            let mut some = false;
            values.all(|value| {
                some = true;
                matches(&value)
            }) && some
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_form() {
        for (authority, name, whole) in [
            ("a.com", "a.com", "a.com"),
            ("a.com.", "a.com", "a.com"),
            ("a.com:80", "a.com", "a.com:80"),
            ("a.com.:80", "a.com", "a.com:80"),
            ("[::1]", "[::1]", "[::1]"),
            ("[::1]:80", "[::1]", "[::1]:80"),
            ("", "", ""),
        ] {
            let host = Host::of(authority);
            assert_eq!((host.name, &*host.whole), (name, whole), "{authority}");
        }
        let is = |pattern: &str, authority: &str| {
            is_host(&[StringMatch::parse(pattern)], Some(&Host::of(authority)))
        };
        for (pattern, authority, expected) in [
            ("secret.com", "Secret.COM", true),
            ("secret.com", "secret.com:8080", true),
            ("secret.com", "secret.com.", true),
            ("secret.com", "SECRET.com.:8080", true),
            ("secret.com:8080", "secret.com.:8080", true),
            ("secret.com:*", "secret.com:8080", true),
            ("secret.com:8080", "secret.com:80", false),
            ("secret.com:8080", "secret.com", false),
            ("*.com", "secret.com:80", true),
            ("*:80", "secret.com:80", true),
            ("secret*", "SECRET.com", true),
            ("secret.com", "asecret.com", false),
            ("*", "x", true),
        ] {
            assert_eq!(is(pattern, authority), expected, "{pattern} {authority}");
        }
        assert!(!is_host(&[StringMatch::Present], None));
    }

    /// A second value must not hide a first one, nor the other way round.
    #[test]
    fn each_value_of_a_header_counts() {
        let name = HeaderName::from_static("x-role");
        let ask = |pattern: &str, values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| _ = headers.append(&name, value.parse().unwrap()));
            let patterns = [StringMatch::parse(pattern)];
            [Count::Any, Count::All].map(|count| is_header(&headers, &name, &patterns, count))
        };
        for (pattern, values, expected) in [
            ("admin", &["admin"][..], [true, true]),
            ("admin", &["user", "admin"], [true, false]),
            ("admin", &["admin", "user"], [true, false]),
            ("admin", &["user, admin"], [true, false]),
            ("admin", &["user,admin ,x"], [true, false]),
            ("user, admin", &["user, admin"], [true, true]),
            ("admin", &["Admin"], [false, false]),
            ("admin", &["user"], [false, false]),
            ("admin", &[], [false, false]),
            ("*", &[], [false, false]),
            ("*", &[""], [true, false]),
            ("*", &["x"], [true, true]),
            ("us*", &["user", "usher"], [true, true]),
        ] {
            assert_eq!(ask(pattern, values), expected, "{pattern} {values:?}");
        }
    }
}
