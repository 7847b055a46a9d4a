//! Datagrams at a listener that may have any of the machine's addresses: which one a client has sent to, and answers from
//! there.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use super::check;
use super::sockopt::{receive_at, set, socket_name, start_connect, udp_socket};

/// A datagram that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its bytes, at the beginning of the buffer; may be none.
    pub length: usize,
    /// Who has sent it, as far as it says itself.
    pub from: SocketAddr,
    /// The address that it was sent to.
    pub to: IpAddr,
}

/// As [`receive_at`]; the socket tells of each datagram where it was sent to.
pub fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = receive_at(address)?;
    if address.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &1_i32)?;
    } else {
        set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &1_i32)?;
    }
    Ok(socket)
}

/// Whether a socket could have `address` for itself, as [`may_bind`](super::sockopt::may_bind) says of TCP.
pub fn may_listen(address: SocketAddr) -> io::Result<()> {
    let socket = udp_socket(address.is_ipv6())?;
    if address.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32)?;
    }
    let (name, length) = socket_name(address);
    // SAFETY: the name outlives the call and its length is its own.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), length) }).map(drop)
}

/// The address that `to` would see datagrams come from. Sends nothing.
pub fn source_for(to: SocketAddr) -> io::Result<IpAddr> {
    let socket = udp_socket(to.is_ipv6())?;
    start_connect(&socket, to)?;
    Ok(UdpSocket::from(socket).local_addr()?.ip())
}

/// Bounds what the kernel keeps of datagrams that have not been read, in bytes; it takes twice as much, for its own needs.
pub fn set_receive_buffer(socket: &impl AsFd, bytes: i32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes)
}

/// Takes the next datagram of a socket of [`listen`]. What does not fit into the buffer is lost.
///
/// # Errors
/// `WouldBlock` if there is none.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control::empty();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = header(&mut part, &mut control, control_length());
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = length_of::<libc::sockaddr_storage>();
    // SAFETY: all that the header points to outlives the call, in the lengths that it says.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: zeroed before the kernel wrote to it, and all zeros is a valid value.
    let from = address_of(unsafe { name.assume_init_ref() });
    let to = destination(&message);
    match (from, to) {
        (Some(from), Some(to)) => Ok(Received { length, from, to }),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram without addresses")),
    }
}

