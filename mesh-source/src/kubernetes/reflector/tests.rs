use std::time::Duration;

use super::watch_seconds;
use crate::kubernetes::in_namespace;

#[test]
fn paths_lead_into_namespaces() {
    for (path, namespace, expected) in [
        ("/api/v1/secrets", "a", "/api/v1/namespaces/a/secrets"),
        ("/apis/g.io/v1/things", "a", "/apis/g.io/v1/namespaces/a/things"),
        ("/api/v1/nodes", "", "/api/v1/nodes"),
    ] {
        assert_eq!(in_namespace(path, namespace), expected);
    }
}

#[test]
fn watches_last_about_as_long_as_wanted() {
    assert!((202..=338).contains(&watch_seconds(Duration::from_secs(270))));
    assert_eq!(watch_seconds(Duration::ZERO), 1);
}
