//! Paths that rules name: whole, by one end, or as a template.

use serde::{Serialize, Serializer};

use super::matcher::StringMatch;

/// A path, without a query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// The path as text.
    Text(StringMatch),
    /// A template.
    Template(Template),
}

/// A path with `{*}`, which is one segment of it and never empty, and `{**}`, which is any text, also none or one with slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    /// The segments before `{**}`; `None` is `{*}`.
    segments: Box<[Option<Box<str>>]>,
    /// What comes after `{**}`, if there is one.
    tail: Option<Box<str>>,
}

impl PathMatch {
    /// A text is a template if it has one of the two signs.
    ///
    /// # Errors
    /// What is wrong with a template: Envoy takes none with other stars or braces, with text beside a sign in one segment,
    /// or with a sign behind `{**}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains(ONE) || text.contains(ANY) {
            return Template::parse(text).map(Self::Template);
        }
        Ok(Self::Text(StringMatch::parse(text)))
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(path),
            Self::Template(template) => template.matches(path),
        }
    }
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("\"{text}\" is no path template: {why}"));
        let Some(mut rest) = text.strip_prefix('/') else {
            return wrong("it does not begin with a slash");
        };
        let mut segments = Vec::new();
        loop {
            let (segment, after) = match rest.split_once('/') {
                Some((segment, after)) => (segment, Some(after)),
                None => (rest, None),
            };
            match segment {
                ANY => {
                    let tail = rest.strip_prefix(ANY).unwrap_or_default();
                    if tail.contains(SIGNS) {
                        return wrong("{**} is the last of its signs");
                    }
                    return Ok(Self { segments: segments.into(), tail: Some(tail.into()) });
                }
                ONE => segments.push(None),
                plain if plain.contains(SIGNS) => {
                    return wrong(
                        "stars and braces are only in {*} and {**}, each of which is a whole segment",
                    );
                }
                plain => segments.push(Some(plain.into())),
            }
            match after {
                Some(after) => rest = after,
                None => return Ok(Self { segments: segments.into(), tail: None }),
            }
        }
    }

    /// The text of the first segment, if it is one.
    pub(super) fn first_segment(&self) -> Option<&str> {
        self.segments.first()?.as_deref()
    }

    fn matches(&self, path: &str) -> bool {
        let mut rest = path;
        for segment in &self.segments {
            let Some(after) = rest.strip_prefix('/') else { return false };
            let (own, after) = after.split_at(after.find('/').unwrap_or(after.len()));
            let fits = segment.as_deref().map_or(!own.is_empty(), |plain| plain == own);
            if !fits {
                return false;
            }
            rest = after;
        }
        match &self.tail {
            None => rest.is_empty(),
            Some(tail) => rest.strip_prefix('/').is_some_and(|any| any.ends_with(&**tail)),
        }
    }
}

/// In the form in which users write it.
impl Serialize for PathMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let template = match self {
            Self::Text(text) => return text.serialize(serializer),
            Self::Template(template) => template,
        };
        let mut text = String::new();
        for segment in &template.segments {
            text.push('/');
            text.push_str(segment.as_deref().unwrap_or(ONE));
        }
        if let Some(tail) = &template.tail {
            text.extend(["/", ANY, tail]);
        }
        serializer.serialize_str(&text)
    }
}

const ONE: &str = "{*}";
const ANY: &str = "{**}";
/// What has no place in a template outside of its signs.
const SIGNS: [char; 3] = ['*', '{', '}'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_as_envoys_do() {
        for (template, matching, others) in [
            ("/foo/{*}", &["/foo/bar", "/foo/x.y"][..], &["/foo/bar/baz", "/foo/", "/foo", "/foo/bar/"][..]),
            ("/foo/{**}", &["/foo/", "/foo/bar", "/foo/bar/baz", "/foo//"], &["/foo", "/foobar", "/x/foo/"]),
            ("/foo/{**}/", &["/foo//", "/foo/bar/", "/foo/a/b/"], &["/foo/bar", "/foo/", "/foo"]),
            (
                "/foo/{*}/bar/{**}",
                &["/foo/buzz/bar/", "/foo/buzz/bar/baz"],
                &["/foo/bar/baz", "/foo/a/b/bar/c"],
            ),
            ("/{*}/{*}", &["/a/b"], &["/a", "/a/", "//b", "/a/b/c"]),
            ("/{**}", &["/", "/a", "/a/b"], &["", "*"]),
            (
                "/v1/{**}/edit",
                &["/v1/a/edit", "/v1/a/b/edit", "/v1//edit"],
                &["/v1/edit", "/v1/a/edit/x", "/v1/aedit"],
            ),
            ("/{*}", &["/a"], &["/", "", "a"]),
        ] {
            let parsed = PathMatch::parse(template).unwrap();
            assert_eq!(serde_json::to_value(&parsed).unwrap(), template);
            matching.iter().for_each(|path| assert!(parsed.matches(path), "{template} {path}"));
            others.iter().for_each(|path| assert!(!parsed.matches(path), "{template} {path}"));
        }
    }

    #[test]
    fn what_envoy_refuses_is_no_template() {
        for bad in [
            "/*/baz/{*}",
            "/**/baz/{*}",
            "/{**}/foo/{*}",
            "/foo/{*}.txt",
            "/{**}/{**}",
            "foo/{*}",
            "/{*",
            "{*}",
            "/a{**}",
            "/{x}/{*}",
            "/{*}*",
            "/{**}*",
        ] {
            let parsed = PathMatch::parse(bad);
            assert!(
                parsed.is_err() || matches!(parsed, Ok(PathMatch::Text(_))) && bad == "/{*",
                "{bad}: {parsed:?}"
            );
        }
        assert!(matches!(PathMatch::parse("/a/*"), Ok(PathMatch::Text(StringMatch::Prefix(_)))));
    }
}
