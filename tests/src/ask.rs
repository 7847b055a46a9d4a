//! Queries of DNS over every kind of socket, and what the application sees of the answer.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// How a query goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// From a socket that is connected to the resolver.
    Connected,
    /// From one that is not.
    Unconnected,
    /// By TCP.
    Tcp,
}

/// What the application sees.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Who has sent the answer.
    pub from: String,
    /// `getpeername`; empty for a socket that is not connected.
    pub peername: String,
    /// The code of the answer, as `dig` calls it.
    pub code: String,
    /// The data of its records.
    pub answers: Vec<String>,
}

/// Asks for a name, with or without an IPv6 socket for an IPv4 address; of a socket that is not connected, several resolvers
/// at once.
pub fn ask(
    servers: &[SocketAddr],
    (name, kind): (&str, &str),
    (way, mapped): (Way, bool),
    patience: Duration,
) -> Result<Asked> {
    let kind: RecordType = kind.parse().with_context(|| format!("{kind:?} is no type of records"))?;
    let mut message = Message::query();
    let name = Name::from_ascii(name).with_context(|| format!("{name:?} is no name"))?;
    message.add_query(Query::query(name, kind));
    message.metadata.recursion_desired = true;
    let packet = message.to_vec()?;
    let named = |server: &SocketAddr| match server.ip() {
        IpAddr::V4(v4) if mapped => SocketAddr::new(v4.to_ipv6_mapped().into(), server.port()),
        _ => *server,
    };
    let servers: Vec<_> = servers.iter().map(named).collect();
    let first = *servers.first().context("nobody to ask")?;
    let (from, peername, answer) = if way == Way::Tcp {
        by_stream(first, &packet, patience)?
    } else {
        by_packet(&servers, &packet, (way, patience))?
    };
    let answer = Message::from_vec(&answer).context("the answer")?;
    ensure!(answer.metadata.id == message.metadata.id, "an answer to another query: {answer:?}");
    Ok(Asked {
        from: canonical(from),
        peername: peername.map(canonical).unwrap_or_default(),
        code: answer.metadata.response_code.to_string(),
        answers: answer.answers.iter().map(|record| record.data.to_string()).collect(),
    })
}

/// Sends so many queries from one socket without waiting for answers, and says how many answers of each code came back.
pub fn flood(
    server: SocketAddr,
    name: &str,
    count: u16,
    patience: Duration,
) -> Result<BTreeMap<String, usize>> {
    let socket = std::net::UdpSocket::from(Socket::new(
        Domain::for_address(server),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?);
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
    for id in 0..count {
        message.metadata.id = id;
        socket.send_to(&message.to_vec()?, server)?;
        if id % BURST == 0 {
            std::thread::sleep(PAUSE);
        }
    }
    let (mut codes, mut answer) = (BTreeMap::new(), vec![0; 65_536]);
    let end = Instant::now() + patience;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        let Ok(length) = socket.recv(&mut answer) else { break };
        let answer = Message::from_vec(answer.get(..length).unwrap_or_default())?;
        *codes.entry(answer.metadata.response_code.to_string()).or_default() += 1;
    }
    Ok(codes)
}

type Heard = (SocketAddr, Option<SocketAddr>, Vec<u8>);

fn by_packet(servers: &[SocketAddr], packet: &[u8], (way, patience): (Way, Duration)) -> Result<Heard> {
    let first = *servers.first().context("nobody to ask")?;
    let socket = Socket::new(Domain::for_address(first), Type::DGRAM, Some(Protocol::UDP))?;
    let socket = std::net::UdpSocket::from(socket);
    socket.set_read_timeout(Some(patience))?;
    if way == Way::Connected {
        socket.connect(first)?;
        socket.send(packet)?;
    } else {
        for server in servers {
            socket.send_to(packet, server)?;
        }
    }
    let mut answer = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut answer).context("no answer")?;
    answer.truncate(length);
    Ok((from, socket.peer_addr().ok(), answer))
}

fn by_stream(server: SocketAddr, packet: &[u8], patience: Duration) -> Result<Heard> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let Ok(length) = u16::try_from(packet.len()) else { bail!("the query is too long") };
    stream.write_all(&[&length.to_be_bytes(), packet].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).context("no answer")?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    let peer = stream.peer_addr()?;
    Ok((peer, Some(peer), answer))
}

fn canonical(at: SocketAddr) -> String {
    SocketAddr::new(at.ip().to_canonical(), at.port()).to_string()
}

/// More at once would be lost in the queue of a socket.
const BURST: u16 = 50;
const PAUSE: Duration = Duration::from_millis(20);
