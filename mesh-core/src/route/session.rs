//! Sessions: how the later requests of a client find the endpoint that its first one went to (GEP-1619).
//!
//! Nothing is kept here. What a client is given says which endpoint it is, in a form that tells nobody its address at
//! sight, so that each thread and each gateway finds it, after a restart as well. It is no secret: who makes one up has
//! chosen among the endpoints that the rule leads to anyway.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::balance::hash_bytes;
use crate::model::EndpointId;
use crate::resource::gateway_api::{self, CookieLifetime, SessionCarrier, SessionPersistence};

/// How a rule keeps the requests of a session together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    carrier: Carrier,
    /// How long a session lasts.
    lasts: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Carrier {
    /// Its name, and what follows the value.
    Cookie(Arc<str>, Box<str>),
    Header(HeaderName),
}

/// A session that a client says it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// [`EndpointId::mark`] of its endpoint, which may be gone.
    pub mark: u64,
}

impl Session {
    /// What a rule asks for. `rule` tells it from all others; a cookie without a name is called after it. `None` if the
    /// header is one that nobody can send.
    pub(super) fn of(spec: &SessionPersistence, rule: &str) -> Option<Self> {
        let lasts = spec.absolute_timeout.map(gateway_api::Duration::get).filter(|it| !it.is_zero());
        let carrier = match &spec.carrier {
            SessionCarrier::Cookie { name, path, lifetime } => {
                let own = || format!("mesh-session-{:016x}", hash_bytes(rule.as_bytes())).into();
                let name = name.as_ref().map_or_else(own, |name| Arc::from(&**name));
                let age = lasts.filter(|_| *lifetime == CookieLifetime::Permanent);
                let age = age.map(|age| format!("; Max-Age={}", age.as_secs().max(1))).unwrap_or_default();
                Carrier::Cookie(name, format!("; Path={path}{age}; HttpOnly").into())
            }
            SessionCarrier::Header { name } => Carrier::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
        };
        Some(Self { carrier, lasts })
    }

    /// The session that a request belongs to; `None` if it names none, or one that is over. `now` is in seconds since
    /// 1970, and only looked at where sessions end.
    pub fn held(&self, headers: &HeaderMap, now: u64) -> Option<Held> {
        match &self.carrier {
            Carrier::Header(name) => {
                headers.get_all(name).iter().find_map(|it| self.read(it.as_bytes(), now))
            }
            Carrier::Cookie(name, _) => headers.get_all(header::COOKIE).iter().find_map(|line| {
                let mut pairs = line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
                pairs.find_map(|pair| {
                    let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                    self.read(value, now)
                })
            }),
        }
    }

    /// What the answer of `endpoint` gives to a client whose session begins with it.
    pub fn give(
        &self,
        endpoint: EndpointId,
        (now, secure): (u64, bool),
    ) -> Option<(HeaderName, HeaderValue)> {
        let mark = endpoint.mark();
        let value =
            if self.lasts.is_some() { format!("{mark:016x}-{now:x}") } else { format!("{mark:016x}") };
        let (name, value) = match &self.carrier {
            Carrier::Header(name) => (name.clone(), value),
            Carrier::Cookie(name, rest) => {
                let secure = if secure { "; Secure" } else { "" };
                (header::SET_COOKIE, format!("{name}={value}{rest}{secure}"))
            }
        };
        Some((name, HeaderValue::try_from(value).ok()?))
    }

    fn read(&self, value: &[u8], now: u64) -> Option<Held> {
        let text = std::str::from_utf8(value).ok()?;
        let (mark, since) = text.split_once('-').map_or((text, None), |(mark, since)| (mark, Some(since)));
        let hex = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'));
        let mark = hex(mark).filter(|_| mark.len() == MARK)?;
        if let Some(lasts) = self.lasts {
            // What begins later than now is nothing that was given here.
            let age = now.checked_sub(since.and_then(hex)?)?;
            if Duration::from_secs(age) >= lasts {
                return None;
            }
        }
        Some(Held { mark })
    }
}

/// Characters of a mark.
const MARK: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{SourceFile, Spec, parse};

    fn session(text: &str) -> Session {
        let text = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: n}}, \
             spec: {{rules: [{{sessionPersistence: {{{text}}}}}]}}}}"
        );
        let parsed = parse(&SourceFile { name: "t.yaml", text: &text });
        let Spec::HttpRoute(spec) = &parsed.objects[0].spec else { panic!("{:?}", parsed.findings) };
        Session::of(spec.rules[0].session_persistence.as_ref().unwrap(), "n/r/0").unwrap()
    }

    fn endpoint() -> EndpointId {
        EndpointId::of("10.1.2.3:80".parse().unwrap())
    }

    fn given(session: &Session, now: u64, secure: bool) -> (String, String) {
        let (name, value) = session.give(endpoint(), (now, secure)).unwrap();
        (name.to_string(), value.to_str().unwrap().to_owned())
    }

    fn headers(name: &str, values: &[&str]) -> HeaderMap {
        let pair =
            |value: &&str| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        values.iter().map(pair).collect()
    }

    #[test]
    fn a_cookie_leads_back_to_the_endpoint() {
        let session = session("cookie: {name: s, path: /shop}");
        let (name, cookie) = given(&session, 5, false);
        assert_eq!(name, "set-cookie");
        let value = cookie.strip_suffix("; Path=/shop; HttpOnly").unwrap();
        assert!(!value.contains("10.1.2.3"), "{value}");
        assert!(given(&session, 5, true).1.ends_with("; HttpOnly; Secure"));
        let held = session.held(&headers("cookie", &["a=b", &format!("ss=1; {value};c=d")]), 1 << 40);
        assert_eq!(held, Some(Held { mark: endpoint().mark() }));
    }

    #[test]
    fn a_cookie_without_a_name_is_called_after_its_rule() {
        let (_, cookie) = given(&session("cookie: {}"), 0, false);
        assert!(cookie.starts_with("mesh-session-") && cookie.contains("; Path=/; HttpOnly"), "{cookie}");
    }

    #[test]
    fn a_session_ends_when_its_time_is_over() {
        let session = session("absoluteTimeout: 10s, cookie: {name: s, lifetimeType: Permanent}");
        let (_, cookie) = given(&session, 1_000, false);
        assert!(cookie.contains("; Max-Age=10;"), "{cookie}");
        let line = cookie.split(';').next().unwrap();
        let held = |now| session.held(&headers("cookie", &[line]), now).is_some();
        assert!(held(1_000) && held(1_009) && !held(1_010) && !held(999));
        // One that does not say when it began.
        let bare = line.split('-').next().unwrap();
        assert_eq!(session.held(&headers("cookie", &[bare]), 1_000), None);
    }

    #[test]
    fn a_header_does_as_well_and_garbage_is_no_session() {
        let session = session("type: Header, header: {name: X-Session}");
        let (name, value) = given(&session, 0, true);
        assert_eq!((name.as_str(), value.len()), ("x-session", 16));
        assert!(session.held(&headers("x-session", &[&value]), 0).is_some());
        for garbage in
            ["", "1", "+123456789abcdef", "zzzzzzzzzzzzzzzz", "10.1.2.3:80", "0000000000000000000000"]
        {
            assert_eq!(session.held(&headers("x-session", &[garbage]), 0), None, "{garbage}");
        }
        assert_eq!(session.held(&headers("cookie", &[&format!("x-session={value}")]), 0), None);
    }
}
