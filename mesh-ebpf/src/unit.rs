//! `cgroup_skb` on the enrolled control groups of a machine: what their processes send and hear goes through the node, and so
//! never leaves or reaches the machine by a socket of their own. The guard of pods does that on interfaces; a machine's are
//! everybody's.

use aya_ebpf::{bindings::bpf_sock, helpers::generated as helpers, programs::SkBuffContext};
use mesh_common::Stat;

use crate::maps::count;

/// A packet of a socket of an enrolled process.
#[inline(always)]
pub fn guard(ctx: &SkBuffContext, stat: Stat) -> i32 {
    // SAFETY: the context is valid for the run of the program.
    let (interface, socket) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).__bindgen_anon_2.sk) };
    if interface == LOOPBACK || may_leave(ctx, socket) {
        return PASS;
    }
    count(stat);
    DROP
}

/// Whether the socket's packets are not the mesh's business. Of a raw one it is the packet that counts, whatever protocol the
/// socket was made for: it may bring headers of its own.
#[inline(always)]
fn may_leave(ctx: &SkBuffContext, socket: *mut bpf_sock) -> bool {
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null; the helper takes any socket of the context.
    let full = unsafe { helpers::bpf_sk_fullsock(socket) };
    if full.is_null() {
        return false;
    }
    // SAFETY: not null, and it lives as long as the context.
    let (kind, protocol) = unsafe { ((*full).type_, (*full).protocol) };
    if kind == SOCK_RAW {
        return is_icmp(ctx);
    }
    protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP
}

/// Whether the packet is one of `ping` and the like; what hides behind extension headers is not.
#[inline(always)]
fn is_icmp(ctx: &SkBuffContext) -> bool {
    match ctx.load::<u8>(0).map(|first| first >> 4) {
        Ok(4) => ctx.load::<u8>(9) == Ok(IPPROTO_ICMP),
        Ok(6) => ctx.load::<u8>(6) == Ok(IPPROTO_ICMPV6),
        _ => false,
    }
}

/// Of every network namespace.
const LOOPBACK: u32 = 1;
const PASS: i32 = 1;
const DROP: i32 = 0;
const IPPROTO_TCP: u32 = 6;
const SOCK_RAW: u32 = 3;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_MPTCP: u32 = 262;
