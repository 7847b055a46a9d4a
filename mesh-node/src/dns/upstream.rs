//! Asking those that a pod had asked, from inside the pod.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use mesh_core::dns::{Code, Query, SECRET, Sent, Transport, Verdict};
use tokio::{io::Interest, net::UdpSocket, time::timeout};

use super::{Question, Resolver, figures::Count, stream};
use crate::{l4::outbound, sys::sockopt};

impl Resolver {
    /// The answer to what others have to be asked about.
    pub(super) async fn settle(
        &self,
        question: &Question,
        transport: Transport,
        asked: &[SocketAddr],
        client: SocketAddr,
    ) -> Vec<u8> {
        let Question { query, aliases } = question;
        let Some(aliases) = aliases else { return self.ask(query, transport, asked, client).await };
        let Some(inner) = query.about(aliases) else { return query.fail(Code::ServerFailure) };
        let answer = async {
            let answer = self.ask(&inner, transport, asked, client).await;
            match transport {
                // It has to be read, so all of it has to be here.
                Transport::Udp if Query::is_cut(&answer) => {
                    self.ask(&inner, Transport::Tcp, asked, client).await
                }
                _ => answer,
            }
        };
        match timeout(2 * PATIENCE, answer).await {
            Ok(answer) => query.reply_as(aliases, &answer, transport),
            Err(_) => query.fail(Code::ServerFailure),
        }
    }

    /// The answer to a query from the first of `asked` that has one; a failure if none has in time.
    async fn ask(
        &self,
        query: &Query,
        transport: Transport,
        asked: &[SocketAddr],
        client: SocketAddr,
    ) -> Vec<u8> {
        let Some(first) = asked.first() else {
            // A pod that has found the resolver by itself may ask it for the mesh's names only.
            return query.fail(Code::Refused);
        };
        // A packet may be lost, and a resolver be down; who asked several expects an answer from any.
        for at in [*first, asked.get(1).copied().unwrap_or(*first)] {
            self.count(Count::Upstream);
            let started = Instant::now();
            let answer = async {
                match transport {
                    Transport::Udp => self.by_packet(query, at, client).await,
                    Transport::Tcp => self.by_stream(query, at, client).await,
                }
            };
            match timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(reply) => {
                    self.worker.names.took(started.elapsed());
                    return reply;
                }
                Err(error) => {
                    self.count(Count::UpstreamFailures);
                    tracing::debug!(pod = %self.pod.uid, resolver = %at, %error, "A resolver has not answered.");
                }
            }
        }
        query.fail(Code::ServerFailure)
    }

    /// A socket for each query, so that each has a port that nobody knows; connected, so that the kernel keeps out what
    /// others send.
    async fn by_packet(&self, query: &Query, at: SocketAddr, client: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = self.pod.netns.run(|| sockopt::udp_socket(at.is_ipv6()))??;
        let socket = std::net::UdpSocket::from(self.worker.descriptors.allow_dial(socket)?);
        socket.connect(self.pod.on_link(at))?;
        let socket = UdpSocket::from_std(socket)?;
        let sent = query.forward(&secret()?, Transport::Udp);
        socket.send(sent.packet()).await?;
        loop {
            heard(&socket).await?;
            match receive(&socket, &sent) {
                Ok((Verdict::Answer, answer)) => return Ok(query.relay(answer, Transport::Udp)),
                Ok((Verdict::Failed(code), _)) => return Ok(query.fail(code)),
                Ok((Verdict::OtherCase, _)) => {
                    self.count(Count::OtherCase);
                    let answer = self.exchange(query, at, client).await?;
                    return Ok(query.relay(answer, Transport::Udp));
                }
                Ok((Verdict::Stray, _)) => self.count(Count::Stray),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn by_stream(&self, query: &Query, at: SocketAddr, client: SocketAddr) -> io::Result<Vec<u8>> {
        Ok(query.relay(self.exchange(query, at, client).await?, Transport::Tcp))
    }

    /// Asks over a connection that goes the way of any other of the pod, through a tunnel if the resolver is enrolled.
    async fn exchange(&self, query: &Query, at: SocketAddr, client: SocketAddr) -> io::Result<Vec<u8>> {
        let open = outbound::lend(self.worker.clone(), self.pod.clone(), client, at);
        let mut lent = Box::pin(open).await.map_err(io::Error::other)?;
        let sent = query.forward(&secret()?, Transport::Tcp);
        stream::write(&mut lent.io, sent.packet()).await?;
        count(&lent.counters.sent, sent.packet());
        let Some(answer) = stream::read(&mut lent.io, usize::from(u16::MAX)).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        count(&lent.counters.received, &answer);
        match sent.judge(&answer) {
            Verdict::Answer | Verdict::OtherCase => Ok(answer),
            Verdict::Failed(_) | Verdict::Stray => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// A message and its length.
fn count(bytes: &AtomicU64, message: &[u8]) {
    bytes.fetch_add(u64::try_from(message.len() + 2).unwrap_or(0), Ordering::Relaxed);
}

/// Resolves when something has come.
///
/// # Errors
/// What the network says in place of an answer: that nobody is there, for instance.
async fn heard(socket: &UdpSocket) -> io::Result<()> {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        if ready.is_readable() {
            return Ok(());
        }
        // The error was somebody else's, or is gone: wait for the next event.
        let _ = socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}

/// A packet that has come, and what it is.
fn receive(socket: &UdpSocket, sent: &Sent) -> io::Result<(Verdict, Vec<u8>)> {
    let mut packet = [0; MAX_ANSWER];
    let length = socket.try_recv(&mut packet)?;
    let answer = packet.get(..length).unwrap_or_default();
    let verdict = sent.judge(answer);
    Ok((verdict, if verdict == Verdict::Answer { answer.to_vec() } else { Vec::new() }))
}

fn secret() -> io::Result<[u8; SECRET]> {
    let mut secret = [0; SECRET];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| io::Error::other("no randomness"))?;
    Ok(secret)
}

/// How long one resolver may take. Clients wait for five seconds, and are to hear of a failure before.
pub(super) const PATIENCE: Duration = Duration::from_millis(2200);
/// More than resolvers are told to send.
const MAX_ANSWER: usize = 4096;
