//! Many short connections to places that nobody should get to, counted as they come to nothing, or do not.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What has come of them so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Attempts that are over.
    pub tried: u64,
    /// Those to which a server has said something.
    pub served: u64,
}

/// Tries all of `to` from `threads` threads each for so long, and tells every [`PERIOD`] what has come of it.
pub fn run(to: &[SocketAddr], threads: usize, duration: Duration, mut tell: impl FnMut(Probed)) {
    let (tried, served, ended) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let so_far = || Probed { tried: tried.load(Ordering::SeqCst), served: served.load(Ordering::SeqCst) };
    let end = Instant::now() + duration;
    let probe = &|to: SocketAddr| {
        while !ended.load(Ordering::Relaxed) {
            let outcome = attempt(to);
            served.fetch_add(u64::from(*outcome.as_ref().unwrap_or(&false)), Ordering::SeqCst);
            tried.fetch_add(1, Ordering::SeqCst);
            if outcome.is_err() {
                // Nobody is there at all: to ask at once again would only keep the machine busy.
                thread::sleep(Duration::from_millis(1));
            }
        }
    };
    thread::scope(|scope| {
        for to in to.iter().flat_map(|to| std::iter::repeat_n(*to, threads)) {
            scope.spawn(move || probe(to));
        }
        while Instant::now() < end {
            thread::sleep(PERIOD);
            tell(so_far());
        }
        ended.store(true, Ordering::Relaxed);
    });
    tell(so_far());
}

/// Whether a server says anything.
fn attempt(to: SocketAddr) -> io::Result<bool> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    // Ports are to be had again at once.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&SockAddr::from(to), PATIENCE)?;
    let mut tcp = TcpStream::from(socket);
    tcp.set_read_timeout(Some(PATIENCE))?;
    if tcp.write_all(b"ECHO\n").is_err() {
        return Ok(false);
    }
    Ok(tcp.read(&mut [0]).is_ok_and(|length| length > 0))
}

/// How often it is told what has come of them.
pub const PERIOD: Duration = Duration::from_millis(100);
/// For each step of an attempt: a server of this machine that may answer does so in a hundredth of it.
const PATIENCE: Duration = Duration::from_millis(100);
