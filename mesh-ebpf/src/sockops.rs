//! sockops: at `TCP_CONNECT_CB` the local port is known and the SYN has not left yet, so whatever is published
//! here is there when the other side accepts. Entries whose staleness would matter go when the socket closes.

use aya_ebpf::{
    bindings::{
        BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops,
    },
    helpers::generated as helpers,
    programs::SockOpsContext,
};
use aya_log_ebpf::debug;
use mesh_common::{
    Address, Endpoint, ExpressEvent, ExpressFlow, Flow, LOG_DEBUG, LocalSocket, Mark, Pod, Seen, Verdict,
};

use crate::{
    express,
    maps::{
        ACTING_FOR, EXPRESS_FLOWS, EXPRESS_MARKS, NODE_FLOWS, ORIGINAL_DST, PODS, PROBE_PORTS, REAL_PEERS,
        WANTED_DST, is_host, logs, stored,
    },
    packet::{from_words, ipv4_mapped, is_mapped, reversed, to_words},
};

/// One socket event.
#[inline(always)]
pub fn event(ctx: &SockOpsContext) -> u32 {
    let op = ctx.op();
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        connecting(ctx);
    } else if op == BPF_SOCK_OPS_STATE_CB && ctx.arg(1) == TCP_CLOSE {
        closed(ctx);
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        accepted(ctx.ops);
    }
    0
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let ops = ctx.ops;
    // SAFETY: the context is valid for the run of the program.
    let cookie = unsafe { helpers::bpf_get_netns_cookie(ops.cast()) };
    let host = is_host(cookie);
    // SAFETY: the value is not kept.
    let Some(pod) = (unsafe { PODS.get(cookie) }) else {
        if host {
            record_probe(ctx);
        }
        return;
    };
    // SAFETY: as above.
    let socket = unsafe { (*ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    let local = LocalSocket::new(cookie, local_ip(ops), local_port(ops));
    // SAFETY: the socket comes from this context; values are copied at once.
    unsafe {
        let mark = stored(&EXPRESS_MARKS, socket.cast());
        if !mark.is_null() {
            return depart(ctx, *mark, pod);
        }
        let wanted = stored(&WANTED_DST, socket.cast());
        if !wanted.is_null() {
            let _ = ORIGINAL_DST.insert(local, *wanted, 0);
            if host {
                // It must not outlive the socket: see `note_destination`.
                let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
            }
            return;
        }
        let client = stored(&ACTING_FOR, socket.cast());
        if !client.is_null() {
            let _ = REAL_PEERS.insert(local, *client, 0);
            let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
        }
    }
}

/// An express flow begins, or one that the node carries: the other end lets it past the node by this entry. There is none for a socket that goes by
/// another address than the pod's own: what the verdict was about, and what the server is shown, has to be true.
#[inline(always)]
fn depart(ctx: &SockOpsContext, mark: Mark, pod: &Pod) {
    let local = local_ip(ctx.ops);
    let own = if is_mapped(&local) { local[12..] == pod.ip4 } else { to_words(&local) == to_words(&pod.ip6) };
    if !own {
        return;
    }
    let entry = ExpressFlow { mark, state: 0, verdict: Verdict::ALLOW, sent: 0, received: 0 };
    if mark.side == Mark::CARRIED {
        // The limit is for those that have the proxy to fall back to.
        let _ = EXPRESS_FLOWS.insert(flow(ctx.ops), entry, 0);
    } else {
        express::open(flow(ctx.ops), entry);
    }
    let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
}

/// A socket has accepted: of an express flow it bears the mark from now on, by which its packets are known.
#[inline(always)]
fn accepted(ops: *mut bpf_sock_ops) {
    // SAFETY: the context is valid for the run of the program.
    let socket = unsafe { (*ops).__bindgen_anon_2.sk };
    // SAFETY: as above.
    let cookie = unsafe { helpers::bpf_get_netns_cookie(ops.cast()) };
    if is_host(cookie) {
        return note_destination(ops, cookie);
    }
    let Some(entry) = EXPRESS_FLOWS.get_ptr_mut(reversed(&flow(ops))) else { return };
    if socket.is_null() {
        return;
    }
    // SAFETY: an entry of the map; the storage call gets the socket of this very context.
    unsafe {
        (*entry).state |= ExpressFlow::ESTABLISHED;
        let mut mark = (*entry).mark;
        mark.side = Mark::SERVER;
        let map = core::ptr::from_ref(&EXPRESS_MARKS).cast_mut().cast();
        let value = (&raw mut mark).cast();
        helpers::bpf_sk_storage_get(map, socket.cast(), value, u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    }
}

/// The node's listener on a machine has accepted: the socket is given where its client wanted to go, while the client's own
/// is there to vouch for it. Whoever else connects to that listener, or comes by the same address later, is given nothing: on
/// a machine, unlike in a pod, not every process is in the mesh.
#[inline(always)]
fn note_destination(ops: *mut bpf_sock_ops, cookie: u64) {
    // SAFETY: the value is not kept.
    let Some(pod) = (unsafe { PODS.get(cookie) }) else { return };
    let port = local_port(ops);
    if port != pod.outbound_port && port != pod.dns_port {
        return;
    }
    let client = LocalSocket::new(cookie, remote_ip(ops), flow(ops).destination_port);
    // SAFETY: copied at once; the storage call gets the socket of this very context.
    unsafe {
        let socket = (*ops).__bindgen_anon_2.sk;
        let Some(wanted) = ORIGINAL_DST.get(client) else { return };
        if socket.is_null() {
            return;
        }
        let mut wanted = *wanted;
        let map = core::ptr::from_ref(&WANTED_DST).cast_mut().cast();
        let value = (&raw mut wanted).cast();
        helpers::bpf_sk_storage_get(map, socket.cast(), value, u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    }
}

/// An express flow is over: its client's socket has closed.
#[inline(always)]
fn over(ctx: &SockOpsContext, mark: Mark) {
    let (ops, before) = (ctx.ops, ctx.arg(0));
    let flow = flow(ops);
    express::close(flow);
    // SAFETY: the context is valid for the run of the program.
    let (sent, received) = unsafe { ((*ops).bytes_acked, (*ops).bytes_received) };
    // The kernel counts what opens and what ends a stream as a byte each.
    let ended = before == TCP_FIN_WAIT2 || before == TCP_CLOSING || before == TCP_LAST_ACK;
    let heard = before == TCP_CLOSE_WAIT
        || before == TCP_CLOSING
        || before == TCP_LAST_ACK
        || before == TCP_FIN_WAIT2;
    // SAFETY: no arguments.
    let at_ns = unsafe { helpers::bpf_ktime_get_ns() };
    express::tell(ExpressEvent {
        mark,
        at_ns,
        sent: sent.saturating_sub(1 + u64::from(ended)),
        received: received.saturating_sub(u64::from(heard)),
        flow,
        kind: if before == TCP_SYN_SENT { ExpressEvent::FAILED } else { ExpressEvent::ENDED },
    });
}

/// A process of the node connects: to a declared probe port it may pass the mesh by. Only a connect on this very
/// machine gets here; traffic that was source-translated to the node's address does not.
#[inline(always)]
fn record_probe(ctx: &SockOpsContext) {
    let flow = flow(ctx.ops);
    let target = Endpoint::new(flow.destination, flow.destination_port);
    // SAFETY: the value is not kept.
    if unsafe { PROBE_PORTS.get(target) }.is_none() {
        return;
    }
    // SAFETY: no arguments.
    let seen = Seen { at_ns: unsafe { helpers::bpf_ktime_get_ns() } };
    if NODE_FLOWS.insert(flow, seen, 0).is_ok() {
        let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
        if logs(LOG_DEBUG) {
            debug!(ctx, "node process probes {:i}:{}", flow.destination, flow.destination_port);
        }
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let ops = ctx.ops;
    // SAFETY: the context is valid for the run of the program; the value is copied at once.
    unsafe {
        let socket = (*ops).__bindgen_anon_2.sk;
        if !socket.is_null() {
            let mark = stored(&EXPRESS_MARKS, socket.cast());
            if !mark.is_null() {
                if (*mark).side == Mark::CLIENT {
                    over(ctx, *mark);
                } else if (*mark).side == Mark::CARRIED {
                    // Its node tells of it.
                    let _ = EXPRESS_FLOWS.remove(flow(ops));
                }
                return;
            }
        }
    }
    // SAFETY: the context is valid for the run of the program.
    let cookie = unsafe { helpers::bpf_get_netns_cookie(ops.cast()) };
    let local = LocalSocket::new(cookie, local_ip(ops), local_port(ops));
    if is_host(cookie) {
        let _ = NODE_FLOWS.remove(flow(ops));
        let _ = ORIGINAL_DST.remove(local);
    }
    let _ = REAL_PEERS.remove(local);
}

#[inline(always)]
fn flow(ops: *mut bpf_sock_ops) -> Flow {
    // SAFETY: the context is valid for the run of the program.
    let remote = unsafe { u32::from_be((*ops).remote_port) } as u16;
    Flow {
        source: local_ip(ops),
        destination: remote_ip(ops),
        source_port: local_port(ops),
        destination_port: remote,
    }
}

#[inline(always)]
fn local_port(ops: *mut bpf_sock_ops) -> u16 {
    // SAFETY: the context is valid for the run of the program.
    unsafe { (*ops).local_port as u16 }
}

// The verifier wants context fields read whole, one word at a time, and by constant offset.
macro_rules! address {
    ($ops:expr, $v4:ident, $v6:ident) => {{
        // SAFETY: the context is valid for the run of the program.
        unsafe {
            if (*$ops).family == AF_INET {
                ipv4_mapped((*$ops).$v4)
            } else {
                let word = |i: usize| core::ptr::read_volatile((&raw const (*$ops).$v6).cast::<u32>().add(i));
                from_words([word(0), word(1), word(2), word(3)])
            }
        }
    }};
}

#[inline(always)]
fn local_ip(ops: *mut bpf_sock_ops) -> Address {
    address!(ops, local_ip4, local_ip6)
}

#[inline(always)]
fn remote_ip(ops: *mut bpf_sock_ops) -> Address {
    address!(ops, remote_ip4, remote_ip6)
}

const AF_INET: u32 = 2;
const TCP_SYN_SENT: u32 = 2;
const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE: u32 = 7;
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LAST_ACK: u32 = 9;
const TCP_CLOSING: u32 = 11;
