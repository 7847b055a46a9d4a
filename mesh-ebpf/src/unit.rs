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
    if interface == LOOPBACK || may_leave(socket) {
        return PASS;
    }
    count(stat);
    DROP
}

/// Whether the socket's packets are not the mesh's business. Nobody can tell what a raw one sends.
#[inline(always)]
fn may_leave(socket: *mut bpf_sock) -> bool {
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null; the helper takes any socket of the context.
    let full = unsafe { helpers::bpf_sk_fullsock(socket) };
    if full.is_null() {
        return false;
    }
    // SAFETY: not null, and it lives as long as the context.
    let protocol = unsafe { (*full).protocol };
    protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP && protocol != IPPROTO_RAW
}

/// Of every network namespace.
const LOOPBACK: u32 = 1;
const PASS: i32 = 1;
const DROP: i32 = 0;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_RAW: u32 = 255;
const IPPROTO_MPTCP: u32 = 262;
