//! A service of gRPC and its client, as applications have them: a call is answered with who has answered it, and the
//! metadata that has come with it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use serde::{Deserialize, Serialize};
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::metadata::{AsciiMetadataKey, KeyAndValueRef, MetadataMap};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

/// What a call says.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Said {
    /// Anything.
    #[prost(string, tag = "1")]
    pub text: String,
}

/// What a call is answered with.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
pub struct Seen {
    /// Who has answered.
    #[prost(string, tag = "1")]
    pub pod: String,
    /// What the call said.
    #[prost(string, tag = "2")]
    pub text: String,
    /// Its metadata; several values of one key are joined with a comma.
    #[prost(btree_map = "string, string", tag = "3")]
    pub metadata: BTreeMap<String, String>,
}

/// How a call has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// With an answer.
    Answered(Seen),
    /// With a status other than OK, by number.
    Failed(i32),
}

/// Calls to make, one after the other.
#[derive(Debug, Clone)]
pub struct Calls {
    /// `http://HOST:PORT`.
    pub to: String,
    /// `/SERVICE/METHOD`.
    pub method: String,
    /// Metadata: keys and values.
    pub metadata: Vec<(String, String)>,
    /// How many.
    pub count: u32,
}

/// Answers [`METHOD`] on all addresses as `pod`, until the process ends.
///
/// # Errors
/// If nobody may listen there.
pub fn serve(pod: &str, port: u16) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let who = Who { pod: pod.into() };
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    Ok(runtime.block_on(Server::builder().add_service(who).serve(address))?)
}

/// Makes calls over one connection.
///
/// # Errors
/// If there is no connection, or what is to be called is no name.
pub fn call(calls: &Calls) -> anyhow::Result<Vec<Ended>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = Channel::from_shared(calls.to.clone())?.connect_timeout(PATIENCE).timeout(PATIENCE);
        let mut client = tonic::client::Grpc::new(channel.connect().await?);
        let method: PathAndQuery = calls.method.parse()?;
        let mut ended = Vec::new();
        for number in 0..calls.count {
            let mut request = Request::new(Said { text: number.to_string() });
            for (key, value) in &calls.metadata {
                let key = AsciiMetadataKey::from_bytes(key.as_bytes())?;
                request.metadata_mut().append(key, value.parse()?);
            }
            client.ready().await?;
            let codec = ProstCodec::<Said, Seen>::default();
            ended.push(match client.unary(request, method.clone(), codec).await {
                Ok(answer) => Ended::Answered(answer.into_inner()),
                Err(status) => Ended::Failed(status.code() as i32),
            });
        }
        Ok(ended)
    })
}

#[derive(Debug, Clone)]
struct Who {
    pod: Arc<str>,
}

impl NamedService for Who {
    const NAME: &'static str = "mesh.test.Who";
}

impl UnaryService<Said> for Who {
    type Response = Seen;
    type Future = BoxFuture<Response<Seen>, Status>;

    fn call(&mut self, request: Request<Said>) -> Self::Future {
        let metadata = shown(request.metadata());
        let seen = Seen { pod: self.pod.to_string(), text: request.into_inner().text, metadata };
        Box::pin(std::future::ready(Ok(Response::new(seen))))
    }
}

impl Service<http::Request<Body>> for Who {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let who = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("there is only one method").into_http());
            }
            let codec = ProstCodec::<Seen, Said>::default();
            Ok(tonic::server::Grpc::new(codec).unary(who, request).await)
        })
    }
}

fn shown(metadata: &MetadataMap) -> BTreeMap<String, String> {
    let mut shown = BTreeMap::<String, String>::new();
    for entry in metadata.iter() {
        let KeyAndValueRef::Ascii(key, value) = entry else { continue };
        let value = value.to_str().unwrap_or_default();
        let known = shown.entry(key.as_str().to_owned()).or_default();
        if !known.is_empty() {
            known.push(',');
        }
        known.push_str(value);
    }
    shown
}

/// The method that is answered.
pub const METHOD: &str = "/mesh.test.Who/Ask";
/// How long a connection or a call may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_answered_with_who_and_what_came() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::thread::spawn(move || serve("v1", port));
        let to = format!("http://127.0.0.1:{port}");
        let metadata = vec![("x-a".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())];
        let mut calls = Calls { to, method: METHOD.to_owned(), metadata, count: 2 };
        let ended = (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(50));
            call(&calls).ok()
        });
        let ended = ended.unwrap();
        let [_, Ended::Answered(second)] = &*ended else { panic!("{ended:?}") };
        assert_eq!((&*second.pod, &*second.text), ("v1", "1"));
        assert_eq!(second.metadata["x-a"], "1,2");
        "/mesh.test.Who/Other".clone_into(&mut calls.method);
        assert_eq!(call(&calls).unwrap(), [Ended::Failed(12), Ended::Failed(12)]);
    }
}
