//! A rate limit service as Envoy asks one, for tests: it counts each descriptor for an hour, and remembers what it was asked.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mesh_proto::ratelimit::rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit};
use mesh_proto::ratelimit::rate_limit_service_server::{RateLimitService, RateLimitServiceServer};
use mesh_proto::ratelimit::{HeaderValue, RateLimitRequest, RateLimitResponse};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A server, until the process ends.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    limit: u32,
    asked: Mutex<Vec<RateLimitRequest>>,
    counted: Mutex<HashMap<String, u32>>,
}

impl RateLimiter {
    /// Starts one on loopback that lets `limit` pass for each domain and descriptor. An entry with the key `broken` gets an error
    /// for an answer, one with the key `slow` an answer after two seconds.
    pub fn start(limit: u32) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts { limit, asked: Mutex::default(), counted: Mutex::default() });
        let service = RateLimitServiceServer::from_arc(Arc::clone(&counts));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
                Server::builder().add_service(service).serve_with_incoming(incoming).await.context("serving")
            })
        });
        Ok(Self { address, counts })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked, one text for each question: `DOMAIN KEY=VALUE,KEY=VALUE KEY=VALUE`.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.counts.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().map(|request| format!("{} {}", request.domain, names(request).join(" "))).collect()
    }
}

/// Each descriptor as a text.
fn names(request: &RateLimitRequest) -> Vec<String> {
    let name = |entry: &mesh_proto::ratelimit::rate_limit_descriptor::Entry| {
        format!("{}={}", entry.key, entry.value)
    };
    request.descriptors.iter().map(|it| it.entries.iter().map(name).collect::<Vec<_>>().join(",")).collect()
}

#[tonic::async_trait]
impl RateLimitService for Counts {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let names = names(&request);
        let domain = request.domain.clone();
        let has = |key: &str| names.iter().any(|name| name.starts_with(key));
        let (slow, broken) = (has("slow="), has("broken="));
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        if slow {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        if broken {
            return Err(Status::internal("out of order"));
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let statuses: Vec<_> = names
            .iter()
            .map(|name| {
                let count = counted.entry(format!("{domain} {name}")).or_default();
                *count += 1;
                let over = *count > self.limit;
                DescriptorStatus {
                    code: if over { Code::OverLimit } else { Code::Ok }.into(),
                    current_limit: Some(RateLimit {
                        requests_per_unit: self.limit,
                        unit: rate_limit::Unit::Hour.into(),
                        name: String::new(),
                    }),
                    limit_remaining: self.limit.saturating_sub(*count),
                    duration_until_reset: Some(prost_types::Duration { seconds: 1_234, nanos: 0 }),
                }
            })
            .collect();
        let over = statuses.iter().any(|status| status.code() == Code::OverLimit);
        let header = |key: &str, value: &str| HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: bytes::Bytes::new(),
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: if over { Code::OverLimit } else { Code::Ok }.into(),
            statuses,
            // A service that is out of its mind must not break the message.
            response_headers_to_add: vec![header("x-limit-domain", &domain), header("content-length", "1")],
            request_headers_to_add: vec![header("x-asked", "yes")],
            raw_body: bytes::Bytes::new(),
        }))
    }
}
