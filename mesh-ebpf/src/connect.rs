//! cgroup/connect4 and connect6, sendmsg4 and sendmsg6: an enrolled pod's TCP connect goes to the node's listener in the
//! same pod, and its queries of DNS, by UDP or TCP, to the resolver beside it.
//!
//! The destination becomes the loopback address and not the pod's own: connections to one (address, port) share
//! one tuple space, and only on loopback may the kernel reuse `TIME_WAIT` ports.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr, bpf_sock_tuple},
    helpers::generated as helpers,
    programs::SockAddrContext,
};
use aya_log_ebpf::{debug, info};
use mesh_common::{Address, DOMAIN, Endpoint, LOG_DEBUG, LOG_INFO, Pod, Resolvers, Stat};

use crate::{
    express::{self, Way},
    maps::{PODS, RESOLVERS, WANTED_DST, count, is_host, is_own, logs, node},
    packet::{MAPPED_WORD, from_words, ipv4_mapped, is_mapped, is_unspecified_or_loopback, to_words},
};

/// Outbound capture of an `AF_INET` socket: at `connect`, or at each message of one that is not `CONNECT`ed, which has
/// no other hook. A message to an IPv4-mapped address is one of IPv4, whatever socket it leaves by.
#[inline(always)]
pub fn v4<const CONNECT: bool>(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the context is valid for the run of the program.
    let (ip, port) = unsafe { ((*addr).user_ip4, u16::from_be((*addr).user_port as u16)) };
    let wanted = Endpoint::new(ipv4_mapped(ip), port);
    let Some((pod, to)) = capture::<CONNECT>(addr, &wanted) else { return ALLOW };
    if CONNECT && to.stream && to.port == pod.outbound_port {
        match express::way(addr, &wanted) {
            Way::Proxy => {}
            Way::Refused => return REFUSE,
            Way::Direct(None) => return ALLOW,
            Way::Direct(Some(backend)) => {
                // SAFETY: as above; these hooks may write both fields.
                unsafe {
                    (*addr).user_ip4 = to_words(&backend.ip)[3];
                    (*addr).user_port = u32::from(backend.port.to_be());
                }
                return ALLOW;
            }
        }
    }
    if !is_there(addr, &to, true) || !remember(ctx, wanted) {
        return REFUSE;
    }
    if CONNECT && to.stream {
        bind4(addr, pod);
    }
    // SAFETY: as above; these hooks may write both fields.
    unsafe {
        (*addr).user_ip4 = LOOPBACK4;
        (*addr).user_port = u32::from(to.port.to_be());
    }
    ALLOW
}

/// Outbound capture of an `AF_INET6` socket; see [`v4`].
#[inline(always)]
pub fn v6<const CONNECT: bool>(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the context is valid for the run of the program; the verifier wants whole words, one at a time.
    let (ip, port) = unsafe {
        let word = |i: usize| core::ptr::read_volatile((&raw const (*addr).user_ip6).cast::<u32>().add(i));
        ([word(0), word(1), word(2), word(3)], u16::from_be((*addr).user_port as u16))
    };
    let wanted = Endpoint::new(from_words(ip), port);
    let Some((pod, to)) = capture::<CONNECT>(addr, &wanted) else { return ALLOW };
    if CONNECT && to.stream && to.port == pod.outbound_port {
        match express::way(addr, &wanted) {
            Way::Proxy => {}
            Way::Refused => return REFUSE,
            Way::Direct(None) => return ALLOW,
            Way::Direct(Some(backend)) => {
                write6(addr, to_words(&backend.ip), backend.port);
                return ALLOW;
            }
        }
    }
    let mapped = is_mapped(&wanted.ip);
    if !is_there(addr, &to, mapped) || !remember(ctx, wanted) {
        return REFUSE;
    }
    if CONNECT && to.stream {
        if mapped { bind_mapped(addr, pod) } else { bind6(addr, pod) }
    }
    let loopback = if mapped { [0, 0, MAPPED_WORD, LOOPBACK4] } else { [0, 0, 0, LOOPBACK6_WORD] };
    write6(addr, loopback, to.port);
    ALLOW
}

