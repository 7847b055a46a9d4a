//! Requests of pages from other origins.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method};

use super::RequestView;
use super::condition::matches;
use crate::resource::gateway_api::{self, AllowList, CorsHost, CorsOrigin, Scheme};
use crate::resource::networking::virtual_service::{CorsPolicy, UnmatchedPreflights};
use crate::resource::value::{Regex, StringMatch};

/// Who may read the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<StringMatch>,
    methods: Permitted,
    request_headers: Permitted,
    response_headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    answers_unmatched: bool,
    /// Whether the answer of a question, too, says which headers may be read.
    exposes_early: bool,
}

/// What a page may use.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Permitted {
    /// Nothing is said.
    Nothing,
    /// These.
    List(HeaderValue),
    /// Whatever it asks for: a star would not do where credentials come along.
    Asked,
}

/// What follows for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CorsAnswer<'a> {
    /// Nothing: it says nothing of an origin, or one that is not allowed. Headers of the destination stay as they are.
    None,
    /// It is a question, and is answered here with 200, no body, and what [`Cors::preflight`] adds.
    Preflight(&'a HeaderValue),
    /// It is a question of an origin that is not allowed, and is answered here with 200 and nothing.
    Refused,
    /// It goes on, and its answer gets what [`Cors::actual`] adds.
    Actual(&'a HeaderValue),
}

impl Cors {
    pub(super) fn of(policy: &CorsPolicy) -> Self {
        let older = || policy.allow_origin.iter().cloned().map(StringMatch::Exact).collect();
        let list = |words: &[String]| {
            let list = HeaderValue::from_str(&words.join(",")).ok();
            list.filter(|list| !list.is_empty())
        };
        Self {
            origins: if policy.allow_origins.is_empty() { older() } else { policy.allow_origins.clone() },
            methods: list(&policy.allow_methods).map_or(Permitted::Nothing, Permitted::List),
            request_headers: list(&policy.allow_headers).map_or(Permitted::Nothing, Permitted::List),
            response_headers: list(&policy.expose_headers),
            max_age: policy.max_age.map(|age| HeaderValue::from(age.get().as_secs())),
            credentials: policy.allow_credentials.unwrap_or_default(),
            answers_unmatched: policy.unmatched_preflights == UnmatchedPreflights::Ignore,
            exposes_early: false,
        }
    }

    /// That of the Gateway API.
    pub(super) fn of_filter(filter: &gateway_api::Cors) -> Self {
        let origins = match &filter.allow_origins {
            AllowList::Any => vec![StringMatch::Present],
            AllowList::Of(origins) => origins.iter().filter_map(origin).collect(),
        };
        let list =
            |words: Vec<&str>| HeaderValue::from_str(&words.join(",")).ok().filter(|it| !it.is_empty());
        let exposed = list(filter.expose_headers.iter().map(|name| &**name).collect());
        Self {
            origins,
            methods: permitted(&filter.allow_methods, |method| method.as_str()),
            request_headers: permitted(&filter.allow_headers, |name| name),
            response_headers: exposed,
            max_age: Some(HeaderValue::from(filter.max_age.seconds())),
            credentials: filter.allow_credentials,
            answers_unmatched: true,
            exposes_early: true,
        }
    }

    /// What follows for `request`.
    pub fn decide<'r>(&self, request: &RequestView<'r>) -> CorsAnswer<'r> {
        let Some(origin) = request.headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
            return CorsAnswer::None;
        };
        let asks = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|it| !it.is_empty());
        let asks = asks && request.method == Method::OPTIONS;
        match (self.allows(origin), asks) {
            (true, true) => CorsAnswer::Preflight(origin),
            (true, false) => CorsAnswer::Actual(origin),
            (false, true) if self.answers_unmatched => CorsAnswer::Refused,
            (false, _) => CorsAnswer::None,
        }
    }

    /// Adds the permission to the answer of a question from `origin`, whose headers are `asked`.
    pub fn preflight(&self, origin: &HeaderValue, asked: &HeaderMap, answer: &mut HeaderMap) {
        self.permit(origin, answer);
        let lists = [
            (ACCESS_CONTROL_ALLOW_METHODS, self.methods.of(asked.get(ACCESS_CONTROL_REQUEST_METHOD))),
            (
                ACCESS_CONTROL_ALLOW_HEADERS,
                self.request_headers.of(asked.get(ACCESS_CONTROL_REQUEST_HEADERS)),
            ),
            (ACCESS_CONTROL_MAX_AGE, self.max_age.as_ref()),
            (ACCESS_CONTROL_EXPOSE_HEADERS, self.response_headers.as_ref().filter(|_| self.exposes_early)),
        ];
        for (name, value) in lists {
            if let Some(value) = value {
                answer.insert(name, value.clone());
            }
        }
    }

    /// Adds the permission to the answer of the destination; it replaces what that one had to say.
    pub fn actual(&self, origin: &HeaderValue, answer: &mut HeaderMap) {
        self.permit(origin, answer);
        if let Some(value) = &self.response_headers {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, value.clone());
        }
    }

    fn permit(&self, origin: &HeaderValue, answer: &mut HeaderMap) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// Whatever matches a star allows all.
    fn allows(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| matches(allowed, b"*") || matches(allowed, origin.as_bytes()))
    }
}

impl Permitted {
    fn of<'v>(&'v self, asked: Option<&'v HeaderValue>) -> Option<&'v HeaderValue> {
        match self {
            Self::Nothing => None,
            Self::List(list) => Some(list),
            Self::Asked => asked,
        }
    }
}

fn permitted<T>(list: &AllowList<T>, text: impl Fn(&T) -> &str) -> Permitted {
    let words = match list {
        AllowList::Any => return Permitted::Asked,
        AllowList::Of(words) => words.iter().map(text).collect::<Vec<_>>().join(","),
    };
    let list = HeaderValue::from_str(&words).ok().filter(|list| !list.is_empty());
    list.map_or(Permitted::Nothing, Permitted::List)
}

/// As browsers write it: without the port where it is that of the scheme. Wildcards stand for one label or more.
fn origin(origin: &CorsOrigin) -> Option<StringMatch> {
    let (scheme, default) = match origin.scheme {
        Scheme::Http => ("http", 80),
        Scheme::Https => ("https", 443),
    };
    let port = origin.port.filter(|port| *port != default).map(|port| format!(":{port}")).unwrap_or_default();
    let pattern = |suffix: &str| {
        let suffix = suffix.replace('.', "\\.");
        Regex::parse(&format!("{scheme}://[^/:]+{suffix}{port}")).ok().map(StringMatch::Regex)
    };
    match &origin.host {
        CorsHost::Any => pattern(""),
        CorsHost::Suffix(suffix) => pattern(suffix),
        CorsHost::Exact(host) => Some(StringMatch::Exact(format!("{scheme}://{host}{port}"))),
    }
}
