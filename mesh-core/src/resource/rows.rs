//! Tables of documents and what parsing has to say about them.

use super::{Level, Parsed, SourceFile, parse};

pub(super) fn yaml(text: &str) -> Parsed {
    parse(&SourceFile { name: "f.yaml", text })
}

/// Each row: what `document` makes a document of, the level and field of a finding that there must be, and a part of its
/// reason. Errors refuse the object, nothing else does.
pub(super) fn assert_rows(document: impl Fn(&str) -> String, rows: &[(&str, Level, &str, &str)]) {
    for (spec, level, field, reason) in rows {
        let parsed = yaml(&document(spec));
        let found = parsed
            .findings
            .iter()
            .any(|it| it.level == *level && it.field == *field && it.reason.contains(reason));
        assert!(found, "{spec}\nwants {level} {field}: {reason}\nhas {:#?}", parsed.findings);
        assert_eq!(parsed.objects.is_empty(), *level == Level::Error, "{spec}: {:#?}", parsed.findings);
    }
}
