//! TCX on the interfaces of an enrolled pod: what must not go around the node does not, even when another program
//! or a person has removed one of the hooks above. Also the second way to steer inbound connections.
//!
//! A segment without SYN and payload passes: it can open nothing and carries no byte, and the kernel sends some
//! of these (resets, `TIME_WAIT` answers) from sockets that belong to nobody.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_CURRENT_NETNS, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_sock, bpf_sock_tuple},
    helpers::generated as helpers,
    programs::TcContext,
};
use aya_log_ebpf::info;
use mesh_common::{Flow, LOG_INFO, ListenerKey, Stat, TUNNEL_PORT};

use crate::{
    express::bears,
    maps::{EXPRESS_FLOWS, EXPRESS_MARKS, LISTENERS, NODE_FLOWS, count, is_own, logs, node, stored},
    packet::{Packet, Segment, parse, reversed},
};

/// What leaves the pod: the node's own sockets, answers to probes, and what is not TCP.
#[inline(always)]
pub fn egress(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid for the run of the program.
    let owner = unsafe { helpers::bpf_skb_cgroup_id(ctx.skb.skb) };
    if is_agent(owner) || bears(ctx.skb.skb) {
        return PASS_ON;
    }
    let segment = match parse(ctx) {
        Packet::Other => return PASS_ON,
        Packet::TcpFragment => return drop(ctx, Stat::DroppedEgress, None),
        Packet::Tcp(segment) => segment,
    };
    if !segment.syn() && !segment.payload() {
        return PASS_ON;
    }
    // What answers a SYN belongs to no connection yet.
    let opened = reversed(&segment.flow);
    if is_probe(&opened) || (segment.syn() && is_express(&opened)) {
        return PASS_ON;
    }
    drop(ctx, Stat::DroppedEgress, Some(&segment.flow))
}

/// What reaches the pod, where `sk_lookup` steers: bytes for sockets of the node, of probes, and what is not TCP.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> i32 {
    let Packet::Tcp(segment) = parse(ctx) else { return PASS_ON };
    let flow = &segment.flow;
    // A SYN is sk_lookup's to judge; the tunnel's ports belong to the node on either side.
    if !segment.payload() || flow.destination_port == TUNNEL_PORT || flow.source_port == TUNNEL_PORT {
        return PASS_ON;
    }
    match owner(ctx, &segment) {
        Owner::Application if is_probe(flow) => PASS_ON,
        Owner::Application => drop(ctx, Stat::DroppedIngress, Some(flow)),
        Owner::Agent | Owner::Pending | Owner::Nobody => PASS_ON,
    }
}

/// What reaches the pod, where TC steers: new connections go to the node's listener, the rest is guarded.
#[inline(always)]
pub fn steer(ctx: &TcContext) -> i32 {
    let Packet::Tcp(segment) = parse(ctx) else { return PASS_ON };
    let flow = &segment.flow;
    let tunnel = flow.destination_port == TUNNEL_PORT;
    if !tunnel && is_probe(flow) {
        count_new(&segment, Stat::ProbesPassed);
        return PASS_ON;
    }
    match owner(ctx, &segment) {
        Owner::Application if segment.payload() => drop(ctx, Stat::DroppedIngress, Some(flow)),
        Owner::Agent | Owner::Pending | Owner::Application => PASS_ON,
        Owner::Nobody if !tunnel && is_express(flow) => {
            count_new(&segment, Stat::ExpressPassed);
            PASS_ON
        }
        Owner::Nobody => assign(ctx, &segment, tunnel),
    }
}

enum Owner {
    Agent,
    Application,
    /// A connection whose handshake has not ended; its listener was judged by its first packet.
    Pending,
    Nobody,
}

/// Whose established socket in this pod the segment is for.
#[inline(always)]
fn owner(ctx: &TcContext, segment: &Segment) -> Owner {
    let Some(socket) = find(ctx, segment) else { return Owner::Nobody };
    // SAFETY: `socket` was returned by the lookup and is released on every path, exactly once.
    unsafe {
        let state = (*socket).state;
        if state == TCP_LISTEN || state == TCP_TIME_WAIT {
            helpers::bpf_sk_release(socket.cast());
            return Owner::Nobody;
        }
        if state == TCP_NEW_SYN_RECV {
            helpers::bpf_sk_release(socket.cast());
            return Owner::Pending;
        }
        let full = helpers::bpf_sk_fullsock(socket);
        // An express flow's socket is not the node's, and its bytes are welcome all the same.
        let agent =
            !full.is_null() && (is_own(full.cast()) || !stored(&EXPRESS_MARKS, full.cast()).is_null());
        helpers::bpf_sk_release(socket.cast());
        if agent { Owner::Agent } else { Owner::Application }
    }
}

