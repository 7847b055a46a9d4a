//! The probe of a WorkloadGroup, made on the machine itself as Istio's agent does: by a node that serves processes of the
//! machine, whose sockets nothing captures.
//!
//! What is asked of what is decided in [`mesh_core::health`], and what follows from answers in [`mesh_core::machine`]. Nothing
//! that the control plane says is run as a program here: a probe by a command is not made.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{
    health::{Ask, Check, Cover, Serving, question, serving},
    machine::Standing,
    model::Snapshot,
    resource::Spec,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use crate::control::Machine;

/// How the machine is: nothing yet, well, or why not.
pub type Health = Option<Result<(), String>>;

/// Makes the probe of the group that the machine is of, whatever that is at the time, for as long as somebody listens.
pub async fn run(
    machine: Machine,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    told: watch::Sender<Health>,
) {
    let Some(joining) = machine.group.clone() else { return };
    let mut check = None;
    let mut standing = Standing::default();
    let mut pause = Duration::ZERO;
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let now = check_of(&snapshot, &machine.entry.namespace, &joining.group);
        if now != check {
            if matches!(now, Some(Probe::Command)) {
                warn!(
                    "The WorkloadGroup's probe is a command, which is not run here: the machine counts as well."
                );
            }
            standing = Standing::default();
            pause = now.as_ref().map_or(Duration::ZERO, Probe::delay);
            check = now;
        }
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            () = sleep(pause) => {}
            () = told.closed() => return,
        }
        pause = match &check {
            Some(Probe::Asks(check)) => {
                let answer = timeout(check.timeout, ask(check, joining.address)).await;
                let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", check.timeout)));
                if let Some(healthy) = standing.saw(answer.is_ok(), check) {
                    let reason = answer.as_ref().err().map_or("", String::as_str);
                    info!(healthy, reason, probe = %check.by, "The machine's health.");
                    let wrong = || Err(reason.chars().take(MAX_REASON).collect());
                    told.send_replace(Some(if healthy { Ok(()) } else { wrong() }));
                }
                check.interval
            }
            Some(Probe::Command) => {
                told.send_if_modified(|health| health.replace(Ok(())).is_none());
                LONG
            }
            None => LONG,
        };
    }
}

/// How a group's machines are asked.
#[derive(Debug, PartialEq, Eq)]
enum Probe {
    Asks(Box<Check>),
    /// By running something.
    Command,
}

impl Probe {
    fn delay(&self) -> Duration {
        match self {
            Self::Asks(check) => check.delay,
            Self::Command => Duration::ZERO,
        }
    }
}

fn check_of(snapshot: &Snapshot, namespace: &str, group: &str) -> Option<Probe> {
    let object = snapshot
        .configs_of("WorkloadGroup")
        .map(|config| config.object())
        .find(|object| *object.meta.namespace == *namespace && *object.meta.name == *group)?;
    let Spec::WorkloadGroup(spec) = &object.spec else { return None };
    let probe = spec.probe.as_ref()?;
    Some(Check::of_probe(&object.meta, probe).map_or(Probe::Command, |check| Probe::Asks(Box::new(check))))
}

async fn ask(check: &Check, address: IpAddr) -> Result<(), String> {
    let at = SocketAddr::new(address, check.port.unwrap_or_default());
    let tcp = TcpStream::connect(at).await.map_err(|error| format!("connecting to {at}: {error}"))?;
    match (&check.ask, check.cover) {
        (Ask::Tcp, _) => Ok(()),
        (Ask::Http { path, host, headers, expected }, cover) => {
            let host = host.as_deref().map_or_else(|| at.to_string(), str::to_owned);
            let mut head = format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mesh-probe\r\nConnection: close\r\n"
            );
            for (name, value) in headers {
                write!(head, "{name}: {value}\r\n").expect("a String takes all");
            }
            head.push_str("\r\n");
            let status = if cover == Cover::Anybody {
                let config = crate::l7::originate::anybody()?;
                let tls = TlsConnector::from(config).connect(ServerName::from(address), tcp).await;
                status_of(tls.map_err(|error| format!("TLS: {error}"))?, &head).await?
            } else {
                status_of(tcp, &head).await?
            };
            let is_well = expected.iter().any(|range| range.contains(status));
            if is_well { Ok(()) } else { Err(format!("status {status}")) }
        }
        (Ask::Grpc { service }, _) => grpc(tcp, service, at).await,
    }
}

/// Sends the head of a request and reads the status of its answer.
async fn status_of(mut io: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> Result<u16, String> {
    let failed = |error: std::io::Error| error.to_string();
    io.write_all(head.as_bytes()).await.map_err(failed)?;
    let mut heard = Vec::new();
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(&heard);
        if let Some(code) = response.code {
            return Ok(code);
        }
        if let Err(error) = parsed {
            return Err(format!("the answer is not HTTP: {error}"));
        }
        if heard.len() > MAX_HEAD {
            return Err("the answer's head is too long".to_owned());
        }
        if io.read_buf(&mut heard).await.map_err(failed)? == 0 {
            return Err("the connection was closed without an answer".to_owned());
        }
    }
}

/// Asks by gRPC's health protocol.
async fn grpc(tcp: TcpStream, service: &str, at: SocketAddr) -> Result<(), String> {
    let failed = |error: h2::Error| format!("HTTP/2: {error}");
    let (mut client, connection) = h2::client::handshake(tcp).await.map_err(failed)?;
    let request = http::Request::post(format!("http://{at}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let (response, mut body) = client.send_request(request, false).map_err(failed)?;
        body.send_data(Bytes::from(question(service)), true).map_err(failed)?;
        let mut answer = response.await.map_err(failed)?.into_body();
        let mut heard = Vec::new();
        while let Some(part) = answer.data().await {
            let part = part.map_err(failed)?;
            // Not given back when it fails: the connection ends with this.
            let _ = answer.flow_control().release_capacity(part.len());
            heard.extend_from_slice(&part);
            if heard.len() > MAX_HEAD {
                return Err("the answer is too long".to_owned());
            }
        }
        match serving(&heard) {
            Some(Serving::Yes) => Ok(()),
            Some(Serving::No(status)) => Err(format!("it is not SERVING, but {status}")),
            None => Err("the answer is no message of the health protocol".to_owned()),
        }
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(ended.map_or_else(failed, |()| "the connection was closed".to_owned())),
    }
}

/// Without anything to ask, until something changes.
const LONG: Duration = Duration::from_secs(3600);
/// Bytes of an answer that are read.
const MAX_HEAD: usize = 16 << 10;
/// Characters of what is wrong.
const MAX_REASON: usize = 200;

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    async fn status(answer: &'static [u8]) -> Result<u16, String> {
        let (near, mut far) = duplex(64);
        let server = async {
            let mut asked = vec![0; 16];
            far.read_exact(&mut asked).await.expect("a request");
            for part in answer.chunks(5) {
                // The client may have heard enough.
                let _ = far.write_all(part).await;
            }
            drop(far);
        };
        tokio::join!(status_of(near, "GET / HTTP/1.1\r\n"), server).0
    }

    #[tokio::test]
    async fn the_first_line_is_what_counts() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n").await, Ok(204));
        assert_eq!(status(b"HTTP/1.0 503 Sorry\r\n\r\n").await, Ok(503));
        for wrong in [&b""[..], b"HTTP/1.1", b"SSH-2.0-OpenSSH\r\n"] {
            assert!(status(wrong).await.is_err(), "{wrong:?}");
        }
    }
}
