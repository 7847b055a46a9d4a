//! cgroup/connect4 and connect6: an enrolled pod's TCP connect goes to the node's listener in the same pod.
//!
//! The destination becomes the loopback address and not the pod's own: connections to one (address, port) share
//! one tuple space, and only on loopback may the kernel reuse `TIME_WAIT` ports.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr},
    helpers::generated as helpers,
    programs::SockAddrContext,
};
use aya_log_ebpf::{debug, info};
use mesh_common::{Address, Endpoint, LOG_DEBUG, LOG_INFO, Pod, Stat};

use crate::{
    maps::{PODS, WANTED_DST, count, logs, node},
    packet::{MAPPED_WORD, from_words, ipv4_mapped, is_mapped, is_unspecified_or_loopback},
};

/// Outbound capture of an `AF_INET` socket.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    let Some(pod) = capturing_pod(addr) else { return ALLOW };
    // SAFETY: the context is valid for the run of the program.
    let (ip, port) = unsafe { ((*addr).user_ip4, u16::from_be((*addr).user_port as u16)) };
    let wanted = Endpoint::new(ipv4_mapped(ip), port);
    if stays_in_pod(&wanted.ip, pod) {
        return ALLOW;
    }
    if !remember(ctx, wanted) {
        return REFUSE;
    }
    bind4(addr, pod);
    // SAFETY: as above; connect hooks may write both fields.
    unsafe {
        (*addr).user_ip4 = LOOPBACK4;
        (*addr).user_port = u32::from(pod.outbound_port.to_be());
    }
    ALLOW
}

/// Outbound capture of an `AF_INET6` socket.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    let Some(pod) = capturing_pod(addr) else { return ALLOW };
    // SAFETY: the context is valid for the run of the program; the verifier wants whole words, one at a time.
    let (ip, port) = unsafe {
        let word = |i: usize| core::ptr::read_volatile((&raw const (*addr).user_ip6).cast::<u32>().add(i));
        ([word(0), word(1), word(2), word(3)], u16::from_be((*addr).user_port as u16))
    };
    let wanted = Endpoint::new(from_words(ip), port);
    if stays_in_pod(&wanted.ip, pod) {
        return ALLOW;
    }
    if !remember(ctx, wanted) {
        return REFUSE;
    }
    let loopback = if is_mapped(&wanted.ip) {
        bind_mapped(addr, pod);
        [0, 0, MAPPED_WORD, LOOPBACK4]
    } else {
        bind6(addr, pod);
        [0, 0, 0, LOOPBACK6_WORD]
    };
    // SAFETY: as above; connect hooks may write these fields.
    unsafe {
        let out = (&raw mut (*addr).user_ip6).cast::<u32>();
        core::ptr::write_volatile(out, loopback[0]);
        core::ptr::write_volatile(out.add(1), loopback[1]);
        core::ptr::write_volatile(out.add(2), loopback[2]);
        core::ptr::write_volatile(out.add(3), loopback[3]);
        (*addr).user_port = u32::from(pod.outbound_port.to_be());
    }
    ALLOW
}

/// The enrolled pod whose TCP socket this is, unless the socket is the node's own.
#[inline(always)]
fn capturing_pod(addr: *mut bpf_sock_addr) -> Option<&'static Pod> {
    // SAFETY: the context is valid for the run of the program.
    let (protocol, cookie) = unsafe { ((*addr).protocol, helpers::bpf_get_netns_cookie(addr.cast())) };
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP {
        return None;
    }
    // SAFETY: entries are replaced, never freed under a running program.
    let pod = unsafe { PODS.get(cookie) }?;
    // SAFETY: no arguments.
    let own = node().is_some_and(|n| n.agent_cgroup == unsafe { helpers::bpf_get_current_cgroup_id() });
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
    count(Stat::Captured);
    if logs(LOG_DEBUG) {
        debug!(ctx, "captured a connect to {:i}:{}", wanted.ip, wanted.port);
    }
    true
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
const IPPROTO_MPTCP: u32 = 262;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const LOOPBACK4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
const LOOPBACK6_WORD: u32 = u32::from_ne_bytes([0, 0, 0, 1]);
