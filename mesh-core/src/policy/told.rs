//! What a rule asks for, as it is told to others: values are written as users write them, and read as those of users are.

use http::HeaderName;
use serde::Serialize;

use super::matcher::{AccountMatch, StringMatch, parse_ip_block, parse_port};
use super::rule::Matcher;
use super::template::PathMatch;

/// What a [`Matcher`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// Of [`Matcher::Principal`].
    Principal,
    /// Of [`Matcher::Namespace`].
    Namespace,
    /// Of [`Matcher::TrustDomain`].
    TrustDomain,
    /// Of [`Matcher::ServiceAccount`].
    ServiceAccount,
    /// Of [`Matcher::SourceIp`].
    SourceIp,
    /// Of [`Matcher::DestinationIp`].
    DestinationIp,
    /// Of [`Matcher::DestinationPort`].
    DestinationPort,
    /// Of [`Matcher::Host`].
    Host,
    /// Of [`Matcher::Method`].
    Method,
    /// Of [`Matcher::Path`].
    Path,
    /// Of [`Matcher::Header`].
    Header,
    /// Of [`Matcher::RemoteIp`].
    RemoteIp,
    /// Of [`Matcher::RequestPrincipal`].
    RequestPrincipal,
    /// Of [`Matcher::Audience`].
    Audience,
    /// Of [`Matcher::Presenter`].
    Presenter,
    /// Of [`Matcher::Claim`].
    Claim,
    /// Of [`Matcher::ServerName`].
    ServerName,
}

/// A [`Matcher`] in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What it is about.
    pub attribute: Attribute,
    /// Of a header its name; of a claim its name and those within it.
    pub names: Vec<String>,
    /// As users write them.
    pub values: Vec<String>,
}

impl Matcher {
    /// Puts it into words.
    pub fn tell(&self) -> Told {
        let mut names = Vec::new();
        let (attribute, values) = match self {
            Self::Principal(values) => (Attribute::Principal, texts(values)),
            Self::Namespace(values) => (Attribute::Namespace, texts(values)),
            Self::TrustDomain(values) => (Attribute::TrustDomain, texts(values)),
            Self::ServiceAccount(values) => (Attribute::ServiceAccount, texts(values)),
            Self::SourceIp(values) => (Attribute::SourceIp, texts(values)),
            Self::DestinationIp(values) => (Attribute::DestinationIp, texts(values)),
            Self::DestinationPort(values) => {
                (Attribute::DestinationPort, values.iter().map(ToString::to_string).collect())
            }
            Self::Host(values) => (Attribute::Host, texts(values)),
            Self::Method(values) => (Attribute::Method, texts(values)),
            Self::Path(values) => (Attribute::Path, texts(values)),
            Self::Header { name, values } => {
                names.push(name.as_str().to_owned());
                (Attribute::Header, texts(values))
            }
            Self::RemoteIp(values) => (Attribute::RemoteIp, texts(values)),
            Self::RequestPrincipal(values) => (Attribute::RequestPrincipal, texts(values)),
            Self::Audience(values) => (Attribute::Audience, texts(values)),
            Self::Presenter(values) => (Attribute::Presenter, texts(values)),
            Self::Claim { path, values } => {
                names.extend(path.iter().map(ToString::to_string));
                (Attribute::Claim, texts(values))
            }
            Self::ServerName(values) => (Attribute::ServerName, texts(values)),
        };
        Told { attribute, names, values }
    }

    /// Reads what [`Self::tell`] makes; `None` for what it never does.
    pub fn of_told(told: &Told) -> Option<Self> {
        let Told { attribute, names, values } = told;
        let strings = || values.iter().map(|value| StringMatch::parse(value)).collect();
        let folded = || values.iter().map(|value| StringMatch::parse(&value.to_ascii_lowercase())).collect();
        Some(match attribute {
            Attribute::Principal => Self::Principal(strings()),
            Attribute::Namespace => Self::Namespace(strings()),
            Attribute::TrustDomain => Self::TrustDomain(strings()),
            Attribute::ServiceAccount => {
                // Each comes with its namespace.
                Self::ServiceAccount(read(values, |text| AccountMatch::parse(text, ""))?)
            }
            Attribute::SourceIp => Self::SourceIp(read(values, parse_ip_block)?),
            Attribute::DestinationIp => Self::DestinationIp(read(values, parse_ip_block)?),
            Attribute::DestinationPort => Self::DestinationPort(read(values, parse_port)?),
            Attribute::Host => Self::Host(folded()),
            Attribute::Method => Self::Method(strings()),
            Attribute::Path => Self::Path(read(values, |text| PathMatch::parse(text).ok())?),
            Attribute::Header => {
                let name = HeaderName::from_bytes(names.first()?.as_bytes()).ok()?;
                Self::Header { name, values: strings() }
            }
            Attribute::RemoteIp => Self::RemoteIp(read(values, parse_ip_block)?),
            Attribute::RequestPrincipal => Self::RequestPrincipal(strings()),
            Attribute::Audience => Self::Audience(strings()),
            Attribute::Presenter => Self::Presenter(strings()),
            Attribute::Claim if names.is_empty() => return None,
            Attribute::Claim => Self::Claim {
                path: names.iter().map(|name| name.as_str().into()).collect(),
                values: strings(),
            },
            Attribute::ServerName => Self::ServerName(folded()),
        })
    }
}

/// In the form in which users write them, which is the form in which they are shown.
fn texts(values: &[impl Serialize]) -> Vec<String> {
    let text = |value: &_| match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        // No value is shown otherwise; this would be read as something that nothing matches.
        _ => String::new(),
    };
    values.iter().map(text).collect()
}

fn read<T>(values: &[String], parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    values.iter().map(|value| parse(value)).collect()
}
