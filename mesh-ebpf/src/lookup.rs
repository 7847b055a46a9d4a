//! `sk_lookup` in a pod's network namespace: every new inbound connection goes to the node's listener in that pod,
//! with its original destination intact; runs on the first packet of a connection only.

use aya_ebpf::{bindings::bpf_sk_lookup, programs::SkLookupContext};
use aya_log_ebpf::{debug, info};
use mesh_common::{Address, Endpoint, Flow, LOG_DEBUG, LOG_INFO, ListenerKey, Stat, TUNNEL_PORT};

use crate::{
    maps::{EXPRESS_FLOWS, HOST_PORTS, LISTENERS, NODE_FLOWS, count, logs},
    packet::{from_words, ipv4_mapped, is_unspecified_or_loopback},
};

/// Chooses the socket for a new connection. On a `HOST` only ports of the mesh are the node's business.
#[inline(always)]
pub fn steer<const HOST: bool>(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    // SAFETY: the context is valid for the run of the program.
    if unsafe { (*lookup).protocol } != IPPROTO_TCP {
        return PASS;
    }
    let flow = flow(lookup);
    // Only the pod itself can send from its own address: the kernel drops such packets from outside as martians.
    if flow.source == flow.destination || is_unspecified_or_loopback(&flow.destination) {
        return PASS;
    }
    let at = Endpoint::new(flow.destination, flow.destination_port);
    // SAFETY: the value is not kept.
    if HOST && unsafe { HOST_PORTS.get(at) }.is_none() {
        return PASS;
    }
    let tunnel = flow.destination_port == TUNNEL_PORT;
    // SAFETY: the value is not kept.
    if !tunnel && unsafe { NODE_FLOWS.get(flow) }.is_some() {
        count(Stat::ProbesPassed);
        return PASS;
    }
    // Only the kernel writes these, when it lets a pod of this node connect.
    // SAFETY: the value is not kept.
    if !tunnel && unsafe { EXPRESS_FLOWS.get(flow) }.is_some() {
        count(Stat::ExpressPassed);
        return PASS;
    }
    let kind = if tunnel { ListenerKey::TUNNEL } else { ListenerKey::PLAINTEXT };
    let key = ListenerKey { ip: flow.destination, kind };
    if LISTENERS.redirect_sk_lookup(ctx, key, 0).is_err() {
        count(Stat::DroppedNoListener);
        if logs(LOG_INFO) {
            info!(
                ctx,
                "dropped a connection to {:i}:{}: the node is away", flow.destination, flow.destination_port
            );
        }
        return DROP;
    }
    count(if tunnel { Stat::SteeredTunnel } else { Stat::SteeredPlaintext });
    if logs(LOG_DEBUG) {
        debug!(ctx, "steered {:i} -> {:i}:{}", flow.source, flow.destination, flow.destination_port);
    }
    PASS
}

#[inline(always)]
fn flow(lookup: *mut bpf_sk_lookup) -> Flow {
    // SAFETY: the context is valid for the run of the program; fields are read whole.
    unsafe {
        let v4 = (*lookup).family == AF_INET;
        let (source, destination): (Address, Address) = if v4 {
            (ipv4_mapped((*lookup).remote_ip4), ipv4_mapped((*lookup).local_ip4))
        } else {
            let remote =
                |i: usize| core::ptr::read_volatile((&raw const (*lookup).remote_ip6).cast::<u32>().add(i));
            let local =
                |i: usize| core::ptr::read_volatile((&raw const (*lookup).local_ip6).cast::<u32>().add(i));
            (
                from_words([remote(0), remote(1), remote(2), remote(3)]),
                from_words([local(0), local(1), local(2), local(3)]),
            )
        };
        Flow {
            source,
            destination,
            source_port: u16::from_be((*lookup).remote_port),
            destination_port: (*lookup).local_port as u16,
        }
    }
}

const PASS: u32 = 1;
const DROP: u32 = 0;
const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;
