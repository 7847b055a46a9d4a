use super::*;

#[test]
fn the_most_specific_host_is_found() {
    let hosts = ["a.example.com", "*.example.com", "*-x.example.com", "*.com", "10.0.0.1", "2001:db8::1"];
    let mut map = HostMap::default();
    for (to, host) in hosts.iter().enumerate() {
        map.insert(&Host::parse(host).unwrap(), to);
    }
    let found = |authority: &str| map.find(authority).map(|at| hosts[at]);
    for (authority, expected) in [
        ("a.example.com", Some("a.example.com")),
        ("A.Example.COM:8080", Some("a.example.com")),
        ("a.example.com.", Some("a.example.com")),
        ("a.example.com.:80", Some("a.example.com")),
        ("b.example.com", Some("*.example.com")),
        ("a.b.example.com:1", Some("*.example.com")),
        ("b-x.example.com", Some("*-x.example.com")),
        ("-x.example.com", Some("*.example.com")),
        ("example.com", Some("*.com")),
        (".com", None),
        ("com", None),
        ("", None),
        ("10.0.0.1:80", Some("10.0.0.1")),
        ("[2001:db8::1]:80", Some("2001:db8::1")),
        ("[2001:DB8:0::1]", Some("2001:db8::1")),
        ("[::ffff:10.0.0.1]", Some("10.0.0.1")),
        ("10.0.0.2", None),
        ("a.example.com:http", None),
        ("é.example.com", Some("*.example.com")),
    ] {
        assert_eq!(found(authority), expected, "{authority}");
    }
    assert_eq!(map.find(&"A".repeat(300)), None);
    map.insert(&Host::Any, 0);
    for authority in ["", "x", "10.0.0.2", &"A".repeat(300)] {
        assert_eq!(map.find(authority), Some(0), "{authority}");
    }
}

#[test]
fn only_a_port_is_split_off() {
    for (authority, host) in
        [("a:80", "a"), ("a", "a"), ("a:", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1")]
    {
        assert_eq!(split_port(authority).0, host, "{authority}");
    }
}
