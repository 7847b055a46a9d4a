//! Queries by UDP.

use std::{io, net::SocketAddr, rc::Rc, time::Duration};

use mesh_core::dns::{Code, Transport};
use tokio::{net::UdpSocket, sync::watch};

use super::{MAX_QUERY, Question, Resolver, Step};
use crate::run::tasks;

impl Resolver {
    /// Answers queries for as long as this is polled.
    pub async fn serve_packets(self: Rc<Self>, socket: std::net::UdpSocket, released: watch::Receiver<bool>) {
        let bound =
            UdpSocket::from_std(socket).and_then(|socket| Ok((socket.local_addr()?, Rc::new(socket))));
        let (own, socket) = match bound {
            Ok(bound) => bound,
            Err(error) => return tracing::error!(%error, "A resolver could not be registered."),
        };
        let drain = self.worker.drain.clone();
        tokio::select! {
            () = self.receive(own, &socket) => {}
            () = super::over(released) => {}
            () = drain.graceful() => {}
        }
    }

    async fn receive(self: &Rc<Self>, own: SocketAddr, socket: &Rc<UdpSocket>) {
        loop {
            let some = match socket.readable().await {
                Ok(()) => self.take(own, socket),
                Err(error) => Err(error),
            };
            match some {
                // A pod that does not stop asking gets no more of the thread than others.
                Ok(()) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    if let Some(muted) = self.worker.may_complain() {
                        tracing::warn!(pod = %self.pod.uid, %error, muted, "Queries cannot be received at present.");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes some of what is there.
    fn take(self: &Rc<Self>, own: SocketAddr, socket: &Rc<UdpSocket>) -> io::Result<()> {
        // Here and not in the task: a pod that asks nothing takes no memory for it.
        let mut packet = [0; MAX_QUERY];
        for _ in 0..BATCH {
            let (length, client) = socket.try_recv_from(&mut packet)?;
            match self.decide(packet.get(..length).unwrap_or_default(), Transport::Udp) {
                Step::Silence => {}
                Step::Reply(reply) => send(socket, &reply, client),
                Step::Ask(question) => self.pass_on(question, socket, (own, client)),
            }
        }
        Ok(())
    }

    fn pass_on(
        self: &Rc<Self>,
        question: Question,
        socket: &Rc<UdpSocket>,
        (own, client): (SocketAddr, SocketAddr),
    ) {
        let Some(place) = self.place() else {
            return send(socket, &question.query.fail(Code::ServerFailure), client);
        };
        let (resolver, socket) = (self.clone(), socket.clone());
        tasks::spawn_local("dns query", async move {
            let reply = match resolver.asked(own, client) {
                Ok(asked) => resolver.settle(&question, Transport::Udp, &asked, client).await,
                Err(error) => {
                    if let Some(muted) = resolver.worker.may_complain() {
                        let pod = &resolver.pod.uid;
                        tracing::warn!(%pod, %error, muted, "Nobody can say whom a pod has asked.");
                    }
                    question.query.fail(Code::ServerFailure)
                }
            };
            send(&socket, &reply, client);
            drop(place);
        });
    }
}

/// A pod that does not take its answers loses them, as it would from anybody.
fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    let _ = socket.try_send_to(reply, client);
}

/// Packets taken before others get their turn.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);
