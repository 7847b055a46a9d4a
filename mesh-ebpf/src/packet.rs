//! Addresses as the kernel shows them, and bounds-checked parsing of packets.

use aya_ebpf::programs::TcContext;
use mesh_common::{Address, Flow};

/// The third word of an IPv4-mapped address.
pub const MAPPED_WORD: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An address from the kernel's four words, each in network byte order.
#[inline(always)]
pub fn from_words(w: [u32; 4]) -> Address {
    // SAFETY: sixteen bytes either way, every pattern valid.
    unsafe { core::mem::transmute(w) }
}

/// An IPv4 address (network byte order) in IPv4-mapped form.
#[inline(always)]
pub fn ipv4_mapped(ip: u32) -> Address {
    from_words([0, 0, MAPPED_WORD, ip])
}

/// The kernel's four words of an address.
#[inline(always)]
pub fn to_words(ip: &Address) -> [u32; 4] {
    // SAFETY: sixteen bytes either way, every pattern valid.
    unsafe { core::mem::transmute(*ip) }
}

/// Whether this is an IPv4 address in IPv4-mapped form.
#[inline(always)]
pub fn is_mapped(ip: &Address) -> bool {
    let w = to_words(ip);
    w[0] == 0 && w[1] == 0 && w[2] == MAPPED_WORD
}

/// 0.0.0.0 and 127.0.0.0/8, `::` and `::1`: what never leaves a machine.
#[inline(always)]
pub fn is_unspecified_or_loopback(ip: &Address) -> bool {
    let w = to_words(ip);
    if w[0] != 0 || w[1] != 0 {
        return false;
    }
    let last = u32::from_be(w[3]);
    (w[2] == MAPPED_WORD && (last == 0 || last >> 24 == 127)) || (w[2] == 0 && last <= 1)
}

/// A TCP segment as far as the guard needs to know it.
pub struct Segment {
    /// The four-tuple as the packet carries it.
    pub flow: Flow,
    /// Whether the packet is IPv4.
    pub v4: bool,
    /// The flags of the TCP header.
    pub flags: u8,
    /// Bytes of payload.
    pub length: u32,
}

impl Segment {
    /// Whether the SYN flag is set: the segment opens a connection or answers one that does.
    #[inline(always)]
    pub fn syn(&self) -> bool {
        self.flags & SYN != 0
    }

    /// Whether the segment carries any byte of payload.
    #[inline(always)]
    pub fn payload(&self) -> bool {
        self.length > 0
    }

    /// Whether the segment opens a connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }
}

/// What a packet is to the guard.
pub enum Packet {
    /// A TCP segment.
    Tcp(Segment),
    /// A later fragment of a TCP segment, which shows no ports.
    TcpFragment,
    /// Not TCP, or too short to be.
    Other,
}

/// Parses an Ethernet frame.
#[inline(always)]
pub fn parse(ctx: &TcContext) -> Packet {
    // SAFETY: the context is valid for the run of the program.
    let protocol = unsafe { (*ctx.skb.skb).protocol } as u16;
    let parsed = match u16::from_be(protocol) {
        ETH_IPV4 => parse4(ctx),
        ETH_IPV6 => parse6(ctx),
        _ => Ok(Packet::Other),
    };
    parsed.unwrap_or(Packet::Other)
}

#[inline(always)]
fn parse4(ctx: &TcContext) -> Result<Packet, i64> {
    let first: u8 = ctx.load(ETH_LEN)?;
    let total: u16 = ctx.load(ETH_LEN + 2)?;
    let fragment: u16 = ctx.load(ETH_LEN + 6)?;
    let protocol: u8 = ctx.load(ETH_LEN + 9)?;
    if protocol != IPPROTO_TCP {
        return Ok(Packet::Other);
    }
    if u16::from_be(fragment) & 0x1fff != 0 {
        return Ok(Packet::TcpFragment);
    }
    let source: u32 = ctx.load(ETH_LEN + 12)?;
    let destination: u32 = ctx.load(ETH_LEN + 16)?;
    let header = usize::from(first & 0x0f) * 4;
    let total = usize::from(u16::from_be(total));
    // A segment above 64 KiB (BIG TCP) has a zero length field; it surely carries payload.
    let length = if total == 0 { MAX_LEN } else { total.saturating_sub(header) };
    let addresses = (ipv4_mapped(source), ipv4_mapped(destination));
    segment(ctx, ETH_LEN + header, length, addresses).map(|s| Packet::Tcp(Segment { v4: true, ..s }))
}

#[inline(always)]
fn parse6(ctx: &TcContext) -> Result<Packet, i64> {
    let length: u16 = ctx.load(ETH_LEN + 4)?;
    let mut next: u8 = ctx.load(ETH_LEN + 6)?;
    let source: [u32; 4] = ctx.load(ETH_LEN + 8)?;
    let destination: [u32; 4] = ctx.load(ETH_LEN + 24)?;
    let mut skipped = 0_usize;
    // Hop-by-hop, routing, fragment and destination options may stand before TCP; no sender needs more than four.
    for _ in 0..4 {
        if !matches!(next, 0 | 43 | 44 | 60) {
            break;
        }
        let at = ETH_LEN + 40 + (skipped & 0x0fff);
        if next == 44 {
            let offset: u16 = ctx.load(at + 2)?;
            let inner: u8 = ctx.load(at)?;
            if u16::from_be(offset) & 0xfff8 != 0 {
                return Ok(if inner == IPPROTO_TCP { Packet::TcpFragment } else { Packet::Other });
            }
            skipped += 8;
            next = inner;
        } else {
            let size: u8 = ctx.load(at + 1)?;
            next = ctx.load(at)?;
            skipped += (usize::from(size) + 1) * 8;
        }
    }
    if next != IPPROTO_TCP {
        return Ok(Packet::Other);
    }
    let length = usize::from(u16::from_be(length));
    let length = if length == 0 { MAX_LEN } else { length.saturating_sub(skipped) };
    let addresses = (from_words(source), from_words(destination));
    segment(ctx, ETH_LEN + 40 + (skipped & 0x0fff), length, addresses).map(Packet::Tcp)
}

/// The TCP header at `at`; `length` counts it and what follows.
#[inline(always)]
fn segment(ctx: &TcContext, at: usize, length: usize, ip: (Address, Address)) -> Result<Segment, i64> {
    let source_port: u16 = ctx.load(at)?;
    let destination_port: u16 = ctx.load(at + 2)?;
    let offset: u8 = ctx.load(at + 12)?;
    let flags: u8 = ctx.load(at + 13)?;
    Ok(Segment {
        flow: Flow {
            source: ip.0,
            destination: ip.1,
            source_port: u16::from_be(source_port),
            destination_port: u16::from_be(destination_port),
        },
        v4: false,
        flags,
        length: length.saturating_sub(usize::from(offset >> 4) * 4) as u32,
    })
}

/// The same connection seen from its other side.
#[inline(always)]
pub fn reversed(flow: &Flow) -> Flow {
    Flow {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
    }
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const ETH_LEN: usize = 14;
const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const IPPROTO_TCP: u8 = 6;
const MAX_LEN: usize = 1 << 20;
