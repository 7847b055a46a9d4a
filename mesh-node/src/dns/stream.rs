//! Queries by TCP (RFC 7766): each message with its length before it.

use std::{io, net::SocketAddr, rc::Rc, time::Duration};

use mesh_core::dns::{Code, Transport};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{MAX_QUERY, Resolver, Step};

impl Resolver {
    /// Answers the queries of one connection, one after the other.
    pub async fn serve_stream(self: Rc<Self>, mut tcp: TcpStream, client: SocketAddr) {
        let Some(_place) = self.place() else { return };
        let asked = self.worker.original_destination(&self.pod, &tcp, client);
        let asked: Vec<_> = asked.into_iter().collect();
        let drain = self.worker.drain.clone();
        loop {
            let read = tokio::select! {
                read = timeout(IDLE, read(&mut tcp, MAX_QUERY)) => read,
                // Who has not asked yet asks the next one.
                () = drain.graceful() => return,
            };
            let Ok(Ok(Some(message))) = read else { return };
            let reply = match self.decide(&message, Transport::Tcp) {
                Step::Silence => return,
                Step::Reply(reply) => reply,
                Step::Ask(question) if asked.is_empty() => question.query.fail(Code::Refused),
                Step::Ask(question) => self.settle(&question, Transport::Tcp, &asked, client).await,
            };
            match timeout(IDLE, write(&mut tcp, &reply)).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }
}

/// The next message; none where the stream ends.
pub(super) async fn read(io: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    if io.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    io.read_exact(&mut length[1..]).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    io.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes a message.
pub(super) async fn write(io: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // In one piece: some servers take what is in the first segment for all of it.
    io.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    io.flush().await
}

/// How long a client may leave a connection idle, or an answer unread (RFC 7766, 6.2.3: a few seconds).
pub(super) const IDLE: Duration = Duration::from_secs(10);
