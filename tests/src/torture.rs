//! The torture suite: what TCP promises, as cases that run over every way in which the mesh carries it.
//!
//! A [`Case`] is data: what each end does, step by step, and how each sees the flow come out. [`run`] and [`serve`] play
//! the two ends with real sockets and print a [`Report`] for each flow; [`judge`] compares the two. A flow between pods that no
//! mesh serves shows what this kernel does; where another path cannot do the same, the case says so
//! ([`Difference`]), and is asked for exactly that.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::cases::{all, find};
pub use self::payload::{Checker, Digest, Direction, Fault, Stream};
pub use self::report::{End, Report, judge};
pub use self::run::{Plan, inherit, knock, run, serve};
pub use self::ways::FILLED;

mod act;
mod cases;
mod payload;
mod report;
mod run;
mod ways;

/// A way between two pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Neither is served by a mesh.
    Direct,
    /// Through the proxy of the node that both are on.
    Proxied,
    /// Through the tunnel between two nodes.
    CrossNode,
    /// Past the proxy of the node that both are on.
    Express,
}

/// One of the two ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Side {
    /// It has connected.
    Client,
    /// It has accepted.
    Server,
}

/// What two ends do with one connection, and what each sees of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// Whom the client connects to.
    pub to: To,
    /// What the client does.
    pub client: Vec<Step>,
    /// What the server does.
    pub server: Vec<Step>,
    /// What each sees of it.
    pub seen: Ends,
    /// Where they see something else.
    pub but: Option<Difference>,
}

/// Whom a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// A server that accepts at once.
    Server,
    /// One that lets connections wait, in a queue with room for [`CROWD`], before it accepts.
    Crowded,
    /// A port where nobody listens.
    Nobody,
}

/// What an end does next. Sizes are bytes, times milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Sends the next bytes of its stream.
    Send(u64, Out),
    /// Sends for as long as the kernel takes something, up to [`FILLED`]: nothing for so long ends it.
    Fill(u64),
    /// Receives exactly so many.
    Receive(u64, In),
    /// Receives to the end.
    Drain(In),
    /// Sends and ends, and receives to the end, at the same time.
    Both(u64, Out, In),
    /// Says that nothing more comes.
    Fin,
    /// Does nothing.
    Pause(u64),
    /// Lets a close wait, for up to so many seconds, until all is delivered.
    Linger(u64),
    /// Asks after the other end when the connection is idle.
    Keepalive,
    /// Sends a byte of urgent data, which is none of the stream's.
    Urge,
    /// Waits for the urgent byte.
    Heed,
    /// Hands the connection to a program that it starts, which does the rest. Only as the first step.
    Inherit,
    /// Breaks the connection.
    Reset,
}

/// How to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// `write`.
    Write,
    /// `write` of so many bytes at a time, each in a packet of its own if it can be.
    Pieces(usize),
    /// `writev`.
    Vectored,
    /// `sendfile`.
    File,
    /// `splice` from a pipe.
    Splice,
    /// `MSG_ZEROCOPY`, with other bytes written over those that the kernel has given back.
    ZeroCopy,
    /// Without blocking, by edge-triggered epoll.
    Edge,
    /// `io_uring`.
    Ring,
}

/// How to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum In {
    /// `read`.
    Read,
    /// `read` of so many bytes at most, and a pause of so many milliseconds after each.
    Slow(usize, u64),
    /// A look with `MSG_PEEK` before each `read`, which has to show the same.
    Peek,
    /// `splice` into a pipe.
    Splice,
    /// Without blocking, by edge-triggered epoll.
    Edge,
    /// `io_uring`.
    Ring,
}

/// What both ends see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub client: Seen,
    /// The server.
    pub server: Seen,
}

/// What an end sees of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// How much of what the other end has sent.
    pub got: Got,
    /// How it ended.
    pub end: End,
    /// Whether there was urgent data.
    pub urgent: bool,
}

/// How much of a stream arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// All of it.
    All,
    /// Its beginning: the end may overtake the rest.
    Beginning,
    /// Its beginning, if anything: the end may come before the flow has reached the server at all.
    Perhaps,
}

/// What is otherwise on some paths, by their nature.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Where.
    pub paths: &'static [Path],
    /// What is seen there.
    pub seen: Ends,
    /// What it is, for the table in `docs/torture.md`: there, and there alone, is it otherwise.
    pub what: &'static str,
    /// Why it cannot be the same.
    pub why: &'static str,
}

impl Case {
    /// What the ends see on a path.
    pub fn on(&self, path: Path) -> &Ends {
        let differs = self.but.as_ref().filter(|difference| difference.paths.contains(&path));
        differs.map_or(&self.seen, |difference| &difference.seen)
    }

    /// What an end of it does.
    pub fn steps(&self, side: Side) -> &[Step] {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }
}

impl Side {
    /// The direction of what it sends.
    pub fn sends(self) -> Direction {
        match self {
            Self::Client => Direction::ToServer,
            Self::Server => Direction::ToClient,
        }
    }

    /// The one across.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl To {
    /// Its port at a server's address.
    pub fn port(self) -> u16 {
        match self {
            Self::Server => 7100,
            Self::Crowded => 7101,
            Self::Nobody => 7102,
        }
    }

    fn at(self, server: IpAddr) -> std::net::SocketAddr {
        (server, self.port()).into()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Proxied => "proxied",
            Self::CrossNode => "cross-node",
            Self::Express => "express",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// Connections that may wait at a crowded server; the kernel lets in one more.
pub const CROWD: u32 = 4;

#[cfg(test)]
mod tests;
