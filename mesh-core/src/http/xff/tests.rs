//! Who is believed, and how far.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn seen(values: &[&str], trusted: u32) -> Client {
    client(values.iter().map(|value| value.as_bytes()), ip("10.0.0.9"), trusted)
}

#[test]
fn the_list_is_believed_from_its_end() {
    let header = |text| Client { address: ip(text), said_by: SaidBy::Header };
    let peer = Client { address: ip("10.0.0.9"), said_by: SaidBy::Connection };
    let rows: &[(&[&str], u32, Client)] = &[
        (&[], 0, peer),
        (&["1.1.1.1"], 0, peer),
        (&["1.1.1.1"], 1, header("1.1.1.1")),
        (&["6.6.6.6, 1.1.1.1"], 1, header("1.1.1.1")),
        (&["6.6.6.6, 1.1.1.1,10.0.0.1"], 2, header("1.1.1.1")),
        (&["6.6.6.6", "1.1.1.1", "10.0.0.1"], 2, header("1.1.1.1")),
        (&["6.6.6.6, 1.1.1.1", "10.0.0.1"], 3, header("6.6.6.6")),
        (&["1.1.1.1"], 2, peer),
        (&[], 1, peer),
        (&[""], 1, peer),
        (&["1.1.1.1, "], 1, peer),
        (&["1.1.1.1, , 10.0.0.1"], 2, peer),
        (&["unknown"], 1, peer),
        (&["1.1.1.1:80"], 1, peer),
        (&["[2001:db8::1]"], 1, peer),
        (&["2001:db8::1"], 1, header("2001:db8::1")),
        (&["::ffff:1.1.1.1"], 1, header("1.1.1.1")),
        (&["01.1.1.1"], 1, peer),
        (&["1.1.1.1"], u32::MAX, peer),
    ];
    for (values, trusted, expected) in rows {
        assert_eq!(seen(values, *trusted), *expected, "{values:?} through {trusted}");
    }
    assert_eq!(client([], ip("::ffff:10.0.0.9"), 0), peer);
    assert_eq!(client([b"\xff".as_slice()], ip("10.0.0.9"), 1), peer);
}

fn sent(values: &[&str], peer: &str) -> Option<String> {
    let list = appended(values.iter().map(|value| value.as_bytes()), ip(peer))?;
    Some(String::from_utf8(list).unwrap())
}

#[test]
fn the_peer_is_appended() {
    assert_eq!(sent(&[], "10.0.0.9").unwrap(), "10.0.0.9");
    assert_eq!(sent(&["1.1.1.1"], "10.0.0.9").unwrap(), "1.1.1.1,10.0.0.9");
    assert_eq!(sent(&["1.1.1.1,2.2.2.2 ", "", "x"], "::1").unwrap(), "1.1.1.1,2.2.2.2,x,::1");
    assert_eq!(sent(&["1.1.1.1"], "::ffff:10.0.0.9").unwrap(), "1.1.1.1,10.0.0.9");
    assert_eq!(sent(&[&"1".repeat(MAX_BYTES - 9)], "10.0.0.9").unwrap().len(), MAX_BYTES);
    assert_eq!(sent(&[&"1".repeat(MAX_BYTES - 8)], "10.0.0.9"), None);
    assert_eq!(sent(&[&"1".repeat(MAX_BYTES + 1)], "10.0.0.9"), None);
}

/// What we append is what the next proxy, which trusts us, takes for the client.
#[test]
fn the_next_one_sees_our_peer() {
    for values in [vec![], vec!["1.1.1.1"], vec!["x, 6.6.6.6", "7.7.7.7"]] {
        let list = appended(values.iter().map(|value: &&str| value.as_bytes()), ip("10.0.0.9")).unwrap();
        assert_eq!(client([&*list], ip("10.0.0.7"), 1).address, ip("10.0.0.9"));
    }
}

#[test]
fn the_scheme_is_ours_unless_a_trusted_proxy_says_otherwise() {
    let rows: &[(Option<&str>, bool, u32, &str)] = &[
        (None, true, 0, "https"),
        (None, false, 0, "http"),
        (Some("https"), false, 0, "http"),
        (Some("http"), true, 0, "https"),
        (Some("https"), false, 1, "https"),
        (Some(" HTTPS "), false, 1, "https"),
        (Some("http"), true, 1, "http"),
        (Some("https, http"), false, 1, "http"),
        (Some("ws"), true, 2, "https"),
        (Some(""), false, 1, "http"),
        (None, false, 1, "http"),
    ];
    for (received, tls, trusted, expected) in rows {
        assert_eq!(
            proto(received.map(str::as_bytes), *tls, *trusted),
            *expected,
            "{received:?} {tls} {trusted}"
        );
    }
}

#[test]
fn hops_are_entries() {
    let rows: [(&[&[u8]], usize); 5] =
        [(&[], 0), (&[b""], 0), (&[b"a"], 1), (&[b"a, b,c", b" d "], 4), (&[b",a,, ,b,"], 2)];
    for (values, count) in rows {
        assert_eq!(hops(values.iter().copied()), count, "{values:?}");
    }
}