/// Points a connect or a message of an `AF_INET6` socket there.
#[inline(always)]
fn write6(addr: *mut bpf_sock_addr, ip: [u32; 4], port: u16) {
    // SAFETY: the context is valid for the run of the program; these hooks may write these fields.
    unsafe {
        let out = (&raw mut (*addr).user_ip6).cast::<u32>();
        core::ptr::write_volatile(out, ip[0]);
        core::ptr::write_volatile(out.add(1), ip[1]);
        core::ptr::write_volatile(out.add(2), ip[2]);
        core::ptr::write_volatile(out.add(3), ip[3]);
        (*addr).user_port = u32::from(port.to_be());
    }
}

/// A listener of the node.
struct Listener {
    port: u16,
    stream: bool,
}

/// The pod, and the listener of the node in it, that a socket is for which wants to go there.
#[inline(always)]
fn capture<const CONNECT: bool>(
    addr: *mut bpf_sock_addr,
    wanted: &Endpoint,
) -> Option<(&'static Pod, Listener)> {
    // Nearly all messages are nobody's business.
    if !CONNECT && wanted.port != DOMAIN {
        return None;
    }
    let pod = capturing_pod(addr)?;
    let resolves = wanted.port == DOMAIN && pod.dns_port != 0;
    if stays_in_pod(&wanted.ip, pod) {
        // The resolver of a machine is often one of its own (systemd-resolved); a pod's never is.
        // SAFETY: the context is valid for the run of the program.
        let host = || is_host(unsafe { helpers::bpf_get_netns_cookie(addr.cast()) });
        if !resolves || !host() {
            return None;
        }
    }
    let stream = is_stream(addr);
    if resolves {
        return Some((pod, Listener { port: pod.dns_port, stream }));
    }
    stream.then_some((pod, Listener { port: pod.outbound_port, stream }))
}

/// Whether whoever has the listener's port is the node. Of a pod nobody asks: all in it are one. On a machine, somebody who is
/// not in the mesh may have taken the port while the node is away, and must not be handed what others say.
#[inline(always)]
fn is_there(addr: *mut bpf_sock_addr, to: &Listener, v4: bool) -> bool {
    // SAFETY: the context is valid for the run of the program.
    if !is_host(unsafe { helpers::bpf_get_netns_cookie(addr.cast()) }) {
        return true;
    }
    let here = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
    // SAFETY: the tuple is plain data and has the length that belongs to its family; a socket that is found is released,
    // exactly once.
    let own = unsafe {
        let mut tuple: bpf_sock_tuple = core::mem::zeroed();
        let length = if v4 {
            tuple.__bindgen_anon_1.ipv4.daddr = LOOPBACK4;
            tuple.__bindgen_anon_1.ipv4.dport = to.port.to_be();
            12
        } else {
            tuple.__bindgen_anon_1.ipv6.daddr = [0, 0, 0, LOOPBACK6_WORD];
            tuple.__bindgen_anon_1.ipv6.dport = to.port.to_be();
            36
        };
        let socket = if to.stream {
            helpers::bpf_sk_lookup_tcp(addr.cast(), &raw mut tuple, length, here, 0)
        } else {
            helpers::bpf_sk_lookup_udp(addr.cast(), &raw mut tuple, length, here, 0)
        };
        if socket.is_null() {
            false
        } else {
            let own = is_own(socket.cast());
            helpers::bpf_sk_release(socket.cast());
            own
        }
    };
    if !own {
        count(Stat::CaptureRefused);
    }
    own
}

#[inline(always)]
fn is_stream(addr: *mut bpf_sock_addr) -> bool {
    // SAFETY: the context is valid for the run of the program.
    unsafe { (*addr).protocol != IPPROTO_UDP }
}

/// The enrolled pod whose TCP or UDP socket this is, unless the socket is the node's own.
#[inline(always)]
fn capturing_pod(addr: *mut bpf_sock_addr) -> Option<&'static Pod> {
    // SAFETY: the context is valid for the run of the program.
    let (protocol, cookie) = unsafe { ((*addr).protocol, helpers::bpf_get_netns_cookie(addr.cast())) };
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP && protocol != IPPROTO_UDP {
        return None;
    }
    // SAFETY: entries are replaced, never freed under a running program.
    let pod = unsafe { PODS.get(cookie) }?;
    // SAFETY: no arguments.
    let own = node().is_some_and(|n| n.is_agent(unsafe { helpers::bpf_get_current_cgroup_id() }));
    (!own).then_some(pod)
}

