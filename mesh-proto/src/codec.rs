//! How messages are read off the wire.
//!
//! Invariant: what a message would take in memory is known before any of it is allocated. An element of a list takes
//! two bytes on the wire and a hundred in memory, so that a limit on the bytes alone is none.

use std::marker::PhantomData;

use bytes::Buf as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::DecodeBuf;
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::authz::{CheckRequest, CheckResponse};
use crate::ca::{IstioCertificateRequest, IstioCertificateResponse};
use crate::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::ratelimit::{RateLimitRequest, RateLimitResponse};
use crate::topology::{TopologyReceived, TopologyReport};

/// Protocol Buffers, each message held to its [`Limited::LIMITS`].
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// Reads messages within their limits.
#[derive(Debug, Clone)]
pub struct Decoder<U>(PhantomData<U>);

/// A message that somebody who means harm may have sent.
pub trait Limited {
    /// How much of which fields there may be; all else is as large in memory as on the wire.
    const LIMITS: &'static [Limit];
}

/// How much there may be of some fields of a message, taken together.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// What these fields hold.
    what: &'static str,
    /// The fields' numbers.
    tags: &'static [u32],
    measure: Measure,
    most: usize,
}

#[derive(Debug, Clone, Copy)]
enum Measure {
    Elements,
    Bytes,
}

/// Why a message is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// It is no message.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Too many elements of a list, or too large a tree.
    #[error("more than {most} {what} in one message")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        most: usize,
    },
}

impl Limited for DeltaDiscoveryRequest {
    const LIMITS: &'static [Limit] = &[
        Limit { what: "bytes of a node's description", tags: &[1], measure: Measure::Bytes, most: MAX_NODE },
        Limit { what: "names", tags: &[3, 4], measure: Measure::Elements, most: MAX_NAMES },
        Limit { what: "versions", tags: &[5], measure: Measure::Elements, most: MAX_VERSIONS },
    ];
}

impl Limited for DeltaDiscoveryResponse {
    // A node believes the control plane that it has proven to be its own.
    const LIMITS: &'static [Limit] = &[];
}

impl Limited for IstioCertificateRequest {
    const LIMITS: &'static [Limit] =
        &[Limit { what: "bytes of metadata", tags: &[4], measure: Measure::Bytes, most: MAX_METADATA }];
}

impl Limited for RateLimitRequest {
    // Nobody here takes any.
    const LIMITS: &'static [Limit] = &[];
}

impl Limited for RateLimitResponse {
    const LIMITS: &'static [Limit] = &[
        Limit { what: "verdicts", tags: &[2], measure: Measure::Elements, most: MAX_VERDICTS },
        Limit { what: "headers", tags: &[3, 4], measure: Measure::Elements, most: MAX_HEADERS },
    ];
}

impl Limited for CheckRequest {
    // Nobody here takes any.
    const LIMITS: &'static [Limit] = &[];
}

impl Limited for CheckResponse {
    // What is in it is counted when it is read; its bytes are, while they come.
    const LIMITS: &'static [Limit] = &[];
}

impl Limited for IstioCertificateResponse {
    const LIMITS: &'static [Limit] = &[];
}

impl Limited for TopologyReport {
    // Numbers of an edge's histogram take four times in memory what they take on the wire; nothing else in it is a list.
    const LIMITS: &'static [Limit] = &[
        Limit { what: "edges", tags: &[7], measure: Measure::Elements, most: MAX_TOLD_EDGES },
        Limit { what: "troubled pods", tags: &[9], measure: Measure::Elements, most: MAX_TOLD_PODS },
        Limit { what: "policies", tags: &[12], measure: Measure::Elements, most: MAX_TOLD_POLICIES },
    ];
}

impl Limited for TopologyReceived {
    const LIMITS: &'static [Limit] = &[];
}

/// Whether `wire` is within the limits of a message of type `U`.
///
/// # Errors
/// If it is not, or is no message.
pub fn measure<U: Limited>(wire: &[u8]) -> Result<(), Excess> {
    if U::LIMITS.is_empty() {
        return Ok(());
    }
    let mut left: Vec<(&Limit, usize)> = U::LIMITS.iter().map(|limit| (limit, limit.most)).collect();
    let mut rest = wire;
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        let before = rest.len();
        skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
        for (limit, left) in left.iter_mut().filter(|(limit, _)| limit.tags.contains(&tag)) {
            let cost = match limit.measure {
                Measure::Elements => 1,
                Measure::Bytes => before - rest.len(),
            };
            let excess = Excess::TooMuch { what: limit.what, most: limit.most };
            *left = left.checked_sub(cost).ok_or(excess)?;
        }
    }
    Ok(())
}

impl From<Excess> for Status {
    fn from(excess: Excess) -> Self {
        match excess {
            Excess::Malformed(error) => Self::internal(error.to_string()),
            Excess::TooMuch { .. } => Self::resource_exhausted(excess.to_string()),
        }
    }
}

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Limited + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(PhantomData)
    }
}

impl<U: Message + Limited + Default> tonic::codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // All of it is in one piece, which is handed over and not copied.
        let wire = buffer.copy_to_bytes(buffer.remaining());
        measure::<U>(&wire)?;
        U::decode(wire).map(Some).map_err(|error| Excess::from(error).into())
    }
}

/// Edges in a report of traffic: more than the workloads of one node talk to within seconds.
pub const MAX_TOLD_EDGES: usize = 1_000;
/// Policies in it that have come to something.
pub const MAX_TOLD_POLICIES: usize = 500;
/// Pods in it that something is wrong with. The control plane keeps them of every node: with [`MAX_TOLD_REASON`] that is
/// some 20 kB each at most.
pub const MAX_TOLD_PODS: usize = 32;
/// Characters of a reason why something is wrong with a pod.
pub const MAX_TOLD_REASON: usize = 300;
/// Verdicts of a rate limit service on one request.
const MAX_VERDICTS: usize = 64;
/// Headers that it may add.
const MAX_HEADERS: usize = 64;
/// Names that one request may ask for and give up: twice what a subscriber may have. 100 bytes of memory each.
const MAX_NAMES: usize = 40_000;
/// What one request may say its sender has, which is twice what a node of a mesh of 100,000 pods has. 200 bytes of
/// memory each, besides the text: 40 MB.
const MAX_VERSIONS: usize = 200_000;
/// Bytes with which a proxy may describe itself. They are a tree that takes a hundred times as much memory at worst; a
/// ztunnel needs some 2,000.
const MAX_NODE: usize = 32 << 10;
/// Bytes beside a request for a certificate, a tree as well. An identity has at most 2,048.
const MAX_METADATA: usize = 4 << 10;

#[cfg(test)]
mod tests;
