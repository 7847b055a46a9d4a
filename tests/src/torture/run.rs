//! The two programs: one that connects, and one that accepts.
//!
//! Before anything else a client says on a line of its own which case its flow is, and the flow's number. Reports go to
//! standard output, one line of JSON each.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::act::{end_of, play};
use super::ways::PATIENCE;
use super::{CROWD, Case, Digest, End, Report, Side, Step, To, find};

/// What a client does.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// The server's address.
    pub server: IpAddr,
    /// The cases to play.
    #[arg(required = true)]
    pub cases: Vec<String>,
    /// How often each.
    #[arg(long, default_value_t = 1)]
    pub repeat: u32,
    /// How many flows at a time.
    #[arg(long, default_value_t = 1)]
    pub at_once: u32,
    /// Number of the first flow.
    #[arg(long, default_value_t = 1)]
    pub first: u32,
}

/// Plays the client's end of the plan's cases, all of them in each round.
pub fn run(plan: &Plan) -> Result<()> {
    let named = |name: &String| find(name).with_context(|| format!("there is no case {name:?}"));
    let cases = plan.cases.iter().map(named).collect::<Result<Vec<_>>>()?;
    let rounds = (0..plan.repeat).flat_map(|_| &cases);
    let flows: VecDeque<(u32, &Case)> = (plan.first..).zip(rounds).collect();
    let flows = Mutex::new(flows);
    let next = || flows.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..plan.at_once {
            scope.spawn(|| {
                while let Some((flow, case)) = next() {
                    dial(case, flow, plan.server).iter().for_each(tell);
                }
            });
        }
    });
    Ok(())
}

/// One flow; nothing is known of one that a child has played.
fn dial(case: &Case, flow: u32, server: IpAddr) -> Option<Report> {
    let begun = Instant::now();
    let connected = connect(case.to.at(server));
    let connected_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let greeted = connected.and_then(|mut socket| {
        socket.write_all(format!("{} {flow}\n", case.name).as_bytes())?;
        Ok(socket)
    });
    let report = match greeted {
        Ok(socket) => enact(socket, case, (flow, Side::Client))?,
        Err(error) => nothing(&case.name, (flow, Side::Client), end_of(&error)),
    };
    Some(Report { connected_ms, ..report })
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(&SockAddr::from(to), PATIENCE)?;
    Ok(socket.into())
}

/// The report of a flow in which nothing happened.
fn nothing(case: &str, (flow, side): (u32, Side), end: End) -> Report {
    Report {
        case: case.to_owned(),
        flow,
        side,
        sent: Digest::default(),
        received: Digest::default(),
        fault: None,
        end,
        urgent: false,
        connected_ms: 0,
    }
}

/// Plays an end, here or in a child.
fn enact(socket: TcpStream, case: &Case, (flow, side): (u32, Side)) -> Option<Report> {
    if case.steps(side).first() != Some(&Step::Inherit) {
        return Some(play(socket, case, (flow, side)));
    }
    // The child says what became of it; if it does not, the flow is missed.
    let _ = bequeath(socket, case, (flow, side));
    None
}

/// Starts a child with the connection for its standard input, and keeps none of it.
fn bequeath(socket: TcpStream, case: &Case, (flow, side): (u32, Side)) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["inherit", &case.name, &flow.to_string(), &side.to_string()]);
    let mut child = command.stdin(Stdio::from(OwnedFd::from(socket))).spawn()?;
    drop(command);
    child.wait().map(drop)
}

/// What such a child does. The connection is closed when the process ends.
pub fn inherit(case: &str, flow: u32, side: Side) -> Result<()> {
    let case = find(case).with_context(|| format!("there is no case {case:?}"))?;
    let socket = TcpStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    tell(&play(socket, &case, (flow, side)));
    Ok(())
}

/// Connects so often and leaves without a word, as scanners and some health checks do.
pub fn knock(server: IpAddr, times: u32) -> Result<()> {
    for _ in 0..times {
        drop(connect(To::Server.at(server))?);
    }
    Ok(())
}

/// Plays the server's end of whatever clients ask for, for ever. Says `ready` when it listens. A client that leaves
/// without a word is reported as a flow without a name.
pub fn serve() -> Result<()> {
    let (listener, crowded) = (listen(To::Server, 4096)?, listen(To::Crowded, CROWD)?);
    say("ready")?;
    let other = thread::spawn(move || serve_crowd(&crowded));
    while !other.is_finished() {
        answer(listener.accept()?.0);
    }
    bail!("the crowded server is gone")
}

/// After the first of a crowd the others have to wait.
fn serve_crowd(listener: &TcpListener) -> io::Result<()> {
    loop {
        answer(listener.accept()?.0);
        thread::sleep(CROWDED);
        listener.set_nonblocking(true)?;
        let mut last = Instant::now();
        while last.elapsed() < CROWDED {
            match listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(false)?;
                    answer(socket);
                    last = Instant::now();
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
        listener.set_nonblocking(false)?;
    }
}

fn listen(to: To, backlog: u32) -> Result<TcpListener> {
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, to.port()));
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into()).with_context(|| at.to_string())?;
    socket.listen(i32::try_from(backlog)?)?;
    Ok(socket.into())
}

/// Serves one connection on a thread of its own.
fn answer(mut socket: TcpStream) {
    thread::spawn(move || {
        let (case, flow) = match greeting(&mut socket) {
            Ok(Some(asked)) => asked,
            Ok(None) => return tell(&nothing("", (0, Side::Server), End::Fin)),
            Err(error) => return tell(&nothing("", (0, Side::Server), end_of(&error))),
        };
        enact(socket, &case, (flow, Side::Server)).iter().for_each(tell);
    });
}

/// What a client says first; nothing if it leaves without a word.
fn greeting(socket: &mut TcpStream) -> io::Result<Option<(Case, u32)>> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    // Byte by byte: what follows the line is the case's.
    let mut byte = [0];
    while line.len() < MAX_GREETING && socket.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    if line.is_empty() {
        return Ok(None);
    }
    let line = String::from_utf8_lossy(&line);
    let asked = line.split_once(' ').and_then(|(name, flow)| Some((find(name)?, flow.parse().ok()?)));
    asked.map(Some).ok_or_else(|| io::Error::other(format!("{line:?} is no CASE and FLOW")))
}

fn tell(report: &Report) {
    let line = serde_json::to_string(report).unwrap_or_default();
    // Whoever does not read any more misses the flow, and says so.
    let _ = say(&line);
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// How long a crowd waits.
const CROWDED: Duration = Duration::from_millis(1500);
/// Bytes of a greeting: the longest name and number, many times over.
const MAX_GREETING: usize = 256;