/// Loopback and the pod's own address never leave the pod.
#[inline(always)]
fn stays_in_pod(ip: &Address, pod: &Pod) -> bool {
    if is_unspecified_or_loopback(ip) {
        return true;
    }
    if is_mapped(ip) { ip[12..] == pod.ip4 } else { *ip == pod.ip6 }
}

/// Notes on the socket where its application wanted to go.
#[inline(always)]
fn remember(ctx: &SockAddrContext, mut wanted: Endpoint) -> bool {
    // SAFETY: the storage call gets the socket of this very context.
    let slot = unsafe {
        let socket: *mut c_void = (*ctx.sock_addr).__bindgen_anon_1.sk.cast();
        let map: *mut c_void = core::ptr::from_ref(&WANTED_DST).cast_mut().cast();
        let slot: *mut Endpoint = helpers::bpf_sk_storage_get(
            map,
            socket,
            (&raw mut wanted).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .cast();
        slot
    };
    if slot.is_null() {
        count(Stat::CaptureRefused);
        if logs(LOG_INFO) {
            info!(ctx, "refused a connect to {:i}:{}: no memory to remember it", wanted.ip, wanted.port);
        }
        return false;
    }
    // SAFETY: not null; a socket that connects again keeps its slot, so it is written in any case.
    unsafe { *slot = wanted };
    if is_stream(ctx.sock_addr) {
        count(Stat::Captured);
    } else {
        publish(ctx.sock_addr, wanted);
    }
    if logs(LOG_DEBUG) {
        debug!(ctx, "captured a connect to {:i}:{}", wanted.ip, wanted.port);
    }
    true
}

/// Tells the node whom a UDP socket has asked. Its port, by which a TCP socket is known, does not exist yet.
#[inline(always)]
fn publish(addr: *mut bpf_sock_addr, wanted: Endpoint) {
    // SAFETY: the context is valid for the run of the program.
    let cookie = unsafe { helpers::bpf_get_socket_cookie(addr.cast()) };
    // SAFETY: copied at once.
    let before = match unsafe { RESOLVERS.get(cookie) }.copied() {
        Some(known) if same(&known.last, &wanted) => return,
        Some(known) => known.last,
        None => Endpoint::new([0; 16], 0),
    };
    let _ = RESOLVERS.insert(cookie, Resolvers { last: wanted, before }, 0);
}

#[inline(always)]
fn same(one: &Endpoint, other: &Endpoint) -> bool {
    one.port == other.port && to_words(&one.ip) == to_words(&other.ip)
}

// The application's `getsockname` should show the pod's address, as it would without the mesh. A socket that is
// bound already keeps what it has; the failure is of no consequence.

#[inline(always)]
fn bind4(addr: *mut bpf_sock_addr, pod: &Pod) {
    let mut name = SockAddrIn { family: AF_INET, port: 0, ip: pod.ip4, zero: [0; 8] };
    // SAFETY: the structure has the kernel's layout and length.
    unsafe { helpers::bpf_bind(addr, (&raw mut name).cast(), size_of::<SockAddrIn>() as i32) };
}

#[inline(always)]
fn bind_mapped(addr: *mut bpf_sock_addr, pod: &Pod) {
    let ip4 = u32::from_ne_bytes(pod.ip4);
    bind_in6(addr, ipv4_mapped(ip4));
}

#[inline(always)]
fn bind6(addr: *mut bpf_sock_addr, pod: &Pod) {
    bind_in6(addr, pod.ip6);
}

#[inline(always)]
fn bind_in6(addr: *mut bpf_sock_addr, ip: Address) {
    let mut name = SockAddrIn6 { family: AF_INET6, port: 0, flow: 0, ip, scope: 0 };
    // SAFETY: the structure has the kernel's layout and length.
    unsafe { helpers::bpf_bind(addr, (&raw mut name).cast(), size_of::<SockAddrIn6>() as i32) };
}

#[repr(C)]
struct SockAddrIn {
    family: u16,
    port: u16,
    ip: [u8; 4],
    zero: [u8; 8],
}

#[repr(C)]
struct SockAddrIn6 {
    family: u16,
    port: u16,
    flow: u32,
    ip: [u8; 16],
    scope: u32,
}

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const LOOPBACK4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
const LOOPBACK6_WORD: u32 = u32::from_ne_bytes([0, 0, 0, 1]);
