//! What a CONNECT authority may look like, case by case.

use proptest::prelude::*;

use super::AuthorityError::{Host, Length, NoPort, Port};
use super::*;

#[test]
fn accepted() {
    let cases = [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("255.255.255.255:65535", "255.255.255.255:65535"),
        ("[::1]:15008", "[::1]:15008"),
        ("[fd00::1]:80", "[fd00::1]:80"),
        ("[FD00::A]:80", "[fd00::a]:80"),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("[::ffff:a00:1]:80", "10.0.0.1:80"),
        ("[0:0:0:0:0:ffff:10.0.0.1]:80", "10.0.0.1:80"),
        (
            "[2001:db8:aaaa:bbbb:cccc:dddd:255.255.255.255]:65535",
            "[2001:db8:aaaa:bbbb:cccc:dddd:ffff:ffff]:65535",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_connect_authority(text), Ok(expected.parse().unwrap()), "{text:?}");
    }
}

#[test]
fn refused() {
    let long = format!("{}:80", "1".repeat(60));
    let cases = [
        ("", Length),
        (long.as_str(), Length),
        ("10.0.0.1", NoPort),
        ("localhost", NoPort),
        ("[", NoPort),
        ("10.0.0.1:", Port),
        ("10.0.0.1:0", Port),
        ("10.0.0.1:65536", Port),
        ("10.0.0.1:99999999999", Port),
        ("10.0.0.1:080", Port),
        ("10.0.0.1:+80", Port),
        ("10.0.0.1:-80", Port),
        ("10.0.0.1: 80", Port),
        ("10.0.0.1:80 ", Port),
        ("10.0.0.1:80\n", Port),
        ("10.0.0.1:80\0", Port),
        ("10.0.0.1:80/", Port),
        ("10.0.0.1:http", Port),
        ("10.0.0.1:0x50", Port),
        ("10.0.0.1:8０", Port),
        ("[::1]", Port),
        (":80", Host),
        ("localhost:80", Host),
        ("reviews.default.svc.cluster.local:9080", Host),
        ("user@10.0.0.1:80", Host),
        ("user:pass@10.0.0.1:80", Host),
        ("http://10.0.0.1:80", Host),
        ("//10.0.0.1:80", Host),
        (" 10.0.0.1:80", Host),
        ("10.0.0.1 :80", Host),
        ("10.0.0.01:80", Host),
        ("10.0.0:80", Host),
        ("10.1:80", Host),
        ("167772161:80", Host),
        ("0x0a000001:80", Host),
        ("10.0.0.256:80", Host),
        ("10.0.0.1.:80", Host),
        ("10.0.0.1:80:80", Host),
        ("[10.0.0.1]:80", Host),
        ("::1:80", Host),
        ("[::1:80", Host),
        ("::1]:80", Host),
        ("[[::1]]:80", Host),
        ("[::1]x:80", Host),
        ("[]:80", Host),
        ("[fe80::1%eth0]:80", Host),
        ("[fe80::1%25eth0]:80", Host),
        ("[fe80::1%2]:80", Host),
        ("[ ::1]:80", Host),
        ("[v1.x]:80", Host),
        ("*:80", Host),
    ];
    for (text, error) in cases {
        assert_eq!(parse_connect_authority(text), Err(error), "{text:?}");
    }
}

proptest! {
    #[test]
    fn every_address_is_accepted_in_its_usual_form(ip: IpAddr, port in 1u16..) {
        let addr = SocketAddr::new(ip, port);
        prop_assert_eq!(parse_connect_authority(&addr.to_string()), Ok(canonical(addr)));
    }

    #[test]
    fn never_panics(text in "[\\[\\]0-9a-f:.%@+\\PC]{0,60}") {
        let _ = parse_connect_authority(&text);
    }
}
