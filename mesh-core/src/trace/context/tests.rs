use super::*;

const W3C: Forms = Forms { w3c: true, b3: false, single: false };
const B3_FIRST: Forms = Forms { w3c: false, b3: true, single: false };

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let all = all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
    let mut headers = HeaderMap::new();
    all.for_each(|(name, value)| _ = headers.append(name, value));
    headers
}

fn shown(headers: &HeaderMap) -> Vec<String> {
    let mut all: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    all.sort();
    all
}

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

#[test]
fn a_traceparent_is_read_in_one_way_or_not_at_all() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (text, decided) in [
        (good, Some(true)),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some(false)),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", Some(true)),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", Some(true)),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", None),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", None),
        ("00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        ("", None),
    ] {
        let read = Received::read(&headers(&[("traceparent", text)]), W3C).incoming;
        assert_eq!(read.decided, decided, "{text}");
        let expected = decided.map(|_| Parent { trace: TRACE, span: SPAN });
        assert_eq!(read.parent, expected, "{text}");
    }
    let twice = headers(&[("traceparent", good), ("traceparent", good)]);
    assert_eq!(Received::read(&twice, W3C).incoming.parent, None);
}

#[test]
fn b3_is_read_as_one_header_and_as_several() {
    let long = Parent { trace: TRACE, span: SPAN };
    let short = Parent { trace: 0xa3ce_929d_0e0e_4736, span: SPAN };
    let both = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    for (given, parent, decided, debug) in [
        (vec![("b3", both.to_owned())], Some(long), None, false),
        (vec![("b3", format!("{both}-1"))], Some(long), Some(true), false),
        (vec![("b3", format!("{both}-0-00f067aa0ba902b8"))], Some(long), Some(false), false),
        (vec![("b3", format!("{both}-d"))], Some(long), Some(true), true),
        (vec![("b3", format!("{both}-x"))], None, None, false),
        (vec![("b3", "A3CE929D0E0E4736-00F067AA0BA902B7-1".to_owned())], Some(short), Some(true), false),
        (vec![("b3", "0".to_owned())], None, Some(false), false),
        (vec![("x-b3-sampled", "true".to_owned())], None, Some(true), false),
        (vec![("x-b3-flags", "1".to_owned())], None, Some(true), true),
        (
            vec![
                ("x-b3-traceid", "a3ce929d0e0e4736".to_owned()),
                ("x-b3-spanid", "00f067aa0ba902b7".to_owned()),
                ("x-b3-sampled", "0".to_owned()),
            ],
            Some(short),
            Some(false),
            false,
        ),
        (vec![("x-b3-traceid", "a3ce929d0e0e4736".to_owned())], None, None, false),
    ] {
        let all: Vec<_> = given.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let read = Received::read(&headers(&all), B3_FIRST).incoming;
        assert_eq!((read.parent, read.decided, read.debug), (parent, decided, debug), "{given:?}");
    }
}

#[test]
fn of_two_traces_the_collectors_own_form_is_believed() {
    let both = headers(&[
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-0"),
    ]);
    assert_eq!(Received::read(&both, W3C).incoming.decided, Some(true));
    assert_eq!(Received::read(&both, B3_FIRST).incoming.decided, Some(false));
}

#[test]
fn what_goes_on_is_in_the_wanted_forms_and_in_those_that_came() {
    let own = Own { at: Parent { trace: TRACE, span: 7 }, parent: Some(SPAN), sampled: true };
    let mut fresh = HeaderMap::new();
    Incoming::default().pass_on(&mut fresh, &Own { parent: None, ..own }, B3_FIRST);
    assert_eq!(
        shown(&fresh),
        [
            "x-b3-sampled: 1",
            "x-b3-spanid: 0000000000000007",
            "x-b3-traceid: 4bf92f3577b34da6a3ce929d0e0e4736"
        ]
    );
    let mut came = headers(&[
        ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-d"),
        ("tracestate", "a=b"),
        ("x-b3-parentspanid", "1"),
    ]);
    let read = Received::read(&came, W3C).incoming;
    read.pass_on(&mut came, &Own { at: Parent { trace: 5, span: 7 }, ..own }, W3C);
    assert_eq!(
        shown(&came),
        [
            "b3: 0000000000000005-0000000000000007-d-00f067aa0ba902b7",
            "traceparent: 00-00000000000000000000000000000005-0000000000000007-01",
            "x-b3-parentspanid: 1"
        ]
    );
}

#[test]
fn a_tracestate_stays_with_its_trace_only() {
    let own = Own { at: Parent { trace: TRACE, span: 7 }, parent: Some(SPAN), sampled: false };
    for (traceparent, kept) in
        [("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true), ("00-nonsense", false)]
    {
        let mut all = headers(&[("traceparent", traceparent), ("tracestate", "a=b")]);
        Received::read(&all, W3C).incoming.pass_on(&mut all, &own, W3C);
        assert_eq!(all.contains_key("tracestate"), kept);
        assert_eq!(all["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-00");
    }
}

#[test]
fn of_a_trace_that_nobody_is_told_of_only_that_is_said_in_b3() {
    let own = Own { at: Parent { trace: TRACE, span: 7 }, parent: None, sampled: false };
    let mut all = headers(&[("x-b3-traceid", "nonsense")]);
    Received::read(&all, B3_FIRST).incoming.pass_on(&mut all, &own, B3_FIRST);
    assert_eq!(shown(&all), ["x-b3-sampled: 0"]);
}
