//! What one decision about a request costs, in this process: no socket, nothing but the engine that nodes ask.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use http::{HeaderMap, Method};
use mesh_core::authn::{Algorithm, Authentication, PublicKey, Verify};
use mesh_core::id::SpiffeId;
use mesh_core::model::{CompileOptions, compile};
use mesh_core::policy::{Connection, Decision, Host, Question, Request, Seen};
use mesh_core::resource::{SourceFile, parse};
use mesh_core::route::RequestView;
use serde_json::json;

use super::figures::{Metric, Sample};
use crate::jwt::{Issuer, from_now};

/// What there is to decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// No policy.
    None,
    /// A hundred policies of ten rules for the workload, which name callers and paths.
    Hundred,
    /// The same, and ten thousand in other namespaces.
    HundredAndOthers,
    /// A hundred policies of ten rules that name nobody, so that each has to be tried.
    Unlisted,
    /// No policy but a token, which was checked before.
    Token,
}

impl Subject {
    pub(super) fn all() -> Vec<Self> {
        vec![Self::None, Self::Hundred, Self::HundredAndOthers, Self::Unlisted, Self::Token]
    }

    /// Measures once: microseconds of one decision, of many.
    pub(super) fn sample(self) -> Result<Sample> {
        if self == Self::Token {
            return token();
        }
        let text = self.resources();
        let parsed = parse(&SourceFile { name: "bench.yaml", text: &text });
        ensure!(parsed.rejected.is_empty(), "{:?}", parsed.findings.first());
        let snapshot = compile(&parsed.objects, &CompileOptions::default()).snapshot;
        let workload = snapshot.workloads().next().context("the pod")?;
        let peer = SpiffeId::new(snapshot.trust_domain(), "n99", "caller")?;
        let connection = Connection {
            peer: Some(&peer),
            source_ip: "10.0.0.2".parse()?,
            destination: "10.0.0.1:80".parse()?,
            encrypted: true,
        };
        let (host, headers) = (Host::of("shop.example"), headers());
        let request = Request {
            method: "GET",
            host: Some(&host),
            // The last rule of the last policy is the one that allows.
            path: "/team-99/r9/item",
            headers: &headers,
            remote_ip: "10.0.0.2".parse()?,
            server_name: None,
            claims: None,
        };
        let question = Question { connection: &connection, seen: Seen::Request(&request), approved: &[] };
        let decide = || snapshot.policies().decide(black_box(workload), black_box(&question));
        ensure!(matches!(decide(), Decision::Allowed(_)), "{:?}", decide());
        let start = Instant::now();
        for _ in 0..ROUNDS {
            let _ = black_box(decide());
        }
        Ok(vec![(Metric::DecisionUs, start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS))])
    }

    fn resources(self) -> String {
        let mut text = String::from(
            "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: app, \
             labels: {istio.io/dataplane-mode: ambient}}, spec: {containers: [{name: c, image: i}]}, \
             status: {podIP: 10.0.0.1}}\n",
        );
        let (own, others) = match self {
            Self::None | Self::Token => (0, 0),
            Self::Hundred | Self::Unlisted => (100, 0),
            Self::HundredAndOthers => (100, 10_000),
        };
        for number in 0..own + others {
            let namespace = if number < own { "app".to_owned() } else { format!("other-{}", number % 100) };
            let rule = |index: usize| match self {
                Self::Unlisted => format!(
                    "{{from: [{{source: {{principals: [\"*/ns/n{number}/sa/caller\"]}}}}], \
                     to: [{{operation: {{methods: [GET], paths: [\"*/r{index}/item\"]}}}}]}}"
                ),
                _ => format!(
                    "{{from: [{{source: {{principals: [cluster.local/ns/n{number}/sa/caller]}}}}], \
                     to: [{{operation: {{methods: [GET], paths: [\"/team-{number}/r{index}/*\"]}}}}]}}"
                ),
            };
            let rules: Vec<_> = (0..10).map(rule).collect();
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p{number:05}, \
                 namespace: {namespace}}}, spec: {{rules: [{}]}}}}\n",
                rules.join(", ")
            );
        }
        text
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "policy/decision/none",
            Self::Hundred => "policy/decision/100x10",
            Self::HundredAndOthers => "policy/decision/100x10-and-10000-elsewhere",
            Self::Unlisted => "policy/decision/100x10-unlisted",
            Self::Token => "policy/token/known",
        })
    }
}

/// Microseconds of asking a request for its token, which has been checked, with all that comes of it: claims, and headers for the
/// workload.
fn token() -> Result<Sample> {
    let issuer = Issuer::new()?;
    let rules = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "app"},
        "spec": {"jwtRules": [{"issuer": "bench", "jwks": issuer.jwks()}]},
    });
    let parsed = parse(&SourceFile { name: "bench.yaml", text: &rules.to_string() });
    ensure!(parsed.rejected.is_empty(), "{:?}", parsed.findings.first());
    let snapshot = compile(&parsed.objects, &CompileOptions::default()).snapshot;
    let providers =
        Authentication::of(&snapshot, &Authentication::default()).of_workload("app", &BTreeMap::new());
    let token =
        issuer.token(&json!({"iss": "bench", "sub": "ann", "groups": ["staff"], "exp": from_now(3600)}))?;
    let mut headers = headers();
    headers.insert("authorization", format!("Bearer {token}").parse()?);
    let request = RequestView {
        method: &Method::GET,
        scheme: "http",
        authority: "shop.example",
        path: "/item",
        query: None,
        headers: &headers,
        port: 80,
        claims: None,
    };
    let checks = Checks(Cell::new(0));
    let now = u64::try_from(from_now(0))?;
    let ask = || providers.authenticate(black_box(&request), now, &checks);
    ensure!(ask().is_ok_and(|passed| passed.claims.is_some()), "the token is not accepted");
    let start = Instant::now();
    for _ in 0..ROUNDS {
        let _ = black_box(ask());
    }
    let took = start.elapsed().as_secs_f64();
    ensure!(checks.0.get() == 1, "its signature was checked {} times", checks.0.get());
    Ok(vec![(Metric::DecisionUs, took * 1e6 / f64::from(ROUNDS))])
}

/// Takes any signature, and counts how often it was asked for.
struct Checks(Cell<u32>);

impl Verify for Checks {
    fn verify(&self, _: &PublicKey, _: Algorithm, _: &[u8], _: &[u8]) -> bool {
        self.0.set(self.0.get() + 1);
        true
    }
}

/// As many as requests have.
fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in ["user-agent", "accept", "x-request-id", "x-forwarded-proto"] {
        headers.insert(name, http::HeaderValue::from_static("something of usual length"));
    }
    headers
}

/// Enough for the clock.
const ROUNDS: u32 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_is_decided_about() {
        for subject in [Subject::None, Subject::Hundred, Subject::Unlisted, Subject::Token] {
            let sample = subject.sample().unwrap();
            assert!(sample.iter().all(|(_, value)| *value > 0.0), "{subject}");
        }
    }
}
