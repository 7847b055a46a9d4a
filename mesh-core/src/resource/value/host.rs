//! Names of hosts, as rules spell them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::super::tree::quote;
use super::{FromText, Refusal, text_value};

/// A host, or a wildcard for many. Names are kept in lower case, because that is how they are compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// `*`.
    Any,
    /// `*` and what must follow it: `.example.com` of `*.example.com`. Never empty.
    Suffix(Arc<str>),
    /// A name without a wildcard. One without a dot is short, see [`Host::qualified`].
    Name(Arc<str>),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// Reads `text`: an address, or DNS labels of which the first may be or begin with `*`, at most 255 bytes.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() {
            return Err(Refusal::new("must not be empty"));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if text.len() > LONGEST {
            return Err(Refusal::new(format!("{} is longer than {LONGEST} bytes", quote(text))));
        }
        if !is_domain(text) && !is_sni_name(text) {
            let reason = format!("{} is not a host", quote(text));
            return Err(Refusal::with_hint(reason, hint(text)));
        }
        let name = text.to_ascii_lowercase();
        Ok(match name.strip_prefix('*') {
            Some("") => Self::Any,
            Some(suffix) => Self::Suffix(Arc::from(suffix)),
            None => Self::Name(Arc::from(name)),
        })
    }

    /// Whether it stands for more than one name.
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Self::Any | Self::Suffix(_))
    }

    /// Whether it is a name without a dot, which means a Service of the rule's namespace.
    pub fn is_short(&self) -> bool {
        matches!(self, Self::Name(name) if !name.contains('.'))
    }

    /// Whether it is an SNI that clusters' gateways use among themselves: `outbound_.PORT_.SUBSET_.HOST`.
    pub fn is_sni_name(&self) -> bool {
        matches!(self, Self::Name(name) if name.starts_with(SNI_PREFIX))
    }

    /// Short names as the Service of `namespace` that they mean; all others as they are.
    #[must_use]
    pub fn qualified(&self, namespace: &str, cluster_domain: &str) -> Self {
        match self {
            Self::Name(name) if !name.contains('.') => {
                Self::Name(format!("{name}.{namespace}.svc.{cluster_domain}").into())
            }
            other => other.clone(),
        }
    }

    /// Whether every name that `other` stands for is one that `self` stands for.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Suffix(suffix), Self::Suffix(other)) => other.ends_with(&**suffix),
            (Self::Suffix(suffix), Self::Name(name)) => ends_with(name, suffix),
            _ => self == other,
        }
    }

    /// Whether there is a name that both stand for.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Whether it stands for `name`, which is in lower case and has neither a port nor a dot at its end.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Suffix(suffix) => ends_with(name, suffix),
            Self::Name(own) => own.strip_suffix('.').unwrap_or(own) == name,
            Self::Address(address) => name.parse::<IpAddr>().is_ok_and(|name| name == *address),
        }
    }
}

impl FromText for Host {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        Self::parse(text)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

text_value!(Host, {"type": "string"});

/// A star stands for at least one character.
fn ends_with(name: &str, suffix: &str) -> bool {
    name.len() > suffix.len() && name.ends_with(suffix)
}

/// DNS labels, the first perhaps with a star; one dot may stand at the end; the last is not a number.
fn is_domain(text: &str) -> bool {
    let absolute = text.strip_suffix('.').unwrap_or(text);
    let (first, rest) = absolute.split_once('.').unwrap_or((absolute, ""));
    let bare = first.strip_prefix("*-").or_else(|| first.strip_prefix('*')).unwrap_or(first);
    let star = bare.len() < first.len();
    let first_is_fine = first == "*" || (is_label(bare) && first.len() <= 63);
    let rest_is_fine = rest.is_empty() || rest.split('.').all(is_label);
    let last = absolute.rsplit('.').next().unwrap_or_default();
    let numeric = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    // "*." and "a.." have an empty label that splitting off the last dot would hide.
    let hidden = absolute.ends_with('.') || (first == "*" && rest.is_empty() && text.len() > 1);
    first_is_fine && rest_is_fine && !hidden && !(numeric && !(star && rest.is_empty()))
}

/// A DNS label in any case.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_sni_name(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(SNI_PREFIX) else { return false };
    let mut parts = rest.splitn(3, "_.");
    let (port, subset, host) = (parts.next(), parts.next(), parts.next());
    let port_is_fine = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    port_is_fine
        && subset.is_some_and(|subset| subset.is_empty() || is_label(subset))
        && host.is_some_and(is_domain)
}

/// What is most likely wrong with a name.
fn hint(text: &str) -> &'static str {
    if text.contains("://") {
        "write only the host, without a scheme"
    } else if text.contains('#') {
        "a comment begins with a space and #"
    } else if text.contains('/') {
        "write only the host, without a path or namespace"
    } else if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        "write only the host, without a port"
    } else if text.get(1..).is_some_and(|rest| rest.contains('*')) {
        "a * may only stand at the start"
    } else {
        "write DNS labels of letters, digits and -, joined by dots"
    }
}

/// Bytes of a name.
const LONGEST: usize = 255;
/// What the SNI of traffic between gateways begins with.
const SNI_PREFIX: &str = "outbound_.";
