//! Paths, row by row, in all forms; and what holds for all of them.

use proptest::prelude::*;

use super::*;

use EscapedSlashes::{Keep, Refuse};
use Normalization::{Base, DecodeAndMergeSlashes, MergeSlashes};

fn show(path: &str, normalization: Normalization, slashes: EscapedSlashes) -> String {
    match normalize(path, normalization, slashes) {
        Ok(normal) => normal.into_owned(),
        Err(error) => error.as_str().to_owned(),
    }
}

/// A path, and what `BASE`, `MERGE_SLASHES` and `DECODE_AND_MERGE_SLASHES` make of it; escaped slashes stay.
const ROWS: &[(&str, &str, &str, &str)] = &[
    ("/", "/", "/", "/"),
    ("/a/b.c/d", "/a/b.c/d", "/a/b.c/d", "/a/b.c/d"),
    ("/a/../b", "/b", "/b", "/b"),
    ("/a/./b", "/a/b", "/a/b", "/a/b"),
    ("/a/b/..", "/a/", "/a/", "/a/"),
    ("/a/b/.", "/a/b/", "/a/b/", "/a/b/"),
    ("/..", "/", "/", "/"),
    ("/.", "/", "/", "/"),
    ("/../../a", "/a", "/a", "/a"),
    ("/a/../../b", "/b", "/b", "/b"),
    ("/...", "/...", "/...", "/..."),
    ("/.a/..b", "/.a/..b", "/.a/..b", "/.a/..b"),
    ("/a/..;x/b", "/a/..;x/b", "/a/..;x/b", "/a/..;x/b"),
    ("//", "//", "/", "/"),
    ("/a//b///c/", "/a//b///c/", "/a/b/c/", "/a/b/c/"),
    ("//admin", "//admin", "/admin", "/admin"),
    ("/a//../b", "/a/b", "/a/b", "/a/b"),
    ("/\\admin", "//admin", "/admin", "/admin"),
    ("/a\\b", "/a/b", "/a/b", "/a/b"),
    ("/a\\..\\b", "/b", "/b", "/b"),
    ("/%61dmin", "/admin", "/admin", "/admin"),
    ("/%2e%2E/a", "/a", "/a", "/a"),
    ("/a/.%2e/b", "/b", "/b", "/b"),
    ("/%7Ea%2D%5F", "/~a-_", "/~a-_", "/~a-_"),
    ("/a%2fb", "/a%2fb", "/a%2fb", "/a/b"),
    ("/a%2F..%2Fb", "/a%2F..%2Fb", "/a%2F..%2Fb", "/b"),
    ("/a%5cb", "/a%5cb", "/a%5cb", "/a/b"),
    ("/a%5C%2f/b", "/a%5C%2f/b", "/a%5C%2f/b", "/a/b"),
    ("/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb"),
    ("/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a"),
    ("/a%20b", "/a%20b", "/a%20b", "/a%20b"),
    ("/%c3%A9", "/%c3%A9", "/%c3%A9", "/%c3%A9"),
    ("/a%3fb%23c", "/a%3fb%23c", "/a%3fb%23c", "/a%3fb%23c"),
    ("/a;b=c/d", "/a;b=c/d", "/a;b=c/d", "/a;b=c/d"),
    ("/%00", "path_control", "path_control", "path_control"),
    ("/a%00.html", "path_control", "path_control", "path_control"),
    ("/a%0d%0ab", "path_control", "path_control", "path_control"),
    ("/a%7f", "path_control", "path_control", "path_control"),
    ("/a%", "path_escape", "path_escape", "path_escape"),
    ("/a%2", "path_escape", "path_escape", "path_escape"),
    ("/a%zz", "path_escape", "path_escape", "path_escape"),
    ("/%2%66", "path_escape", "path_escape", "path_escape"),
    ("/%u002f", "path_escape", "path_escape", "path_escape"),
    ("/%+1", "path_escape", "path_escape", "path_escape"),
    ("", "path_not_absolute", "path_not_absolute", "path_not_absolute"),
    ("*", "path_not_absolute", "path_not_absolute", "path_not_absolute"),
    ("a/b", "path_not_absolute", "path_not_absolute", "path_not_absolute"),
    ("\\a", "path_not_absolute", "path_not_absolute", "path_not_absolute"),
    ("/a b", "path_character", "path_character", "path_character"),
    ("/a\0", "path_character", "path_character", "path_character"),
    ("/\u{e9}", "path_character", "path_character", "path_character"),
    ("/a?b", "path_character", "path_character", "path_character"),
    ("/a#b", "path_character", "path_character", "path_character"),
];

#[test]
fn rows() {
    for (path, base, merged, decoded) in ROWS {
        assert_eq!(show(path, Base, Keep), *base, "BASE {path:?}");
        assert_eq!(show(path, MergeSlashes, Keep), *merged, "MERGE_SLASHES {path:?}");
        assert_eq!(show(path, DecodeAndMergeSlashes, Keep), *decoded, "DECODE_AND_MERGE_SLASHES {path:?}");
        assert_eq!(show(path, Normalization::None, Refuse), *path, "NONE {path:?}");
    }
}

#[test]
fn escaped_slashes_are_refused_unless_somebody_wants_them() {
    for path in ["/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/..%2fadmin"] {
        assert_eq!(show(path, Normalization::default(), EscapedSlashes::default()), "path_escaped_slash");
        assert_eq!(show(path, MergeSlashes, Refuse), "path_escaped_slash");
        assert!(normalize(path, DecodeAndMergeSlashes, Refuse).is_ok());
    }
}

#[test]
fn what_is_normal_is_borrowed() {
    for path in ["/", "/a/b", "/a.b/c..", "/a%20b", "/.well-known/x", "/a/...", "/a%2fb"] {
        assert!(matches!(normalize(path, Base, Keep), Ok(Cow::Borrowed(_))), "{path}");
    }
    assert!(matches!(normalize("/a//b", Base, Keep), Ok(Cow::Borrowed(_))));
    assert!(matches!(normalize("/a//b", MergeSlashes, Keep), Ok(Cow::Owned(_))));
}

fn paths() -> impl Strategy<Value = String> {
    let parts =
        ["/", "//", ".", "..", "a", "%2e", "%2F", "%5c", "\\", "%61", "%25", "%", "2", "e", "f", ";", "%00"];
    proptest::collection::vec(proptest::sample::select(parts.to_vec()), 0..12)
        .prop_map(|parts| format!("/{}", parts.concat()))
}

proptest! {
    #[test]
    fn the_normal_form_is_normal(path in paths(), keep in any::<bool>()) {
        let slashes = if keep { Keep } else { Refuse };
        for mode in [Base, MergeSlashes, DecodeAndMergeSlashes] {
            let Ok(once) = normalize(&path, mode, slashes) else { continue };
            let twice = normalize(&once, mode, slashes);
            prop_assert!(matches!(twice, Ok(Cow::Borrowed(_))), "{once}");
            prop_assert_eq!(&*twice.unwrap(), &*once);
            prop_assert!(once.starts_with('/') && !once.contains('\\'));
            prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert!(mode == Base || !once.contains("//"));
            prop_assert!(mode != DecodeAndMergeSlashes || !once.to_ascii_lowercase().contains("%2f"));
        }
    }

    #[test]
    fn random_text_does_not_panic(path in "/?\\PC{0,20}") {
        let _ = normalize(&path, DecodeAndMergeSlashes, Keep);
    }
}
