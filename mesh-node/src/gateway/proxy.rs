//! What a proxy before this gateway says about a client, where one is said to stand there (`gatewayTopology.proxyProtocol`).

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::proxy_header::{self, Read};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::accepted::Thread;

/// Whether connections begin with a header: as the gateway says itself, or the mesh for all.
pub(super) fn is_expected(thread: &Thread) -> bool {
    let own = thread.own.borrow().topology;
    let topology = own.or_else(|| thread.snapshots.borrow().mesh().default_config.gateway_topology);
    topology.is_some_and(|topology| topology.proxy_protocol.is_some())
}

/// Reads a header and nothing behind it: who the client is, or `peer` if the proxy speaks for itself. `Err` says what is wrong, for
/// the log. Takes at most [`DEADLINE`].
pub(super) async fn client(
    io: &mut (impl AsyncRead + Unpin),
    peer: SocketAddr,
) -> Result<SocketAddr, String> {
    let reading = async {
        let mut bytes = Vec::new();
        loop {
            match proxy_header::read(&bytes) {
                Read::Whole(client) => return Ok(client.unwrap_or(peer)),
                Read::Wrong(wrong) => return Err(wrong.to_string()),
                Read::More(more) => {
                    let begun = bytes.len();
                    bytes.resize(begun + more, 0);
                    let rest = bytes.get_mut(begun..).unwrap_or_default();
                    io.read_exact(rest).await.map_err(|error| error.to_string())?;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading)
        .await
        .unwrap_or_else(|_| Err("no PROXY header came in time".to_owned()))
}

/// A load balancer sends it with the first packet.
const DEADLINE: Duration = Duration::from_secs(5);
