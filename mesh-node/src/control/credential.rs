//! How the node proves to the control plane which node it is: a token of its service account, or a certificate of its
//! own that a join token got it.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use mesh_ca::{csr, join::JoinToken};
use mesh_core::id::SpiffeId;
use mesh_proto::ca::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use prost_types::{Struct, Value, value::Kind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use tokio::sync::Mutex;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::connect::{ConnectError, Endpoint};
use crate::identity::cache::Cache;

/// The node's own certificate and key.
pub struct Credential {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    /// When half of its life is over.
    due: SystemTime,
    not_after: SystemTime,
}

/// The way to the control plane, with whatever the node has to show there.
#[derive(Debug)]
pub struct Link {
    endpoint: Endpoint,
    token: Option<PathBuf>,
    own: Own,
    /// Held while one is made, so that one token makes one certificate.
    credential: Mutex<Option<Arc<Credential>>>,
    /// The control plane does not take it.
    doubted: AtomicBool,
}

/// Who a process is for the control plane, if it has a certificate of its own.
#[derive(Debug)]
pub struct Own {
    /// Its identity, as far as it can tell.
    pub id: SpiffeId,
    /// Where its certificate outlives this process.
    pub cache: Option<Cache>,
    /// Whether it exchanges whatever token it has for a certificate, as it does with join tokens.
    pub exchanges: bool,
}

/// A connection, and what is to be said with every call on it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The connection.
    pub channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
}

/// Why the control plane cannot be asked, or did not answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The file of the token is of no use.
    #[error("the token {}: {reason}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// It cannot answer now.
    #[error("{0}")]
    Unavailable(String),
    /// Its answer is none.
    #[error("the answer is not a certificate chain: {0}")]
    Malformed(String),
}

impl Credential {
    /// Chain and key, as TLS takes them.
    pub fn for_tls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), PrivatePkcs8KeyDer::from(self.key.clone()).into())
    }

    fn assemble(chain: Vec<CertificateDer<'static>>, key: Vec<u8>) -> Result<Self, LinkError> {
        let malformed = |reason: String| LinkError::Malformed(reason);
        let leaf = chain.first().ok_or_else(|| malformed("it is empty".to_owned()))?;
        let id = mesh_ca::chain::identity(leaf).map_err(|error| malformed(error.to_string()))?;
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|error| malformed(error.to_string()))?;
        let not_after = mesh_ca::chain::time(certificate.validity().not_after.timestamp());
        let now = SystemTime::now();
        let due = now + not_after.duration_since(now).unwrap_or_default() / 2;
        Ok(Self { id, chain, key, due, not_after })
    }
}

impl std::fmt::Debug for Credential {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Link {
    /// The way to `endpoint` with what `token` holds, which is read anew for every connection. A certificate of `own`
    /// that is still there from before is used up first: join tokens are good for a number of times only.
    pub fn new(endpoint: Endpoint, token: Option<PathBuf>, own: Own) -> Self {
        let load = |cache: &Cache| {
            if own.exchanges { cache.load_only(own.id.namespace()) } else { cache.load(&own.id) }
        };
        let kept = own.cache.as_ref().and_then(load);
        let kept =
            kept.and_then(|kept| Credential::assemble(kept.chain, kept.key.secret_pkcs8_der().to_vec()).ok());
        Self {
            endpoint,
            token,
            credential: Mutex::new(kept.map(Arc::new)),
            doubted: AtomicBool::new(false),
            own,
        }
    }

    /// Connects, and gets or renews the node's own certificate where that is how it shows itself.
    pub async fn open(&self) -> Result<Opened, LinkError> {
        let token = self.read_token();
        let is_join =
            |token: &Option<String>| token.as_deref().is_some_and(|it| JoinToken::parse(it).is_ok());
        if !self.own.exchanges && !token.as_ref().is_ok_and(is_join) {
            let token = token?;
            let channel = self.endpoint.connect(None).await?;
            let authorization = token.as_deref().map(|token| self.bearer(token)).transpose()?;
            return Ok(Opened { channel, authorization });
        }
        let credential = self.join(token).await?;
        let channel = self.endpoint.connect(Some(&credential)).await?;
        Ok(Opened { channel, authorization: None })
    }

