//! Which endpoint a request belongs to, by what it carries: a session of its rule, or what is hashed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use mesh_core::balance::HashInput;
use mesh_core::model::EndpointId;
use mesh_core::route::{Action, Forward, Held, Route, Session, Split, Weighted};

use super::exchange::Stage;
use super::message::RequestHead;

/// The session of a request, or that it has none yet.
pub(super) struct Known<'a> {
    session: &'a Session,
    held: Option<Held>,
    now: u64,
    secure: bool,
}

/// `None` where the rule keeps no sessions.
pub(super) fn of<'a>(stage: &Stage<'_>, route: &'a Route, headers: &HeaderMap) -> Option<Known<'a>> {
    let session = route.session.as_deref()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it: Duration| it.as_secs());
    Some(Known { session, held: session.held(headers, now), now, secure: stage.facts.secure })
}

impl Known<'_> {
    /// What its endpoint is known by.
    pub(super) fn mark(&self) -> Option<u64> {
        self.held.map(|held| held.mark)
    }

    /// The destination of a rule that has its endpoint.
    pub(super) fn destination<'f>(&self, stage: &Stage<'_>, forward: &'f Forward) -> Option<&'f Weighted> {
        let mark = self.mark()?;
        forward.destinations().iter().find(|it| {
            let cluster = stage.engine.cluster(&it.to, stage.site.port());
            cluster.is_ok_and(|cluster| cluster.of_session(mark).is_some())
        })
    }

    /// The branch of a rule that leads to its endpoint.
    pub(super) fn branch<'s>(&self, stage: &Stage<'_>, split: &'s Split) -> Option<&'s Arc<Route>> {
        split.branches().find(|branch| match &branch.action {
            Action::Forward(forward) => self.destination(stage, forward).is_some(),
            _ => false,
        })
    }

    /// Has the answer of `endpoint` say so, if it begins a session.
    pub(super) fn tell(&self, endpoint: EndpointId, headers: &mut HeaderMap) {
        if self.mark() == Some(endpoint.mark()) {
            return;
        }
        if let Some((name, value)) = self.session.give(endpoint, (self.now, self.secure)) {
            headers.append(name, value);
        }
    }
}

/// A request as hashing sees it.
pub(super) struct Hashed<'a> {
    pub(super) head: &'a RequestHead,
    /// Of the client.
    pub(super) ip: IpAddr,
}

impl HashInput for Hashed<'_> {
    fn each_header(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        self.head.headers.get_all(name).iter().for_each(|value| visit(value.as_bytes()));
    }

    fn query(&self) -> Option<&str> {
        self.head.target.query()
    }

    fn source_ip(&self) -> Option<IpAddr> {
        Some(self.ip)
    }
}
