//! The helper that tests run inside pods where `curl` is not enough: a TCP server and a TCP client whose every step
//! can be chosen and is reported, and a UDP pair.
//!
//! The server prints `LISTENING <address>` and then, for each connection, `ACCEPT <peer> <local>` and
//! `END <peer> <bytes> <eof|reset|…>`. The client prints one line of JSON, a [`ClientReport`].

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What the server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Sends back what comes until the client ends its direction, then ends its own.
    Echo,
    /// Says `<peer> <local>` and a new line, then ends its direction and reads to the end.
    Peer,
    /// Reads to the end, then answers with the number of bytes and ends.
    Count,
    /// Reads nothing and sends nothing.
    Hold,
    /// Sends a greeting line first, as server-first protocols do, then echoes.
    Greet,
    /// Resets the connection.
    Reset,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "echo" => Self::Echo,
            "peer" => Self::Peer,
            "count" => Self::Count,
            "hold" => Self::Hold,
            "greet" => Self::Greet,
            "reset" => Self::Reset,
            other => return Err(format!("{other:?} is none of echo, peer, count, hold, greet, reset")),
        })
    }
}

/// What the client does.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// Where to.
    pub addr: SocketAddr,
    /// A local address to bind to first.
    pub bind: Option<SocketAddr>,
    /// What to send at first.
    pub send: String,
    /// Bytes to send after that, of a fixed pattern.
    pub bytes: u64,
    /// End the own direction after sending, and only then read.
    pub half_close: bool,
    /// Keep the connection open this long before reading to the end.
    pub hold: Duration,
    /// Read no more than this; without limit if `None`.
    pub read: Option<u64>,
    /// For connecting and for each read.
    pub timeout: Duration,
}

/// What the client saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientReport {
    /// Whether the connection came about.
    pub connected: bool,
    /// Why not.
    pub error: Option<String>,
    /// The other end, as the application sees it.
    pub peer: Option<String>,
    /// Its own end.
    pub local: Option<String>,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes read.
    pub received: u64,
    /// The first 4096 of them as text.
    pub text: String,
    /// How it ended: `eof`, `reset`, `timeout`, `limit` or another error's text.
    pub end: String,
    /// Milliseconds until connected.
    pub connect_ms: u64,
    /// Milliseconds in all.
    pub total_ms: u64,
}

/// Serves connections for ever.
pub fn serve(addr: SocketAddr, mode: Mode) -> io::Result<()> {
    let listener = TcpListener::bind(addr)?;
    say(&format!("LISTENING {}", listener.local_addr()?));
    loop {
        let (stream, peer) = listener.accept()?;
        say(&format!("ACCEPT {peer} {}", stream.local_addr()?));
        thread::spawn(move || {
            let (bytes, end) = answer(stream, mode);
            say(&format!("END {peer} {bytes} {end}"));
        });
    }
}

fn answer(mut stream: TcpStream, mode: Mode) -> (u64, String) {
    let mut bytes = 0;
    let result = match mode {
        Mode::Echo => echo(&mut stream, &mut bytes),
        Mode::Greet => stream.write_all(b"220 ready\n").and_then(|()| echo(&mut stream, &mut bytes)),
        Mode::Peer => peer(&mut stream, &mut bytes),
        Mode::Count => count(&mut stream, &mut bytes),
        Mode::Hold => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        Mode::Reset => crate::sys::reset_on_close(&stream),
    };
    (bytes, ending(result))
}

fn echo(stream: &mut TcpStream, bytes: &mut u64) -> io::Result<()> {
    let mut out = stream.try_clone()?;
    each_read(stream, bytes, |data| out.write_all(data))?;
    out.shutdown(Shutdown::Write)
}