    /// The control plane refuses who the certificate says that this is, perhaps because that has changed: the next connection
    /// tries the token first.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// The node's own certificate: the one there is, or its successor, or the first one for the join token.
    async fn join(&self, token: Result<Option<String>, LinkError>) -> Result<Arc<Credential>, LinkError> {
        let mut held = self.credential.lock().await;
        let now = SystemTime::now();
        let kept = held.clone().filter(|credential| now < credential.not_after);
        // A token may say who this is by now.
        let has_token = token.as_ref().is_ok_and(Option::is_some);
        let is_doubted = self.doubted.swap(false, Ordering::Relaxed) && has_token;
        let valid = kept.clone().filter(|_| !is_doubted);
        if let Some(fresh) = valid.as_ref().filter(|credential| now < credential.due) {
            return Ok(Arc::clone(fresh));
        }
        // Who has a certificate needs no token.
        let authorization = match &valid {
            Some(_) => None,
            None => token?.map(|token| self.bearer(&token)).transpose()?,
        };
        let opened = self.endpoint.connect(valid.as_deref()).await;
        let renewed = match opened {
            Ok(channel) => own_certificate(Opened { channel, authorization }).await,
            Err(error) => Err(error.into()),
        };
        match (renewed, kept) {
            (Ok(credential), _) => {
                tracing::info!(identity = %credential.id, "The node has a certificate of its own.");
                let id = if self.own.exchanges { &credential.id } else { &self.own.id };
                if let Some(cache) = &self.own.cache
                    && let Err(error) = cache
                        .save(id, &credential.chain, &credential.key)
                        .and_then(|()| cache.retain(&[id.clone()].into()))
                {
                    tracing::warn!(%error, "The node's own certificate could not be kept for the next start.");
                }
                Ok(Arc::clone(held.insert(Arc::new(credential))))
            }
            // Good until its end; there will be another occasion.
            (Err(error), Some(old)) => {
                tracing::warn!(%error, "The node's own certificate could not be renewed.");
                Ok(old)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn read_token(&self) -> Result<Option<String>, LinkError> {
        let Some(path) = &self.token else { return Ok(None) };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) => Err(LinkError::Token { path: path.clone(), reason: error.to_string() }),
        }
    }

    fn bearer(&self, token: &str) -> Result<MetadataValue<Ascii>, LinkError> {
        let path = self.token.clone().unwrap_or_default();
        let wrong = |_| LinkError::Token { path, reason: "is not one line of text".to_owned() };
        format!("Bearer {token}").parse().map_err(wrong)
    }
}

/// What the certificate service has answered.
#[derive(Debug)]
pub struct Answer {
    /// The leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The roots, in PEM; as they come.
    pub roots: String,
}

impl Opened {
    /// A call with this message.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }

    /// Asks for a certificate for the key of `csr` (PEM): the caller's own, or that of `impersonated`.
    pub async fn certify(
        &self,
        csr: String,
        impersonated: Option<&SpiffeId>,
        lifetime: Option<Duration>,
    ) -> Result<Answer, LinkError> {
        let field = |id: &SpiffeId| {
            let value = Value { kind: Some(Kind::StringValue(id.uri().to_owned())) };
            Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() }
        };
        let seconds = lifetime.map_or(0, |lifetime| lifetime.as_secs());
        let message = IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(seconds).unwrap_or(i64::MAX),
            metadata: impersonated.map(field),
        };
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = client.create_certificate(self.request(message)).await?.into_inner();
        let malformed = |error: rustls_pki_types::pem::Error| LinkError::Malformed(error.to_string());
        let (roots, chain) =
            answer.cert_chain.split_last().ok_or_else(|| LinkError::Malformed("it is empty".to_owned()))?;
        let pem = chain.concat();
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>();
        Ok(Answer { certificates: certificates.map_err(malformed)?, roots: roots.clone() })
    }
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::Unimplemented => Self::Refused(text),
            _ => Self::Unavailable(text),
        }
    }
}

async fn own_certificate(opened: Opened) -> Result<Credential, LinkError> {
    let made = |error: rcgen::Error| LinkError::Unavailable(format!("the key could not be made: {error}"));
    let (key, request) = csr::make().map_err(made)?;
    let answer = opened.certify(request.pem().map_err(made)?, None, None).await?;
    Credential::assemble(answer.certificates, key.secret_pkcs8_der().to_vec())
}
