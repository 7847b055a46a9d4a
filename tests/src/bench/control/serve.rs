//! The baseline: the plainest server that sends as much to as many as the control plane does.
//!
//! It says `listening ADDRESS` and `ready` on standard output and takes `change INDEX READY` on standard input, one line
//! each, until it ends.

use std::{
    io::{self, BufRead as _, Write as _},
    net::SocketAddr,
    pin::Pin,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use mesh_control::{listen, tasks};
use mesh_proto::{
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
    encode,
    names::ResourceType,
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, watch},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::crowd::Crowd;

/// Serves one resource of `size` bytes, which becomes another with each change, to whoever connects.
pub(super) fn direct(size: usize) -> Result<()> {
    let news = watch::Sender::new(Bytes::new());
    let runtime = serve(Direct { news: news.clone() })?;
    follow(|index, _| drop(news.send_replace(padded(&Crowd::uid(index), size))))?;
    drop(runtime);
    Ok(())
}

/// A resource of about `size` bytes.
fn padded(name: &str, size: usize) -> Bytes {
    let bare = encode::resource(name, VERSION, ResourceType::Address, Bytes::new());
    let padding = vec![b'.'; size.saturating_sub(bare.len())];
    encode::resource(name, VERSION, ResourceType::Address, padding.into())
}

fn serve(service: impl AggregatedDiscoveryService) -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let _entered = runtime.enter();
    let listener = runtime.block_on(TcpListener::bind(address)).context("listening")?;
    say(&format!("listening {}", listener.local_addr()?))?;
    let router = listen::server().add_service(AggregatedDiscoveryServiceServer::new(service));
    let connections = ReceiverStream::new(listen::accept(listener, None));
    drop(tasks::spawn("port", async move {
        // The process ends with its standard input; whoever waits for it then sees that nobody answers.
        let _ = router.serve_with_incoming(connections).await;
    }));
    Ok(runtime)
}

fn follow(mut change: impl FnMut(u32, bool)) -> Result<()> {
    say("ready")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["change", index, ready] = words[..] else { anyhow::bail!("{line:?} is no command") };
        change(index.parse().context("no index")?, ready.parse().context("neither true nor false")?);
    }
    Ok(())
}

pub(super) fn say(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}")?;
    Ok(output.flush()?)
}

/// A server without a mesh.
struct Direct {
    news: watch::Sender<Bytes>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Direct {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (responses, receiver) = mpsc::channel(2);
        let (news, requests) = (self.news.subscribe(), request.into_inner());
        drop(tasks::spawn(
            "direct",
            async move { talk(requests, news, responses).await.unwrap_or_default() },
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// `None` when the other end is gone.
async fn talk(
    mut requests: Streaming<DeltaDiscoveryRequest>,
    mut news: watch::Receiver<Bytes>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) -> Option<()> {
    let mut nonce = 0_u64;
    let mut respond = |type_url: String, resources: Vec<Bytes>| {
        nonce += 1;
        let nonce = nonce.to_string();
        DeltaDiscoveryResponse { type_url, resources, nonce, ..DeltaDiscoveryResponse::default() }
    };
    loop {
        let response = tokio::select! {
            request = requests.message() => match request.ok()?? {
                // Its first request of a type; there is nothing yet.
                request if request.response_nonce.is_empty() => respond(request.type_url, Vec::new()),
                _ => continue,
            },
            changed = news.changed() => {
                changed.ok()?;
                let resource = news.borrow_and_update().clone();
                respond(ResourceType::Address.url().to_owned(), vec![resource])
            }
        };
        responses.send(Ok(response)).await.ok()?;
    }
}

/// As long as those of real resources.
const VERSION: &str = "0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_of_a_size() {
        let resource = padded("a", 500);
        // The length of what it carries takes a byte or two itself.
        assert!((500..505).contains(&resource.len()), "{}", resource.len());
        assert_eq!(super::super::subscriber::name(resource).unwrap(), "a");
    }
}
