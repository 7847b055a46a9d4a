use proptest::prelude::*;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::*;
use crate::discovery::Node;

fn names(count: usize) -> Vec<String> {
    vec![String::new(); count]
}

fn judge(request: &DeltaDiscoveryRequest) -> Result<(), Excess> {
    measure::<DeltaDiscoveryRequest>(&request.encode_to_vec())
}

fn too_many(what: &'static str, most: usize) -> Result<(), Excess> {
    Err(Excess::TooMuch { what, most })
}

#[test]
fn lists_are_counted_together() {
    let with = |subscribe, unsubscribe| DeltaDiscoveryRequest {
        resource_names_subscribe: names(subscribe),
        resource_names_unsubscribe: names(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(judge(&with(MAX_NAMES / 2, MAX_NAMES / 2)), Ok(()));
    assert_eq!(judge(&with(MAX_NAMES / 2, MAX_NAMES / 2 + 1)), too_many("names", MAX_NAMES));
}

#[test]
fn a_mesh_of_100_000_pods_can_be_resumed_and_twice_that_is_the_end() {
    let has = |count: usize| DeltaDiscoveryRequest {
        initial_resource_versions: (0..count).map(|n| (n.to_string(), String::new())).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(judge(&has(100_000)), Ok(()));
    assert_eq!(judge(&has(MAX_VERSIONS)), Ok(()));
    assert_eq!(judge(&has(MAX_VERSIONS + 1)), too_many("versions", MAX_VERSIONS));
}

/// Two bytes each on the wire, and a node of a tree in memory.
#[test]
fn trees_are_limited_by_their_bytes() {
    let list = ListValue { values: vec![Value { kind: None }; 20_000] };
    let value = Value { kind: Some(Kind::ListValue(list)) };
    let metadata = Struct { fields: [("x".to_owned(), value)].into() };
    let node = Node { metadata: Some(metadata.clone()), ..Node::default() };
    let mut request = DeltaDiscoveryRequest { node: Some(node), ..DeltaDiscoveryRequest::default() };
    assert_eq!(judge(&request), too_many("bytes of a node's description", MAX_NODE));
    let wanted = IstioCertificateRequest { metadata: Some(metadata), ..IstioCertificateRequest::default() };
    let wire = wanted.encode_to_vec();
    assert_eq!(measure::<IstioCertificateRequest>(&wire), too_many("bytes of metadata", MAX_METADATA));

    // In parts, each of which would do.
    request.node = Some(Node { id: "x".repeat(MAX_NODE / 2), ..Node::default() });
    let wire = request.encode_to_vec();
    assert_eq!(measure::<DeltaDiscoveryRequest>(&wire), Ok(()));
    let parts = [&*wire, &*wire].concat();
    assert_eq!(measure::<DeltaDiscoveryRequest>(&parts), too_many("bytes of a node's description", MAX_NODE));
}

#[test]
fn what_is_no_message_is_refused() {
    for wire in [
        &b"\xff"[..],
        b"\x0a\x05ab",
        b"\x0b\x0b\x0b",
        b"\x00",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ] {
        let outcome = measure::<DeltaDiscoveryRequest>(wire);
        assert!(matches!(outcome, Err(Excess::Malformed(_))), "{wire:?}: {outcome:?}");
    }
}

proptest! {
    /// What can be decoded can be measured, so that nobody is refused who was not before.
    #[test]
    fn measuring_understands_what_decoding_does(wire in prop::collection::vec(any::<u8>(), 0..60)) {
        if DeltaDiscoveryRequest::decode(&*wire).is_ok() {
            prop_assert_eq!(measure::<DeltaDiscoveryRequest>(&wire), Ok(()));
        }
    }
}
