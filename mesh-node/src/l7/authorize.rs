//! Where policy is asked about requests: before anything else is done with one, and again whenever the configuration
//! changes while it is under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, Method};
use mesh_core::authn::{Claims, Invalid};
use mesh_core::model::Snapshot;
use mesh_core::policy::{Decision, Denied, DeniedBy, External, Host, Notes, Request, Seen};
use tokio::sync::watch;

use super::ahead::Ahead;
use super::authn::Shown;
use super::exchange::{Ended, Stage};
use super::external;
use super::h1::{Authority, Target};
use super::message::RequestHead;
use super::record::{Record, client_of};
use super::reply::Refusal;
use super::site::{Facts, Guard};
use super::transfer::Downstream;
use crate::report::{self, Rfc3339};

/// A request as it was when policy was asked, to ask again.
pub(super) struct Remembered {
    method: Method,
    authority: Option<Authority>,
    target: Target,
    /// Kept only if any policy is there to ask for them. To those that come later a request without them is one that
    /// nobody has read.
    headers: Option<HeaderMap>,
    client: SocketAddr,
    /// What its token says.
    claims: Option<Arc<Claims>>,
    /// What it came with, where somebody has asked for tokens.
    shown: Option<Box<Shown>>,
    /// Those of the configuration that come after the one that was decided with.
    versions: watch::Receiver<Arc<Snapshot>>,
    /// Who was asked besides, and has nothing against it.
    approved: Vec<Arc<str>>,
}

/// Asks about a request that has shown its tokens, if somebody asked for them. What comes back is `None` where policy is asked
/// about connections only.
pub(super) async fn request<D: Downstream>(
    stage: &Stage<'_>,
    (head, shown): (&mut RequestHead, Option<Box<Shown>>),
    client: &mut Ahead<'_, D>,
    record: &mut Record,
) -> Result<Option<Remembered>, Ended> {
    let mut asked = match stage.site.guard() {
        Guard::None => return Ok(None),
        Guard::Later => return Ok(Some(Remembered { shown, ..Remembered::of(stage, head, None) })),
        Guard::Now => {
            head.complete();
            Remembered { shown, ..Remembered::of(stage, head, Some(head.headers.clone())) }
        }
    };
    loop {
        match asked.decide(stage) {
            Decision::Allowed(notes) => {
                if notes != Notes::default() {
                    let host = head.authority.as_ref().map_or("", |it| it.as_str());
                    stage.engine.reporter.noted(&notes, &client_name(stage.facts), &host);
                }
                return Ok(Some(asked));
            }
            Decision::Denied(denied) => return Err(refuse(stage, &asked, &denied, record)),
            // Of one request all is known.
            Decision::NeedsRequest => {
                return Err(refuse(stage, &asked, &DeniedBy::Undecided.into(), record));
            }
            Decision::NeedsExternal(External { policy, rule, provider }) => {
                let authorizer =
                    external::find(stage, &provider).filter(|_| !asked.approved.contains(&provider));
                let Some(authorizer) = authorizer else {
                    return Err(refuse(stage, &asked, &DeniedBy::Policy { policy, rule }.into(), record));
                };
                // Boxed: few requests need it, and all have room for it otherwise.
                let answer = Box::pin(external::ask(stage, &authorizer, head, client, record)).await?;
                if let Some(reply) = answer {
                    let denied = DeniedBy::Policy { policy, rule }.into();
                    stage.engine.reporter.denied(&denied, asked.refused(stage.facts, &denied));
                    return Err(Ended::Answered(Box::new(reply)));
                }
                // Those who are asked after it see what it has changed.
                asked.headers = Some(head.headers.clone());
                asked.approved.push(provider);
            }
        }
    }
}

/// Why a request may not go on that was let pass.
pub(super) enum Revoked {
    /// Policy says no.
    Denied(Denied),
    /// Its token is not accepted.
    Token(Invalid),
}

/// Resolves when the request would not be let pass any more.
pub(super) async fn revoked(stage: &Stage<'_>, asked: &mut Option<Remembered>) -> Revoked {
    let Some(asked) = asked else { return std::future::pending().await };
    loop {
        if asked.versions.changed().await.is_err() {
            return std::future::pending().await;
        }
        asked.versions.borrow_and_update();
        match asked.shown.as_mut().and_then(|shown| shown.again(stage)) {
            Some(Ok(claims)) => asked.claims = claims,
            Some(Err(invalid)) => return Revoked::Token(invalid),
            None => {}
        }
        if let Err(denied) = asked.decide(stage).strict() {
            return Revoked::Denied(denied);
        }
    }
}

impl Remembered {
    fn of(stage: &Stage<'_>, head: &RequestHead, headers: Option<HeaderMap>) -> Self {
        Self {
            method: head.method.clone(),
            authority: head.authority.clone(),
            target: head.target.clone(),
            headers,
            client: client_of(stage.facts, head),
            claims: head.claims.clone(),
            shown: None,
            versions: stage.engine.versions(),
            approved: Vec::new(),
        }
    }

    fn decide(&self, stage: &Stage<'_>) -> Decision<Notes> {
        let Some(headers) = &self.headers else {
            return stage.site.decide(stage.facts, Seen::Unread, &self.approved);
        };
        let host = self.authority.as_ref().map(|authority| Host::of(authority.as_str()));
        let request = Request {
            method: self.method.as_str(),
            host: host.as_ref(),
            path: self.target.path(),
            headers,
            remote_ip: self.client.ip().to_canonical(),
            server_name: stage.facts.sni.as_deref(),
            claims: self.claims.as_deref(),
        };
        stage.site.decide(stage.facts, Seen::Request(&request), &self.approved)
    }

    /// What is told of a refusal to whoever looks at this process.
    pub(super) fn refused(&self, facts: &Facts, denied: &Denied) -> report::Refusal {
        let host = self.authority.as_ref().map_or("", |it| it.as_str());
        let request = format!("{} {host}{}", self.method, self.target.path());
        let request = request.chars().take(MAX_SHOWN).collect();
        report::Refusal { request: Some(request), ..refusal(facts, denied) }
    }
}

fn refuse(stage: &Stage<'_>, asked: &Remembered, denied: &Denied, record: &mut Record) -> Ended {
    stage.engine.reporter.denied(denied, asked.refused(stage.facts, denied));
    record.denied_by(denied);
    Ended::Refused(Refusal::Denied, denied.to_string())
}

/// What is told of a connection that was refused.
pub(crate) fn refusal(facts: &Facts, denied: &Denied) -> report::Refusal {
    report::Refusal {
        time: Rfc3339(SystemTime::now()).to_string(),
        source: facts.identity.as_ref().map(ToString::to_string),
        source_address: facts.peer.to_string(),
        destination: facts.local.map(|local| local.to_string()).unwrap_or_default(),
        request: None,
        reason: denied.to_string(),
    }
}

fn client_name(facts: &Facts) -> String {
    facts.identity.as_ref().map_or_else(|| facts.peer.to_string(), ToString::to_string)
}

/// Characters of a request that are shown.
const MAX_SHOWN: usize = 256;