fn peer(stream: &mut TcpStream, bytes: &mut u64) -> io::Result<()> {
    let line = format!("{} {}\n", stream.peer_addr()?, stream.local_addr()?);
    stream.write_all(line.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    each_read(stream, bytes, |_| Ok(()))
}

fn count(stream: &mut TcpStream, bytes: &mut u64) -> io::Result<()> {
    each_read(stream, bytes, |_| Ok(()))?;
    stream.write_all(format!("{bytes}\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)
}

fn each_read(
    stream: &mut TcpStream,
    bytes: &mut u64,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        *bytes += length as u64;
        take(buffer.get(..length).unwrap_or_default())?;
    }
}

/// Makes one connection as planned.
pub fn connect(plan: &ClientPlan) -> ClientReport {
    let started = Instant::now();
    let mut report = ClientReport::default();
    let result = match open(plan) {
        Ok(stream) => {
            report.connected = true;
            report.connect_ms = millis(started);
            converse(stream, plan, &mut report)
        }
        Err(e) => {
            report.error = Some(e.to_string());
            Err(e)
        }
    };
    if report.end.is_empty() {
        report.end = ending(result);
    }
    report.total_ms = millis(started);
    report
}

fn open(plan: &ClientPlan) -> io::Result<TcpStream> {
    match plan.bind {
        None => TcpStream::connect_timeout(&plan.addr, plan.timeout),
        Some(local) => crate::sys::connect_from(local, plan.addr),
    }
}

fn converse(mut stream: TcpStream, plan: &ClientPlan, report: &mut ClientReport) -> io::Result<()> {
    report.peer = stream.peer_addr().ok().map(|a| a.to_string());
    report.local = stream.local_addr().ok().map(|a| a.to_string());
    stream.set_read_timeout(Some(plan.timeout))?;
    stream.write_all(plan.send.as_bytes())?;
    report.sent = plan.send.len() as u64;
    let mut left = plan.bytes;
    // Sending and reading at once, or an echo would fill all buffers and stop both.
    let mut sender = stream.try_clone()?;
    let half_close = plan.half_close;
    let sending = thread::spawn(move || {
        let block: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
        let mut sent = 0;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            if sender.write_all(block.get(..length).unwrap_or_default()).is_err() {
                break;
            }
            left -= length as u64;
            sent += length as u64;
        }
        if half_close {
            // Fails if the other end has reset the connection, which reading reports.
            let _ = sender.shutdown(Shutdown::Write);
        }
        sent
    });
    thread::sleep(plan.hold);
    let result = read_answer(&mut stream, plan, report);
    report.sent += sending.join().unwrap_or(0);
    result
}

fn read_answer(stream: &mut TcpStream, plan: &ClientPlan, report: &mut ClientReport) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if plan.read.is_some_and(|limit| report.received >= limit) {
            "limit".clone_into(&mut report.end);
            // The sender may be blocked on a peer that reads no more.
            return stream.shutdown(Shutdown::Both);
        }
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        report.received += length as u64;
        if report.text.len() < 4096 {
            report
                .text
                .push_str(&String::from_utf8_lossy(buffer.get(..length.min(4096)).unwrap_or_default()));
        }
    }
}

/// Answers every datagram with itself for ever.
pub fn serve_udp(addr: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(addr)?;
    say(&format!("LISTENING {}", socket.local_addr()?));
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(buffer.get(..length).unwrap_or_default(), peer)?;
    }
}

fn ending(result: io::Result<()>) -> String {
    match result {
        Ok(()) => "eof".to_owned(),
        Err(e) => match e.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => "reset".to_owned(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timeout".to_owned(),
            io::ErrorKind::ConnectionRefused => "refused".to_owned(),
            _ => e.to_string(),
        },
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A line at once: whoever reads it waits for it.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Nobody reads any more: then there is nobody to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(mode: Mode) -> ClientPlan {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || answer(listener.accept().unwrap().0, mode));
        let timeout = Duration::from_millis(500);
        ClientPlan {
            addr,
            bind: None,
            send: "hello".to_owned(),
            bytes: 0,
            half_close: true,
            hold: Duration::ZERO,
            read: None,
            timeout,
        }
    }

    #[test]
    fn modes_end_as_they_say() {
        for (mode, text, end) in [
            (Mode::Echo, "hello", "eof"),
            (Mode::Count, "5\n", "eof"),
            (Mode::Greet, "220 ready\nhello", "eof"),
            (Mode::Hold, "", "timeout"),
        ] {
            let report = connect(&plan(mode));
            assert_eq!((report.text.as_str(), report.end.as_str()), (text, end), "{mode:?}");
        }
    }

    #[test]
    fn large_echoes_do_not_stall() {
        let plan = ClientPlan { bytes: 8 << 20, timeout: Duration::from_secs(5), ..plan(Mode::Echo) };
        let report = connect(&plan);
        assert_eq!((report.sent, report.received), ((8 << 20) + 5, (8 << 20) + 5), "{}", report.end);
    }

    #[test]
    fn a_reset_is_told_from_an_end() {
        let plan = ClientPlan {
            send: String::new(),
            half_close: false,
            hold: Duration::from_millis(50),
            ..plan(Mode::Reset)
        };
        assert_eq!(connect(&plan).end, "reset");
    }

    #[test]
    fn refusals_are_reported() {
        let mut plan = plan(Mode::Echo);
        plan.addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let report = connect(&plan);
        assert_eq!((report.connected, report.end.as_str()), (false, "refused"));
    }
}
