//! Where a request may have a token.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::resource::request_authentication::JwtRule;
use crate::route::RequestView;

/// A place in requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// Values of a header that begin with this.
    Header {
        /// Its name.
        name: HeaderName,
        /// What stands before the token.
        prefix: Box<str>,
        /// Whether that is the name of a scheme, in which upper and lower case are the same (RFC 9110, 11.1).
        scheme: bool,
    },
    /// Parameters of the query of this name.
    Parameter(Box<str>),
    /// Cookies of this name.
    Cookie(Box<str>),
}

impl Place {
    /// Those of a rule, in the order in which it is looked there. Names that cannot be a header's are nowhere.
    pub(super) fn all_of(rule: &JwtRule) -> Vec<Self> {
        let headers = rule.from_headers.iter().filter_map(|header| {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
            Some(Self::Header { name, prefix: header.prefix.as_str().into(), scheme: false })
        });
        let parameters = rule.from_params.iter().map(|name| Self::Parameter(name.as_str().into()));
        let cookies = rule.from_cookies.iter().map(|name| Self::Cookie(name.as_str().into()));
        let all: Vec<_> = headers.chain(parameters).chain(cookies).collect();
        let says_any =
            !(rule.from_headers.is_empty() && rule.from_params.is_empty() && rule.from_cookies.is_empty());
        if says_any {
            return all;
        }
        let bearer = Self::Header { name: header::AUTHORIZATION, prefix: BEARER.into(), scheme: true };
        vec![bearer, Self::Parameter(ACCESS_TOKEN.into())]
    }

    /// The tokens that a request has here, whatever they are. What cannot be one is there as well, and no token: whoever sends it
    /// is not taken for somebody who sends none.
    pub(super) fn tokens<'r>(&self, request: &RequestView<'r>) -> Vec<Cow<'r, str>> {
        match self {
            Self::Header { name, .. } => {
                let values = request.headers.get_all(name).iter();
                values.filter_map(|value| Some(text(self.rest(value)?).into())).collect()
            }
            Self::Parameter(wanted) => {
                let pairs = request.query.unwrap_or_default().split('&');
                let own = pairs.filter_map(|pair| value_of(pair, wanted));
                own.map(decoded).collect()
            }
            Self::Cookie(wanted) => {
                let values = request.headers.get_all(header::COOKIE).iter();
                let pairs = values.flat_map(|value| text(value.as_bytes()).split(';'));
                pairs.filter_map(|pair| cookie(pair, wanted)).map(Cow::from).collect()
            }
        }
    }

    /// Takes them out of the headers.
    pub(super) fn remove_from(&self, headers: &mut HeaderMap) {
        match self {
            Self::Header { name, .. } => {
                keep(headers, name, |value| self.rest(value).is_none().then(|| value.clone()));
            }
            Self::Parameter(_) => {}
            Self::Cookie(wanted) => keep(headers, &header::COOKIE, |value| {
                let pairs = value.to_str().ok()?.split(';').map(str::trim);
                let others: Vec<_> = pairs.filter(|pair| cookie(pair, wanted).is_none()).collect();
                HeaderValue::from_str(&others.join("; ")).ok().filter(|rest| !rest.is_empty())
            }),
        }
    }

    /// The query without them; `None` if it has none.
    pub(super) fn remove_from_query(&self, query: &str) -> Option<String> {
        let Self::Parameter(wanted) = self else { return None };
        let others: Vec<_> = query.split('&').filter(|pair| value_of(pair, wanted).is_none()).collect();
        let others = others.join("&");
        (others.len() < query.len()).then_some(others)
    }

    /// What stands in a header's value behind the prefix.
    fn rest<'v>(&self, value: &'v HeaderValue) -> Option<&'v [u8]> {
        let Self::Header { prefix, scheme, .. } = self else { return None };
        let (start, rest) = value.as_bytes().split_at_checked(prefix.len())?;
        let is_it =
            if *scheme { start.eq_ignore_ascii_case(prefix.as_bytes()) } else { start == prefix.as_bytes() };
        is_it.then(|| rest.trim_ascii())
    }
}

/// Replaces each value of a header by what it comes to.
fn keep(headers: &mut HeaderMap, name: &HeaderName, of: impl Fn(&HeaderValue) -> Option<HeaderValue>) {
    let kept: Vec<_> = headers.get_all(name).iter().filter_map(of).collect();
    headers.remove(name);
    kept.into_iter().for_each(|value| _ = headers.append(name.clone(), value));
}

/// What is no text is no token.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or_default()
}

fn value_of<'q>(pair: &'q str, wanted: &str) -> Option<&'q str> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name == wanted || decoded(name) == wanted).then_some(value)
}

fn cookie<'c>(pair: &'c str, wanted: &str) -> Option<&'c str> {
    let (name, value) = pair.split_once('=')?;
    (name.trim() == wanted).then(|| value.trim().trim_matches('"'))
}

/// Without its escapes, as servers read it.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let escaped = digit(after.first()).zip(digit(after.get(1))).filter(|_| *first == b'%');
        if let Some((high, low)) = escaped {
            bytes.push(high << 4 | low);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap_or_default().into()
}

/// Istio's, where a rule says nothing.
const BEARER: &str = "Bearer ";
/// RFC 6750, 2.3.
const ACCESS_TOKEN: &str = "access_token";
