//! Other processes' sockets, as the kernel tells of them (`NETLINK_SOCK_DIAG`).
//!
//! Ending TCP connections (`SOCK_DESTROY`) is used once when a pod is enrolled: those that are older than capture would
//! otherwise go on in plaintext or hang at the guard.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::netlink::{NLMSG_ERROR, Netlink, attributes, error_of, message};

/// Resets every TCP connection of the calling thread's network namespace that leaves the pod: all but those
/// between loopback addresses or an address and itself, and tunnels, which are the node's. Returns how many were
/// reset.
///
/// # Errors
/// `EOPNOTSUPP` where the kernel was built without `CONFIG_INET_DIAG_DESTROY`.
pub fn reset_connections() -> io::Result<usize> {
    let mut reset = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        for socket in connections(family)? {
            if leaves_pod(&socket) && destroy(family, &socket)? {
                reset += 1;
            }
        }
    }
    Ok(reset)
}

/// Resets every TCP connection of the calling thread's network namespace that leaves the machine and that a process of one of
/// these control groups has. Returns how many were reset.
///
/// # Errors
/// `EOPNOTSUPP` where the kernel was built without `CONFIG_INET_DIAG_DESTROY`.
pub fn reset_connections_of(groups: &BTreeSet<u64>) -> io::Result<usize> {
    let mut reset = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (socket, group) in sockets(family, STATES)? {
            if groups.contains(&group) && leaves_pod(&socket) && destroy(family, &socket)? {
                reset += 1;
            }
        }
    }
    Ok(reset)
}

/// The TCP ports that processes of these control groups listen at in the calling thread's network namespace, but for those on
/// loopback only.
pub fn listening_ports(groups: &BTreeSet<u64>) -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let all = sockets(family, LISTEN)?.into_iter();
        let theirs = all.filter(|(id, group)| groups.contains(group) && !is_loopback(&id[4..20]));
        ports.extend(theirs.map(|(id, _)| u16::from_be_bytes([id[0], id[1]])));
    }
    Ok(ports)
}

/// Resets one TCP connection of the calling thread's network namespace, by its ends. Returns whether it was there.
///
/// # Errors
/// `EOPNOTSUPP` where the kernel was built without `CONFIG_INET_DIAG_DESTROY`.
pub fn reset_connection(local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    destroy(family, &socket_id(local, remote))
}

/// How long a TCP connection has been silent, as one end of it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Since this end sent bytes, in milliseconds as the kernel counts them.
    pub sent: Duration,
    /// Since bytes came.
    pub received: Duration,
    /// Whether bytes wait to be read here or to be confirmed by the other end.
    pub queued: bool,
    /// Whether this end has said something and has never heard anything.
    pub unheard: bool,
}

