//! Spellings of one host, and what holds for all of them.

use proptest::prelude::*;

use super::*;

fn name(authority: &str) -> String {
    match Host::of(authority) {
        (Host::Name(name), port) => {
            format!("{name} {}", port.map_or("-".to_owned(), |port| port.to_string()))
        }
        (Host::Address(address), port) => {
            format!("<{address}> {}", port.map_or("-".to_owned(), |port| port.to_string()))
        }
    }
}

#[test]
fn spellings() {
    let rows = [
        ("secret.test", "secret.test -"),
        ("Secret.TEST", "secret.test -"),
        ("secret.test.", "secret.test -"),
        ("secret.test:8080", "secret.test 8080"),
        ("SECRET.test.:80", "secret.test 80"),
        ("secret.test..", "secret.test. -"),
        ("10.0.0.1", "<10.0.0.1> -"),
        ("10.0.0.1.:80", "<10.0.0.1> 80"),
        ("10.0.0", "10.0.0 -"),
        ("1a.test", "1a.test -"),
        ("[FD00::1]", "<fd00::1> -"),
        ("[fd00:0:0::1]:80", "<fd00::1> 80"),
        ("fd00::1", "<fd00::1> -"),
        ("[::ffff:10.0.0.1]:80", "<10.0.0.1> 80"),
        ("a:b", "a:b -"),
        ("", " -"),
        (".", " -"),
    ];
    for (authority, expected) in rows {
        assert_eq!(name(authority), expected, "{authority:?}");
    }
}

proptest! {
    #[test]
    fn every_spelling_is_the_same_host(
        host in "[a-z0-9_~-]{1,8}(\\.[a-z0-9-]{1,8}){0,3}",
        upper in any::<u32>(),
        dot in any::<bool>(),
        port in proptest::option::of(1_u16..),
    ) {
        let mut spelt: String = host
            .chars()
            .enumerate()
            .map(|(at, c)| if upper >> (at % 32) & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        if dot {
            spelt.push('.');
        }
        if let Some(port) = port {
            spelt.extend([format!(":{port}")]);
        }
        prop_assert_eq!(Host::of(&spelt), (Host::of(&host).0, port));
    }

    #[test]
    fn the_normal_form_is_normal(text in "\\PC{0,20}") {
        let (Host::Name(name), None) = Host::of(&text) else { return Ok(()) };
        // A second dot at the end stays, and is one of an empty label that no rule has.
        if !name.ends_with('.') && let (Host::Name(again), _) = Host::of(&name) {
            prop_assert_eq!(&again, &name);
        }
    }
}