#[inline(always)]
fn find(ctx: &TcContext, segment: &Segment) -> Option<*mut bpf_sock> {
    let flow = &segment.flow;
    // SAFETY: the tuple is plain data and has the length that belongs to its family.
    let socket = unsafe {
        let mut tuple: bpf_sock_tuple = core::mem::zeroed();
        let length = if segment.v4 {
            let ip = |a: &[u8; 16]| u32::from_ne_bytes([a[12], a[13], a[14], a[15]]);
            tuple.__bindgen_anon_1.ipv4.saddr = ip(&flow.source);
            tuple.__bindgen_anon_1.ipv4.daddr = ip(&flow.destination);
            tuple.__bindgen_anon_1.ipv4.sport = flow.source_port.to_be();
            tuple.__bindgen_anon_1.ipv4.dport = flow.destination_port.to_be();
            12
        } else {
            tuple.__bindgen_anon_1.ipv6.saddr = core::mem::transmute::<[u8; 16], [u32; 4]>(flow.source);
            tuple.__bindgen_anon_1.ipv6.daddr = core::mem::transmute::<[u8; 16], [u32; 4]>(flow.destination);
            tuple.__bindgen_anon_1.ipv6.sport = flow.source_port.to_be();
            tuple.__bindgen_anon_1.ipv6.dport = flow.destination_port.to_be();
            36
        };
        let here = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
        helpers::bpf_skc_lookup_tcp(ctx.as_ptr(), &raw mut tuple, length, here, 0)
    };
    (!socket.is_null()).then_some(socket)
}

/// Gives the packet to the node's listener of this pod.
#[inline(always)]
fn assign(ctx: &TcContext, segment: &Segment, tunnel: bool) -> i32 {
    let kind = if tunnel { ListenerKey::TUNNEL } else { ListenerKey::PLAINTEXT };
    let key = ListenerKey { ip: segment.flow.destination, kind };
    // SAFETY: the map's address is what the helper expects; the socket is released on every path.
    let assigned = unsafe {
        let map: *mut c_void = core::ptr::from_ref(&LISTENERS).cast_mut().cast();
        let listener = helpers::bpf_map_lookup_elem(map, (&raw const key).cast());
        if listener.is_null() {
            false
        } else {
            let result = helpers::bpf_sk_assign(ctx.as_ptr(), listener, 0);
            helpers::bpf_sk_release(listener);
            result == 0
        }
    };
    if assigned {
        count_new(segment, if tunnel { Stat::SteeredTunnel } else { Stat::SteeredPlaintext });
        return PASS_ON;
    }
    drop(ctx, Stat::DroppedNoListener, Some(&segment.flow))
}

#[inline(always)]
fn count_new(segment: &Segment, stat: Stat) {
    if segment.opens() {
        count(stat);
    }
}

#[inline(always)]
fn is_agent(cgroup: u64) -> bool {
    node().is_some_and(|n| n.is_agent(cgroup))
}

#[inline(always)]
fn is_probe(flow: &Flow) -> bool {
    // SAFETY: the value is not kept.
    unsafe { NODE_FLOWS.get(flow) }.is_some()
}

#[inline(always)]
fn is_express(flow: &Flow) -> bool {
    // SAFETY: the value is not kept.
    unsafe { EXPRESS_FLOWS.get(flow) }.is_some()
}

#[inline(always)]
fn drop(ctx: &TcContext, stat: Stat, flow: Option<&Flow>) -> i32 {
    count(stat);
    if let Some(flow) = flow
        && logs(LOG_INFO)
    {
        info!(
            ctx,
            "dropped a packet around the node {:i}:{} -> {:i}:{}",
            flow.source,
            flow.source_port,
            flow.destination,
            flow.destination_port
        );
    }
    TC_ACT_SHOT
}

/// "No opinion": programs of others on the same hook still get their say.
const PASS_ON: i32 = TC_ACT_UNSPEC;
const TCP_TIME_WAIT: u32 = 6;
const TCP_LISTEN: u32 = 10;
const TCP_NEW_SYN_RECV: u32 = 12;
