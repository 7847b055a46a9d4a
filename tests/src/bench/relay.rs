//! The plainest relay that can stand where the mesh stands: what user space costs at least.
//!
//! It knows no policy, no identity, no encryption and no log: for each connection it opens another one and copies.
//! It has a thread with its own listeners and its own event loop for each processor, as `mesh-node` has.

use std::{
    cell::RefCell,
    fs::File,
    future::poll_fn,
    io::{self, Write},
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    pin::Pin,
    str::FromStr,
    task::{Context, Poll, ready},
    thread,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task::JoinSet,
};

use crate::sys;

/// Where a relay listens and where it connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The own address.
    pub listen: SocketAddr,
    /// Whom connections are for.
    pub to: SocketAddr,
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (listen, to) = text.split_once('=').ok_or_else(|| format!("{text:?} is not LISTEN=TO"))?;
        let parse = |addr: &str| addr.parse().map_err(|_| format!("{addr:?} is no IP:PORT"));
        Ok(Self { listen: parse(listen)?, to: parse(to)? })
    }
}

/// Relays for ever. Listens in the network namespace `listen_in` if there is one, and connects from its own.
pub fn run(routes: &[Route], listen_in: Option<PathBuf>) -> io::Result<()> {
    // Listening through the path of a thread's own namespace is the same as listening here.
    let netns = listen_in.unwrap_or_else(|| PathBuf::from("/proc/thread-self/ns/net"));
    File::open(&netns)?;
    let mut threads = Vec::new();
    for _ in 0..thread::available_parallelism()?.get() {
        let listeners =
            sys::in_network(&netns, || routes.iter().map(listen).collect::<io::Result<Vec<_>>>())??;
        threads.push(thread::spawn(move || serve(listeners)));
    }
    writeln!(io::stdout(), "relaying")?;
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    Ok(())
}

fn listen(route: &Route) -> io::Result<(StdListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(route.listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Each thread has a listener of its own; the kernel spreads connections over them.
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&route.listen.into())?;
    socket.listen(4096)?;
    Ok((socket.into(), route.to))
}

fn serve(listeners: Vec<(StdListener, SocketAddr)>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut accepting = JoinSet::new();
        for (listener, to) in listeners {
            accepting.spawn(accept(TcpListener::from_std(listener)?, to));
        }
        match accepting.join_next().await {
            Some(Ok(ended)) => ended,
            _ => Ok(()),
        }
    })
}

async fn accept(listener: TcpListener, to: SocketAddr) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted?;
                connections.spawn(carry(client, to));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn carry(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(pour(from_client, to_server), pour(from_server, to_client))?;
    Ok(())
}

/// Copies one direction to its end.
async fn pour(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    while let Some(rest) =
        poll_fn(|cx| BUFFER.with_borrow_mut(|buffer| step(cx, buffer, &mut from, &mut to))).await?
    {
        to.write_all(&rest).await?;
    }
    to.shutdown().await
}

/// Reads once and writes at once as much as goes; what is left is the answer, `None` at the end. Only what is left
/// needs memory of its own, so connections cost next to none.
fn step(
    cx: &mut Context<'_>,
    buffer: &mut [u8],
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
) -> Poll<io::Result<Option<Vec<u8>>>> {
    let mut read = ReadBuf::new(buffer);
    ready!(Pin::new(from).poll_read(cx, &mut read))?;
    let bytes = read.filled();
    if bytes.is_empty() {
        return Poll::Ready(Ok(None));
    }
    let written = match Pin::new(to).poll_write(cx, bytes) {
        Poll::Ready(written) => written?,
        Poll::Pending => 0,
    };
    Poll::Ready(Ok(Some(bytes.get(written..).unwrap_or_default().to_vec())))
}

thread_local! {
    /// What is on its way through a thread.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 128 << 10]);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn routes() {
        let route: Route = "127.0.0.1:1=[fd00::1]:2".parse().unwrap();
        assert_eq!(route, Route { listen: ([127, 0, 0, 1], 1).into(), to: "[fd00::1]:2".parse().unwrap() });
        for wrong in ["", "127.0.0.1:1", "127.0.0.1=1.2.3.4:5", "127.0.0.1:1=web:5"] {
            assert!(wrong.parse::<Route>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_pass_in_both_directions() {
        let server = StdListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let listeners = vec![listen(&Route { listen: ([127, 0, 0, 1], 0).into(), to }).unwrap()];
        let addr = listeners[0].0.local_addr().unwrap();
        thread::spawn(move || serve(listeners));
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        client.write_all(b"ask").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut asked = String::new();
        accepted.read_to_string(&mut asked).unwrap();
        accepted.write_all(b"answer").unwrap();
        drop(accepted);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!((asked.as_str(), answer.as_str()), ("ask", "answer"));
    }
}