/// Sends a datagram to `to` from the address `from` of this machine, and the port of the socket.
pub fn send(socket: &impl AsFd, payload: &[u8], (from, to): (IpAddr, SocketAddr)) -> io::Result<()> {
    let (mut name, name_length) = socket_name(to);
    let mut control = Control::empty();
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let scope = if let SocketAddr::V6(v6) = to { v6.scope_id() } else { 0 };
    let length = control.set_source(from, scope);
    let mut message = header(&mut part, &mut control, length);
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = name_length;
    // SAFETY: all that the header points to outlives the call, in the lengths that it says; nothing is written to the payload.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a datagram through a connected socket, at once or not at all.
///
/// # Errors
/// `WouldBlock` if the kernel has no room; what the network has said of an earlier one, and then this one is not sent.
pub fn send_connected(socket: &impl AsFd, payload: &[u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the payload outlives the call, in its own length.
    let sent = unsafe { libc::send(fd, payload.as_ptr().cast(), payload.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Takes the next datagram of a connected socket, or what the network has said of one that was sent.
///
/// # Errors
/// `WouldBlock` if there is neither.
pub fn receive_connected(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the buffer outlives the call, in its own length.
    let length = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Room for one control message with addresses, aligned as its header has to be.
struct Control([u64; 8]);

impl Control {
    fn empty() -> Self {
        Self([0; 8])
    }

    /// Has the kernel send from an address. Returns how much of the room that takes.
    fn set_source(&mut self, from: IpAddr, scope: u32) -> usize {
        match from {
            IpAddr::V4(ip) => {
                let address = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                let none = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: none };
                self.put(libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            IpAddr::V6(ip) => {
                let address = libc::in6_addr { s6_addr: ip.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: scope };
                self.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }

    fn put<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
        let size = u32::try_from(size_of::<T>()).expect("addresses are small");
        // SAFETY: both only compute.
        let (length, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
        let space = usize::try_from(space).expect("addresses are small");
        assert!(space <= size_of_val(&self.0), "there is room for any address");
        let first = self.0.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: the room is aligned and large enough for the header and the value behind it, as was just checked.
        unsafe {
            (*first).cmsg_len = usize::try_from(length).expect("addresses are small");
            (*first).cmsg_level = level;
            (*first).cmsg_type = kind;
            libc::CMSG_DATA(first).cast::<T>().write_unaligned(value);
        }
        space
    }
}

fn header(part: &mut libc::iovec, control: &mut Control, length: usize) -> libc::msghdr {
    // SAFETY: pointers and integers; all zeros is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = length;
    message
}

/// The address that a datagram was sent to, by its control messages.
fn destination(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel has filled the header and what it points to.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !at.is_null() {
        // SAFETY: not null, so a whole header within the room, which is aligned.
        let (level, kind, data) = unsafe { ((*at).cmsg_level, (*at).cmsg_type, libc::CMSG_DATA(at)) };
        if (level, kind) == (libc::IPPROTO_IP, libc::IP_PKTINFO) {
            // SAFETY: a message of this kind has such a value.
            let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
            return Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
        }
        if (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) {
            // SAFETY: a message of this kind has such a value.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
        }
        // SAFETY: as for the first.
        at = unsafe { libc::CMSG_NXTHDR(message, at) };
    }
    None
}

fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let name = &raw const *name;
    // SAFETY: the storage is larger and at least as aligned as either, and the family says which it is.
    unsafe {
        match libc::c_int::from((*name).ss_family) {
            libc::AF_INET => {
                let v4 = &*name.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some((ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6 = &*name.cast::<libc::sockaddr_in6>();
                let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

fn control_length() -> usize {
    size_of::<Control>()
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("socket names are small")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram to each of two addresses of a listener on all of them, and its answer.
    fn exchange(any: &str, own: [&str; 2]) {
        let listener = listen(any.parse().expect("an address")).expect("a listener");
        let port = listener.local_addr().expect("a name").port();
        for ip in own {
            let at = SocketAddr::new(ip.parse().expect("an address"), port);
            let client =
                UdpSocket::bind((if at.is_ipv6() { "::1" } else { "127.0.0.1" }, 0)).expect("a socket");
            client.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("an option");
            client.connect(at).expect("connected");
            let long = vec![7; 60_000];
            for payload in [&b""[..], b"question", &long] {
                client.send(payload).expect("sent");
                let mut buffer = vec![0; 65_536];
                let got = loop {
                    match receive(&listener, &mut buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                        got => break got.expect("a datagram"),
                    }
                };
                let from = client.local_addr().expect("a name");
                assert_eq!(got, Received { length: payload.len(), from, to: at.ip() });
                assert_eq!(&buffer[..got.length], payload);
                // The client is connected, so it hears nobody but the address that it has asked.
                send(&listener, b"answer", (got.to, got.from)).expect("sent");
                assert_eq!(client.recv(&mut buffer).expect("an answer"), 6);
            }
        }
    }

    #[test]
    fn answers_come_from_the_address_that_was_asked() {
        exchange("0.0.0.0:0", ["127.0.0.1", "127.0.0.9"]);
        exchange("[::]:0", ["::1", "::1"]);
    }

    #[test]
    fn a_listener_of_somebody_else_is_noticed() {
        let other = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let at = other.local_addr().expect("a name");
        assert!(may_listen(at).is_err());
        drop(other);
        may_listen(at).expect("nobody is there");
        assert_eq!(source_for(at).expect("a way"), at.ip());
    }
}
