use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::Deserialize;

use super::super::tree::{self, Tree};
use super::{Decoded, decode};

#[derive(Debug, Deserialize, PartialEq)]
struct Every {
    flag: bool,
    small: u8,
    signed: i64,
    ratio: f64,
    text: String,
    maybe: Option<Vec<Inner>>,
    pair: (u16, String),
    wrapped: Wrapped,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Inner {
    mode: Mode,
    #[serde(default)]
    ports: std::collections::BTreeMap<u16, Mode>,
}

#[derive(Debug, Deserialize, PartialEq)]
enum Mode {
    On,
    Off,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Wrapped(String);

fn tree(text: &str) -> Tree {
    tree::build(serde_yaml_ng::Deserializer::from_str(text)).expect("valid YAML").0
}

fn problems<T>(decoded: &Decoded<T>) -> Vec<String> {
    let one =
        |it: &tree::Problem| format!("{}: {} {}", it.field, it.reason, it.hint.as_deref().unwrap_or("-"));
    decoded.problems.iter().map(one).collect()
}

#[test]
fn derived_types_are_read() {
    let tree = tree(
        "{flag: on, small: 7, signed: -3, ratio: 1, text: x, wrapped: w, pair: [1, y], \
         maybe: [{mode: On, ports: {80: Off}}, {mode: Off}]}",
    );
    let decoded = decode::<Every>(&tree, "");
    assert_eq!(problems(&decoded), Vec::<String>::new());
    let value = decoded.value.expect("no problems");
    assert_eq!((value.flag, value.small, value.signed, value.pair), (true, 7, -3, (1, "y".into())));
    let inner = value.maybe.expect("given");
    assert_eq!((&inner[0].ports[&80], &inner[1].mode), (&Mode::Off, &Mode::Off));
    assert_eq!(value.wrapped, Wrapped("w".into()));
}

#[test]
fn every_problem_is_found_in_one_go() {
    let tree = tree(
        "{flag: 1, small: 256, signed: '5', ratio: x, text: [a], wrapped: 3, \
         maybe: [{mode: on}, {mode: Off, ports: {x: On, 1: Of}, port: 1}]}",
    );
    assert_eq!(
        problems(&decode::<Every>(&tree, "items[0]")),
        [
            "items[0].flag: expected boolean, found integer 1 -",
            "items[0].small: 256 is out of range (0 to 255) -",
            "items[0].signed: expected integer, found string \"5\" write 5 without quotes",
            "items[0].ratio: expected number, found string \"x\" -",
            "items[0].text: expected string, found a list -",
            "items[0].wrapped: expected string, found integer 3 quote it: \"3\"",
            "items[0].maybe[0].mode: unknown value \"on\" did you mean \"On\"?",
            "items[0].maybe[1].ports.x: the key must be a number from 0 to 65535 -",
            "items[0].maybe[1].ports.1: unknown value \"Of\" did you mean \"Off\"?",
            "items[0].maybe[1].port: unknown field \"port\" did you mean \"ports\"?",
        ]
    );
}

#[test]
fn kubernetes_types_are_read() {
    let tree = tree(
        "{apiVersion: v1, kind: Secret, data: {a: aGVsbG8=, b: null}, metadata: {creationTimestamp: 2024-01-01T00:00:00Z, \
         managedFields: [{fieldsV1: {'f:data': {'.': {}}}, time: '2024-01-01T00:00:00Z'}]}}",
    );
    let decoded = decode::<Secret>(&tree, "");
    assert_eq!(problems(&decoded), Vec::<String>::new());
    let data = decoded.value.and_then(|secret| secret.data).expect("given");
    assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (b"hello".as_slice(), b"".as_slice()));
}

#[test]
fn errors_of_kubernetes_types_have_a_path() {
    let text = "{binaryData: {a: '%%'}, metadata: {creationTimestamp: yesterday, finalizers: {a: b}}}";
    let tree = tree(text);
    let problems = problems(&decode::<ConfigMap>(&tree, ""));
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems[0].starts_with("binaryData.a: "), "{}", problems[0]);
    assert!(problems[1].starts_with("metadata.creationTimestamp: "), "{}", problems[1]);
    assert_eq!(problems[2], "metadata.finalizers: expected list, found an object -");
}

#[test]
fn nulls_are_noted() {
    let tree = tree("{data: {a: null}, immutable: null}");
    let decoded = decode::<ConfigMap>(&tree, "");
    assert_eq!(decoded.null_fields, ["immutable"]);
    assert_eq!(decoded.null_strings, ["data.a"]);
    assert_eq!(decoded.value.and_then(|map| map.data).expect("given")["a"], "");
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Settings {
    port: u16,
    name: String,
    selectors: Vec<Selector>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Selector {
    all: Vec<u16>,
}

#[test]
fn what_is_right_is_salvaged() {
    let tree = tree("{port: x, nam: y, name: kept, selectors: [{all: [1]}, {all: [1, a]}, {}, {all: [2]}]}");
    let decoded = super::salvage::<Settings>(&tree, "a[0]");
    let selectors = vec![Selector { all: vec![1] }, Selector { all: vec![2] }];
    assert_eq!(decoded.value, Some(Settings { port: 0, name: "kept".into(), selectors }));
    let fields: Vec<_> = decoded.problems.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["a[0].port", "a[0].selectors[1].all[1]", "a[0].selectors[2]", "a[0].nam"]);
    assert_eq!(decode::<Settings>(&tree, "").value, None);
    assert_eq!(super::salvage::<Settings>(&Tree::String("x".into()), "a").value, None);
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "Pair")]
struct Ordered;

#[derive(Deserialize)]
struct Pair {
    low: u16,
    high: u16,
}

impl TryFrom<Pair> for Ordered {
    type Error = super::Invalid;

    fn try_from(Pair { low, high }: Pair) -> Result<Self, super::Invalid> {
        let blame = super::Invalid::new(format!("{high} is \u{1e}\u{1f}below {low}")).field("high");
        if low <= high { Ok(Self) } else { Err(blame.hint("swap them")) }
    }
}

#[test]
fn a_refused_value_blames_one_of_its_fields() {
    let tree = tree("[{low: 1, high: 2}, {low: 2, high: 1}]");
    let decoded = decode::<Vec<Ordered>>(&tree, "spec");
    assert_eq!(problems(&decoded), ["spec[1].high: 1 is   below 2 swap them"]);
}
