//! Questions to a rate limit service, and what it says.

use prost::Message as _;

use crate::codec::{Excess, measure};
use crate::ratelimit::{
    RateLimitDescriptor, RateLimitRequest, RateLimitResponse, rate_limit_descriptor::Entry,
};

/// A question on the wire: whether one more of these may pass. A descriptor is a list of keys and values.
pub fn question(domain: &str, descriptors: Vec<Vec<(String, String)>>) -> Vec<u8> {
    let entry = |(key, value)| Entry { key, value };
    let descriptor =
        |entries: Vec<_>| RateLimitDescriptor { entries: entries.into_iter().map(entry).collect() };
    let descriptors = descriptors.into_iter().map(descriptor).collect();
    RateLimitRequest { domain: domain.to_owned(), descriptors, hits_addend: 0 }.encode_to_vec()
}

/// What came back for a question.
///
/// # Errors
/// If it is no such message, or a larger one than anybody needs.
pub fn answer(wire: &[u8]) -> Result<RateLimitResponse, Excess> {
    measure::<RateLimitResponse>(wire)?;
    Ok(RateLimitResponse::decode(wire)?)
}
