//! Kernel programs of the mesh: entry points only; each hook has a file of its own.
//!
//! Invariant: whatever is missing or in doubt ends closed. A captured connect that cannot be remembered is
//! refused, an inbound connection without the node's listener is dropped, a packet that goes around the node is
//! dropped.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(unsafe_code, reason = "kernel contexts and helpers are raw pointers")]
#![expect(
    clippy::inline_always,
    reason = "one program is one function to the verifier; calls would lose what it knows"
)]
#![expect(clippy::needless_pass_by_value, reason = "the program macros call the entry points with values")]
#![expect(clippy::cast_possible_truncation, reason = "the kernel's fields are wider than ports and lengths")]
#![expect(clippy::cast_possible_wrap, reason = "sizes and verdicts are small")]
#![expect(missing_docs, reason = "the program macros do not carry the entry points' documentation over")]

mod connect;
mod express;
mod guard;
mod lookup;
mod maps;
mod packet;
mod peername;
mod shortcut;
mod sockops;
mod unit;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock_addr, classifier, sk_lookup, sock_ops},
    programs::{SkBuffContext, SkLookupContext, SockAddrContext, SockOpsContext, TcContext},
};
use mesh_common::Stat;

/// Outbound capture, IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    connect::v4::<true>(&ctx)
}

/// Outbound capture, IPv6 sockets, which also connect to IPv4 addresses in mapped form.
#[cgroup_sock_addr(connect6)]
pub fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    connect::v6::<true>(&ctx)
}

/// Capture of what leaves sockets that are not connected, to IPv4 addresses.
#[cgroup_sock_addr(sendmsg4)]
pub fn mesh_sendmsg4(ctx: SockAddrContext) -> i32 {
    connect::v4::<false>(&ctx)
}

/// The same to IPv6 addresses.
#[cgroup_sock_addr(sendmsg6)]
pub fn mesh_sendmsg6(ctx: SockAddrContext) -> i32 {
    connect::v6::<false>(&ctx)
}

/// Shows applications who really sent what they receive, IPv4 sockets.
#[cgroup_sock_addr(recvmsg4)]
pub fn mesh_recvmsg4(ctx: SockAddrContext) -> i32 {
    peername::v4(&ctx)
}

/// The same, IPv6 sockets.
#[cgroup_sock_addr(recvmsg6)]
pub fn mesh_recvmsg6(ctx: SockAddrContext) -> i32 {
    peername::v6(&ctx)
}

/// Shows applications the real other end, IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn mesh_peername4(ctx: SockAddrContext) -> i32 {
    peername::v4(&ctx)
}

/// Shows applications the real other end, IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn mesh_peername6(ctx: SockAddrContext) -> i32 {
    peername::v6(&ctx)
}

/// Publishes destinations before the SYN leaves; records probes; forgets what closed.
#[sock_ops]
pub fn mesh_sockops(ctx: SockOpsContext) -> u32 {
    sockops::event(&ctx)
}

/// Inbound steering in a pod's network namespace, on the first packet only.
#[sk_lookup]
pub fn mesh_lookup(ctx: SkLookupContext) -> u32 {
    lookup::steer::<false>(&ctx)
}

/// The same in a machine's own network namespace.
#[sk_lookup]
pub fn mesh_lookup_host(ctx: SkLookupContext) -> u32 {
    lookup::steer::<true>(&ctx)
}

/// The guard on what processes of an enrolled control group send.
#[cgroup_skb(egress)]
pub fn mesh_unit_out(ctx: SkBuffContext) -> i32 {
    unit::guard(&ctx, Stat::DroppedEgress)
}

/// The guard on what reaches them.
#[cgroup_skb(ingress)]
pub fn mesh_unit_in(ctx: SkBuffContext) -> i32 {
    unit::guard(&ctx, Stat::DroppedIngress)
}

/// The guard on what leaves a pod.
#[classifier]
pub fn mesh_guard_out(ctx: TcContext) -> i32 {
    guard::egress(&ctx)
}

/// The guard on what reaches a pod.
#[classifier]
pub fn mesh_guard_in(ctx: TcContext) -> i32 {
    guard::ingress(&ctx)
}

/// Inbound steering by TC instead of `mesh_lookup`, with the guard's check in the same pass.
#[classifier]
pub fn mesh_steer_in(ctx: TcContext) -> i32 {
    guard::steer(&ctx)
}

/// What express flows send, at the host's end of a pod's interface.
#[classifier]
pub fn mesh_shortcut(ctx: TcContext) -> i32 {
    shortcut::forward(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
