//! Ports of the machine's loopback interface that lead into the bed.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::error::{BedError, Doing, Result};
use super::stop::Stop;
use crate::sys;

/// Where a connection goes: an address as seen from a network namespace. Asked anew for each connection.
pub(crate) type Resolve = Arc<dyn Fn() -> Result<(PathBuf, SocketAddr)> + Send + Sync>;

/// A listening port that ends with this value.
#[derive(Debug)]
pub(crate) struct Forward {
    stop: Stop,
    addr: SocketAddr,
}

impl Forward {
    /// Listens on 127.0.0.1. Port 0 means any free one; else the given one, or with `or_next` one of the hundred that
    /// follow.
    pub(crate) fn listen(port: u16, or_next: bool, resolve: Resolve) -> Result<Self> {
        let last = if or_next { port.saturating_add(100) } else { port };
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let mut error = io::Error::from(io::ErrorKind::AddrInUse);
        for candidate in port..=last {
            match bind(candidate) {
                Ok(listener) => return Self::serve(listener, resolve),
                Err(e) => error = e,
            }
        }
        Err(BedError::Io { what: format!("listen on 127.0.0.1:{port}"), source: error })
    }

    fn serve(listener: TcpListener, resolve: Resolve) -> Result<Self> {
        let addr = listener.local_addr().doing(|| "read a socket's address".to_owned())?;
        let stop = Stop::default();
        let flag = stop.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if flag.raised() {
                    return;
                }
                let resolve = Arc::clone(&resolve);
                thread::spawn(move || connect(stream, &resolve));
            }
        });
        Ok(Self { stop, addr })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.stop.raise();
        // Wakes the thread; if nobody listens any more it has ended already.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_millis(100));
    }
}

/// A client whose target cannot be reached sees its connection closed: there is no better way to tell it.
fn connect(client: TcpStream, resolve: &Resolve) {
    let Ok((netns, addr)) = resolve() else { return };
    let server = sys::in_network(&netns, || TcpStream::connect_timeout(&addr, Duration::from_secs(5)));
    let Ok(Ok(server)) = server else { return };
    let (Ok(to_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { return };
    thread::spawn(move || copy(from_server, to_client));
    copy(client, server);
}

/// Copies one direction and passes its end on.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        if buffer.get(..length).is_none_or(|bytes| to.write_all(bytes).is_err()) {
            break;
        }
    }
    // Either end may have closed both directions already.
    let _ = to.shutdown(Shutdown::Write);
}
