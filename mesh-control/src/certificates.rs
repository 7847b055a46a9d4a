//! The certificate service.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use mesh_ca::authorize::{Caller, NodeName, Placement, Request as Wanted, Rules, node_of};
use mesh_ca::{Ca, Csr, IssueError, Signed, audit, issue};
use mesh_core::id::SpiffeId;
use mesh_core::model::{Record, RecordKey};
use mesh_proto::ca::istio_certificate_service_server::IstioCertificateService;
use mesh_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use mesh_proto::names::{self, ResourceType};
use prost_types::value::Kind;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use tonic::{Code, Request, Response, Status};

use crate::allotment::{Allotment, Exhausted};
use crate::authn::Authenticator;
use crate::hub::Hub;
use crate::machines::Machines;
use crate::peer::{Connection, Proven, Security};

/// Issues certificates.
#[derive(Debug, Clone)]
pub struct Certificates {
    ca: Arc<Ca>,
    hub: Arc<Hub>,
    authenticator: Arc<Authenticator>,
    rules: Arc<Rules>,
    machines: Arc<Machines>,
    allotment: Arc<Allotment>,
}

impl Certificates {
    /// Issues under `ca` what `rules` allow; where workloads run is what `hub` says, whether there are any what `machines`
    /// knows, and how often somebody may ask what the `certificates` of `hub` say.
    pub fn new(
        (ca, hub): (Arc<Ca>, Arc<Hub>),
        (authenticator, rules): (Arc<Authenticator>, Arc<Rules>),
        machines: Arc<Machines>,
    ) -> Self {
        let allotment = Arc::clone(&hub.certificates);
        Self { ca, hub, authenticator, rules, machines, allotment }
    }

    async fn create(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<IstioCertificateResponse, Status> {
        let peer = request.extensions().get::<Connection>();
        let _share = self.allotment.enter(peer).map_err(exhausted)?;
        // A join token is used up by being looked at: look at everything else first.
        let wanted = parse(request.get_ref()).inspect_err(|status| turned_away(&request, status))?;
        let proven = match request.extensions().get::<Connection>() {
            // A token that is shown in the clear is everybody's; it is not looked at, so that it is not used up.
            Some(Connection { security: Security::Plain, .. }) => {
                Err(Status::unauthenticated("certificates are given over TLS only"))
            }
            _ => self.authenticator.authenticate(&request).await,
        };
        let proven = proven.and_then(|proven| match proven {
            Proven::Caller(caller) => Ok(caller),
            Proven::Nobody => {
                Err(Status::unauthenticated("certificates are for callers who prove who they are"))
            }
        });
        let caller = proven.inspect_err(|status| turned_away(&request, status))?;
        self.allotment.charge(peer, &caller.to_string()).map_err(exhausted)?;
        if matches!(&*caller, Caller::Svid(id) if node_of(id).is_none()) && !self.hub.is_ready() {
            // Whether there is anybody of that identity is not known yet.
            let status = Status::unavailable("not everything that exists was read yet");
            turned_away(&request, &status);
            return Err(status);
        }
        let authority = self.ca.authority();
        let placement = Known { hub: &self.hub, machines: &self.machines };
        let signed = issue(&authority, &caller, wanted, (&self.rules, &placement), SystemTime::now());
        let signed = signed.map_err(|error| match &error {
            IssueError::Refused(_) => Status::permission_denied(error.to_string()),
            IssueError::Ca(_) => Status::unavailable(error.to_string()),
        })?;
        Ok(IstioCertificateResponse { cert_chain: chain(&signed, &authority.bundle().roots_pem()) })
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let outcome = self.create(request).await;
        let counters = &self.hub.counters;
        match &outcome {
            Ok(_) => counters.certificates.fetch_add(1, Ordering::Relaxed),
            Err(_) => counters.certificate_failures.fetch_add(1, Ordering::Relaxed),
        };
        outcome.map(Response::new)
    }
}

/// The pods that are told to nodes, and machines.
struct Known<'a> {
    hub: &'a Hub,
    machines: &'a Machines,
}

impl Placement for Known<'_> {
    fn runs_on(&self, node: &NodeName, id: &SpiffeId) -> bool {
        let shelf = self.hub.shelf();
        let workloads = shelf.store(ResourceType::Address);
        shelf.pods_of(Some(node.as_str())).any(|uid| {
            let name = names::name(&RecordKey::Workload(Arc::clone(uid)));
            let entry = workloads.get(&name);
            matches!(entry.map(|entry| &entry.record), Some(Record::Workload(one)) if one.identity == *id)
        })
    }

    fn is_somebody(&self, id: &SpiffeId) -> bool {
        self.machines.is_somebody(id)
    }
}

fn exhausted(why: Exhausted) -> Status {
    Status::resource_exhausted(why.to_string())
}

/// A line in the audit log for a request that nobody decides about.
fn turned_away(request: &Request<IstioCertificateRequest>, status: &Status) {
    let peer = request.extensions().get::<Connection>();
    let method = Authenticator::method(request);
    let reason = match status.code() {
        Code::InvalidArgument => "bad_request",
        Code::Unauthenticated => "unauthenticated",
        _ => "unavailable",
    };
    audit::turned_away(peer.map(|peer| peer.address), method, reason, status.message());
}

fn parse(request: &IstioCertificateRequest) -> Result<Wanted, Status> {
    let invalid = |text: String| Status::invalid_argument(text);
    let der = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes())
        .map_err(|error| invalid(format!("csr: {error}")))?;
    let csr = Csr::parse(&der).map_err(|error| invalid(error.to_string()))?;
    let seconds = u64::try_from(request.validity_duration)
        .map_err(|_| invalid("validity_duration is negative".to_owned()))?;
    let ttl = Some(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let field = request.metadata.as_ref().and_then(|metadata| metadata.fields.get(IMPERSONATED));
    let impersonated = match field.and_then(|value| value.kind.as_ref()) {
        None => None,
        Some(Kind::StringValue(text)) if text.is_empty() => None,
        Some(Kind::StringValue(text)) => {
            Some(SpiffeId::parse(text).map_err(|error| invalid(format!("{IMPERSONATED} {error}")))?)
        }
        Some(_) => return Err(invalid(format!("{IMPERSONATED} is no text"))),
    };
    Ok(Wanted { impersonated, csr, ttl })
}

/// PEM, leaf first; the last element holds the roots.
fn chain(signed: &Signed, roots: &str) -> Vec<String> {
    let certificates = signed.certificates.iter().map(|der| mesh_ca::bundle::pem("CERTIFICATE", der));
    certificates.chain(std::iter::once(roots.to_owned())).collect()
}

/// Where a request names the identity that it is for.
const IMPERSONATED: &str = "ImpersonatedIdentity";
