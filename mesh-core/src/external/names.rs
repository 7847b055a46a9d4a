//! Names of headers, as lists of an authorizer have them.

use http::HeaderName;

/// Names: whole ones, those that begin with something, and those that end with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(Vec<Name>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
}

impl Names {
    /// Of `name`, `prefix*` and `*suffix`, in whatever case.
    pub(super) fn of<'t>(texts: impl IntoIterator<Item = &'t String>) -> Self {
        let name = |text: &String| {
            let text = text.to_ascii_lowercase();
            match (text.strip_prefix('*'), text.strip_suffix('*')) {
                (Some(rest), _) => Name::Suffix(rest.into()),
                (None, Some(rest)) => Name::Prefix(rest.into()),
                (None, None) => Name::Exact(text.into()),
            }
        };
        Self(texts.into_iter().filter(|text| !text.is_empty()).map(name).collect())
    }

    /// Whether one of them is this.
    pub fn matches(&self, header: &HeaderName) -> bool {
        let header = header.as_str();
        self.0.iter().any(|name| match name {
            Name::Exact(name) => header == &**name,
            Name::Prefix(start) => header.starts_with(&**start),
            Name::Suffix(end) => header.ends_with(&**end),
        })
    }
}