/// How long a TCP connection of the calling thread's network namespace has been silent; `None` if there is none (any more).
pub fn silence(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Silence>> {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let netlink = Netlink::open(NETLINK_SOCK_DIAG)?;
    let mut wanted = request((family, IPPROTO_TCP), &socket_id(local, remote));
    wanted[EXTENSIONS] = 1 << (INET_DIAG_INFO - 1);
    netlink.send(SOCK_DIAG_BY_FAMILY, 0, &wanted)?;
    let mut buffer = [0_u8; 2048];
    let Some((kind, body, _)) = message(netlink.receive(&mut buffer)?) else { return Ok(None) };
    if kind == NLMSG_ERROR {
        let error = error_of(body);
        return if error.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(error) };
    }
    silence_in(body).map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// From a `struct inet_diag_msg` and the attributes behind it.
fn silence_in(body: &[u8]) -> Option<Silence> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let queued = word(body, 56)? != 0 || word(body, 60)? != 0;
    let mut rest = body.get(72..)?;
    // Attributes: length with the head, kind, content, each beginning at a multiple of four.
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        if kind == u16::from(INET_DIAG_INFO) {
            let info = rest.get(4..length)?;
            let ms = |at| word(info, at).map(|ms| Duration::from_millis(ms.into()));
            let long = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
            // `struct tcp_info`: tcpi_last_data_sent, tcpi_last_ack_sent, tcpi_last_data_recv; tcpi_bytes_acked, which
            // counts the SYN, tcpi_bytes_received.
            let unheard = long(120)? > 1 && long(128)? == 0;
            return Some(Silence { sent: ms(44)?, received: ms(52)?, queued, unheard });
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

/// The cookie of the UDP socket that `client` is the name of, in the calling thread's network namespace: the one that hears
/// what `server` sends there.
pub fn udp_cookie(server: SocketAddr, client: SocketAddr) -> io::Result<Option<u64>> {
    let family = if client.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // Of UDP the kernel takes the two ends the other way round.
    let id = socket_id(server, client);
    let netlink = Netlink::open(NETLINK_SOCK_DIAG)?;
    netlink.send(SOCK_DIAG_BY_FAMILY, 0, &request((family, IPPROTO_UDP), &id))?;
    let mut buffer = [0_u8; 1024];
    let Some((kind, body, _)) = message(netlink.receive(&mut buffer)?) else { return Ok(None) };
    if kind == NLMSG_ERROR {
        let error = error_of(body);
        return if error.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(error) };
    }
    let half = |at: usize| body.get(at..at + 4).and_then(|half| half.try_into().ok()).map(u32::from_ne_bytes);
    // `struct inet_diag_msg`: family, state, timer, retrans, then the socket id, which ends with the cookie.
    Ok(half(44).zip(half(48)).map(|(low, high)| u64::from(low) | u64::from(high) << 32))
}

/// `struct inet_diag_sockid`, as raw bytes: ports (4), source (16), destination (16), interface (4), cookie (8).
type SocketId = [u8; 48];

/// A socket by its ends, whatever its cookie is.
fn socket_id(local: SocketAddr, remote: SocketAddr) -> SocketId {
    let mut id: SocketId = [0; 48];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (ip, place) in [(local.ip(), 4), (remote.ip(), 20)] {
        match ip {
            IpAddr::V4(v4) => id[place..place + 4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => id[place..place + 16].copy_from_slice(&v6.octets()),
        }
    }
    id[40..].fill(0xff);
    id
}

fn leaves_pod(id: &SocketId) -> bool {
    let (source, destination) = (&id[4..20], &id[20..36]);
    let tunnel = mesh_common::TUNNEL_PORT.to_be_bytes();
    if id[..2] == tunnel || id[2..4] == tunnel {
        return false;
    }
    source != destination && !is_loopback(source)
}

/// IPv4 addresses stand in the first of four words.
fn is_loopback(ip: &[u8]) -> bool {
    let v4 = ip[4..] == [0; 12] && ip[0] == 127;
    v4 || (ip[..15] == [0; 15] && ip[15] == 1)
}

fn connections(family: libc::c_int) -> io::Result<Vec<SocketId>> {
    Ok(sockets(family, STATES)?.into_iter().map(|(id, _)| id).collect())
}

/// TCP sockets in some states, each with the id of the control group of whoever made it; 0 where the kernel does not say.
fn sockets(family: libc::c_int, states: u32) -> io::Result<Vec<(SocketId, u64)>> {
    let mut found = Vec::new();
    let mut wanted = request((family, IPPROTO_TCP), &[0; 48]);
    wanted[4..8].copy_from_slice(&states.to_ne_bytes());
    Netlink::open(NETLINK_SOCK_DIAG)?.dump(SOCK_DIAG_BY_FAMILY, &wanted, |body| {
        // `struct inet_diag_msg`: family, state, timer, retrans, then the socket id.
        let id = body.get(4..52).and_then(|id| SocketId::try_from(id).ok());
        let mut all = attributes(body.get(DIAG_MSG..).unwrap_or_default());
        let group = all.find(|(kind, _)| *kind == INET_DIAG_CGROUP_ID).and_then(|(_, it)| it.try_into().ok());
        found.extend(id.map(|id| (id, group.map_or(0, u64::from_ne_bytes))));
    })?;
    Ok(found)
}

fn destroy(family: libc::c_int, id: &SocketId) -> io::Result<bool> {
    match Netlink::open(NETLINK_SOCK_DIAG)?.confirm(SOCK_DESTROY, &request((family, IPPROTO_TCP), id)) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A `inet_diag_req_v2` for sockets in the states that carry data or could.
fn request((family, protocol): (libc::c_int, u8), id: &SocketId) -> Vec<u8> {
    let family = u8::try_from(family).expect("address families are small");
    let mut out = vec![family, protocol, 0, 0];
    out.extend_from_slice(&STATES.to_ne_bytes());
    out.extend_from_slice(id);
    out
}

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const NETLINK_SOCK_DIAG: libc::c_int = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Place of `idiag_ext` in a request: a bit for each attribute wanted.
const EXTENSIONS: usize = 2;
/// The attribute with a `struct tcp_info`.
const INET_DIAG_INFO: u8 = 2;
/// Length of `struct inet_diag_msg`, before the attributes.
const DIAG_MSG: usize = 72;
/// The attribute with the id of a control group.
const INET_DIAG_CGROUP_ID: u16 = 21;
/// The TCP state of listeners.
const LISTEN: u32 = 1 << 10;
/// Every TCP state but LISTEN (10), CLOSE (7) and `TIME_WAIT` (6).
const STATES: u32 = 0xfff & !(1 << 10) & !(1 << 7) & !(1 << 6);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn the_kernel_tells_how_long_a_connection_is_silent() {
        for ip in ["127.0.0.1", "::1"] {
            let listener = TcpListener::bind((ip, 0)).expect("a socket");
            let mut client = TcpStream::connect(listener.local_addr().expect("a name")).expect("connected");
            let (mut server, _) = listener.accept().expect("accepted");
            let ends = (client.local_addr().expect("a name"), client.peer_addr().expect("a name"));
            let look = || silence(ends.0, ends.1).expect("an answer").expect("it is there");
            client.write_all(b"question").expect("sent");
            server.read_exact(&mut [0; 8]).expect("read");
            std::thread::sleep(Duration::from_millis(100));
            let waiting = look();
            assert!(waiting.unheard && !waiting.queued, "{ip}: no answer yet: {waiting:?}");
            server.write_all(b"answer").expect("sent");
            assert!(look().queued, "{ip}: nobody has read it");
            client.read_exact(&mut [0; 6]).expect("read");
            std::thread::sleep(Duration::from_millis(100));
            let quiet = look();
            assert!(!quiet.queued && !quiet.unheard && quiet.received <= quiet.sent, "{ip}: {quiet:?}");
            assert!((80..5_000).contains(&quiet.received.as_millis()), "{ip}: {quiet:?}");
            client.write_all(b"question").expect("sent");
            server.read_exact(&mut [0; 8]).expect("read");
            let waiting = look();
            assert!(waiting.sent < waiting.received, "{ip}: no second answer yet: {waiting:?}");
            assert!(reset_connection(ends.0, ends.1).expect("an answer"));
            assert_eq!(silence(ends.0, ends.1).expect("an answer"), None, "{ip}: gone");
        }
    }

    #[test]
    fn the_kernel_tells_sockets_apart() {
        for ip in ["127.0.0.1", "::1"] {
            let bind = || UdpSocket::bind((ip, 0)).expect("a socket");
            let (server, connected, other) = (bind(), bind(), bind());
            let at = server.local_addr().expect("a name");
            connected.connect(at).expect("connected");
            let cookie =
                |of: &UdpSocket| udp_cookie(at, of.local_addr().expect("a name")).expect("an answer");
            let (one, two) = (cookie(&connected), cookie(&other));
            assert!(one.is_some() && two.is_some() && one != two, "{ip}: {one:?} {two:?}");
            let gone = other.local_addr().expect("a name");
            drop(other);
            assert_eq!(udp_cookie(at, gone).expect("an answer"), None, "{ip}");
        }
    }
}
