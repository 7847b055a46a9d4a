//! Parts of targets and authorities. What is refused stands in the tables of requests.

use proptest::prelude::*;

use super::*;

#[test]
fn parts_of_a_target() {
    let target = Target::origin(Bytes::from_static(b"/a/b?c=d?e")).unwrap();
    assert_eq!((target.path(), target.query(), target.as_str()), ("/a/b", Some("c=d?e"), "/a/b?c=d?e"));
    let target = Target::origin(Bytes::from_static(b"/a?")).unwrap();
    assert_eq!((target.path(), target.query()), ("/a", Some("")));
    let target = Target::origin(Bytes::from_static(b"/a")).unwrap();
    assert_eq!((target.path(), target.query()), ("/a", None));
    let (target, authority) = Target::parse(&Method::GET, Bytes::from_static(b"http://B:1?q")).unwrap();
    assert_eq!((target.path(), target.query()), ("/", Some("q")));
    assert_eq!(target.form(), TargetForm::Absolute(Scheme::Http));
    assert_eq!(authority.unwrap().to_string(), "B:1");
}

#[test]
fn a_path_is_replaced_alone() {
    let target = Target::origin(Bytes::from_static(b"/a/../b?c")).unwrap();
    assert_eq!(target.with_path("/b").unwrap().as_str(), "/b?c");
    assert_eq!(target.with_path("/b?x"), Err(Reason::Target));
    assert_eq!(target.with_path("/b c"), Err(Reason::Target));
    assert_eq!(target.with_path("b"), Err(Reason::TargetForm));
}

#[test]
fn parts_of_an_authority() {
    for (text, host, port) in [
        ("a.b:80", "a.b", Some(80)),
        ("A.b.", "A.b.", None),
        ("[::1]:65535", "[::1]", Some(65535)),
        ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", None),
        ("1.2.3.4:1", "1.2.3.4", Some(1)),
    ] {
        let authority = Authority::parse(Bytes::from(text)).unwrap();
        assert_eq!((authority.host(), authority.port(), authority.as_str()), (host, port, text));
    }
    assert_eq!(Authority::parse(Bytes::from("a".repeat(261))), Err(Reason::Host));
}

proptest! {
    /// The HTTP/2 stack takes every target that this one takes.
    #[test]
    fn targets_fit_http2(text in "/[ -~]{0,20}") {
        if let Ok(target) = Target::origin(Bytes::from(text)) {
            let uri = target.to_path_and_query().unwrap();
            prop_assert_eq!(uri.as_str().replace("%22", "\""), target.as_str().replace("%22", "\""));
        }
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let bytes = Bytes::from(bytes);
        let _ = Authority::parse(bytes.clone());
        for method in [Method::GET, Method::CONNECT, Method::OPTIONS] {
            if let Ok((target, _)) = Target::parse(&method, bytes.clone()) {
                let _ = (target.path(), target.query(), target.as_str());
            }
        }
    }
}
