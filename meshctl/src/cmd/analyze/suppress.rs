//! What users do not want to hear: a code, for some objects.

use std::str::FromStr;

use mesh_core::analyze::Code;
use mesh_core::resource::ObjectKey;

/// `CODE=KIND NAME[.NAMESPACE]`, where `*` stands for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suppression {
    code: String,
    object: String,
}

impl Suppression {
    /// As written.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// Whether there is such a code.
    pub(super) fn is_known(&self) -> bool {
        self.code.parse::<Code>().is_ok()
    }

    /// Whether a message about an object is not wanted. The object's name is matched as `istioctl` spells it
    /// (`name.namespace`) and as messages do (`namespace/name`).
    pub(super) fn covers(&self, code: Code, key: &ObjectKey) -> bool {
        if self.code.parse() != Ok(code) {
            return false;
        }
        let ObjectKey { kind, namespace, name } = key;
        let ours = key.to_string();
        let istios = if namespace.is_empty() { ours.clone() } else { format!("{kind} {name}.{namespace}") };
        matches(&self.object, &ours) || matches(&self.object, &istios)
    }
}

impl FromStr for Suppression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((code, object)) if !code.is_empty() && !object.is_empty() => {
                Ok(Self { code: code.to_owned(), object: object.to_owned() })
            }
            _ => Err("write CODE=KIND NAME.NAMESPACE, for example IST0102=Namespace default".to_owned()),
        }
    }
}

/// Whether `text` is `pattern`, in which a star stands for any text. Each piece is looked for once, from the left.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("Service a.b", "Service a.b", true),
            ("Service a.b", "Service a.bc", false),
            ("Service *.b", "Service a.b", true),
            ("Service *.b", "Service a.c", false),
            ("*", "", true),
            ("*", "anything", true),
            ("* a*c", "Pod abc", true),
            ("* a*c", "Pod ac", true),
            ("* a*c", "Pod a", false),
            ("a*a", "a", false),
            ("a**b", "ab", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn an_object_is_named_as_istioctl_does_or_as_messages_do() {
        let key = ObjectKey { kind: "Service", namespace: "prod".into(), name: "web".into() };
        let covers = |text: &str| {
            let suppression: Suppression = text.parse().expect("it is well-formed");
            suppression.covers(Code::PortNameIsNotUnderNamingConvention, &key)
        };
        assert!(covers("IST0118=Service web.prod"));
        assert!(covers("IST0118=Service prod/web"));
        assert!(covers("IST0118=*"));
        assert!(!covers("IST0118=Service web.dev"));
        assert!(!covers("IST0117=Service web.prod"));
        assert!("IST0118".parse::<Suppression>().is_err());
        assert!("=x".parse::<Suppression>().is_err());
    }
}
