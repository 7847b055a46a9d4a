//! Socket options, and sockets made the way the node needs them.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    num::NonZeroU32,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use tokio::net::TcpStream;

use super::check;

/// On: closing the socket resets the connection, so that data cut short is never shown as a clean end.
/// Off: closing sends what is queued and a FIN.
pub fn set_linger_zero(socket: &impl AsFd, on: bool) -> io::Result<()> {
    let linger = libc::linger { l_onoff: libc::c_int::from(on), l_linger: 0 };
    set(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// Sends small writes at once.
pub fn set_nodelay(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)
}

/// Finds dead peers after about five minutes of silence: idle 180 s, then nine probes 15 s apart.
pub fn set_keepalive(socket: &impl AsFd) -> io::Result<()> {
    let times = (Some(Duration::from_secs(180)), Some(Duration::from_secs(15)));
    set_probes(socket, times, NonZeroU32::new(9))
}

/// Probes an idle connection: the first after `time`, then one each `interval`, until so many went unanswered. What is
/// absent is left to the kernel; fractions of a second count as whole ones.
pub fn set_probes(
    socket: &impl AsFd,
    (time, interval): (Option<Duration>, Option<Duration>),
    probes: Option<NonZeroU32>,
) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1_i32)?;
    let seconds =
        |it: Duration| i32::try_from(it.as_secs() + u64::from(it.subsec_nanos() > 0)).unwrap_or(i32::MAX);
    let probes = probes.map(|it| i32::try_from(it.get()).unwrap_or(i32::MAX));
    for (name, value) in [
        (libc::TCP_KEEPIDLE, time.map(seconds)),
        (libc::TCP_KEEPINTVL, interval.map(seconds)),
        (libc::TCP_KEEPCNT, probes),
    ] {
        if let Some(value) = value {
            set(socket, libc::IPPROTO_TCP, name, &value)?;
        }
    }
    Ok(())
}

/// What closing a connection does to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// FIN: tunnels, whose ends are marked inside.
    Fin,
    /// Reset, until a FIN was really passed on: connections of applications.
    Reset,
}

/// A listening socket in the calling thread's network namespace, non-blocking, close-on-exec. Several may share
/// one address (`SO_REUSEPORT`); the kernel spreads connections over them. What is accepted sends small packets at once and
/// notices dead peers ([`set_keepalive`]): Linux hands these options of a listener on, which saves a call each.
pub fn listen(address: SocketAddr, backlog: i32, close: Close) -> io::Result<TcpListener> {
    let socket = tcp_socket(address.is_ipv6())?;
    set_nodelay(&socket)?;
    set_keepalive(&socket)?;
    set_linger_zero(&socket, close == Close::Reset)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1_i32)?;
    if address.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32)?;
    }
    let (name, length) = socket_name(address);
    // SAFETY: the name outlives the call and its length is its own.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), length) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(TcpListener::from(socket))
}

/// A UDP socket at `address` in the calling thread's network namespace, non-blocking, close-on-exec. Several may share one
/// address; the kernel spreads senders over them.
pub fn receive_at(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_socket(address.is_ipv6())?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1_i32)?;
    if address.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32)?;
    }
    let (name, length) = socket_name(address);
    // SAFETY: the name outlives the call and its length is its own.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), length) })?;
    Ok(UdpSocket::from(socket))
}

/// Whether a socket could have `address` for itself: fails if anybody listens there, whether they would share it or not.
pub fn may_bind(address: SocketAddr) -> io::Result<()> {
    let socket = tcp_socket(address.is_ipv6())?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
    if address.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32)?;
    }
    let (name, length) = socket_name(address);
    // SAFETY: the name outlives the call and its length is its own.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), length) }).map(drop)
}

/// An unconnected TCP socket in the calling thread's network namespace, non-blocking, close-on-exec.
pub fn tcp_socket(v6: bool) -> io::Result<OwnedFd> {
    socket(v6, libc::SOCK_STREAM, libc::IPPROTO_TCP)
}

/// A UDP socket without an address in the calling thread's network namespace, non-blocking, close-on-exec. The kernel draws
/// its port when it first sends.
pub fn udp_socket(v6: bool) -> io::Result<OwnedFd> {
    socket(v6, libc::SOCK_DGRAM, libc::IPPROTO_UDP)
}

fn socket(v6: bool, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: plain integers; the descriptor is checked before it is owned.
    let fd = check(unsafe { libc::socket(family, kind, protocol) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds to `ip` and leaves the port to `connect`, which can then reuse a port for another destination.
pub fn bind_address_only(socket: &impl AsFd, ip: IpAddr) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1_i32)?;
    let (name, length) = socket_name(SocketAddr::new(ip, 0));
    // SAFETY: the name outlives the call and its length is its own.
    check(unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const name).cast(), length) }).map(drop)
}

/// Starts a connect on a non-blocking socket; the outcome shows when the socket becomes writable.
pub fn start_connect(socket: &impl AsFd, address: SocketAddr) -> io::Result<()> {
    let (name, length) = socket_name(address);
    // SAFETY: the name outlives the call and its length is its own.
    match check(unsafe { libc::connect(socket.as_fd().as_raw_fd(), (&raw const name).cast(), length) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn set<T>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("option values are small");
    // SAFETY: the value outlives the call and its length is its own.
    check(unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    })
    .map(drop)
}

pub(super) fn socket_name(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: plain integers; all zeros is a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: AF_INET,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is larger and at least as aligned.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(name) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: AF_INET6,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: the storage is larger and at least as aligned.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(name) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, libc::socklen_t::try_from(length).expect("socket names are small"))
}

/// As `libc` has them, in the width that socket names have.
const AF_INET: libc::sa_family_t = 2;
const AF_INET6: libc::sa_family_t = 10;

/// Two ends of a connection within this process: bytes, ends of streams and room are as with TCP, addresses there are none.
pub fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    let end = |end: std::os::unix::net::UnixStream| {
        end.set_nonblocking(true)?;
        TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(end)))
    };
    Ok((end(near)?, end(far)?))
}

/// Another handle on the same connection, to cut it by while somebody else owns the first.
pub fn duplicate(socket: &impl AsFd) -> io::Result<std::net::TcpStream> {
    socket.as_fd().try_clone_to_owned().map(std::net::TcpStream::from)
}
