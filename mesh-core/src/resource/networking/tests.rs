//! Whole documents of these kinds, through the parser.

use crate::resource::{Level, Object, Parsed, SourceFile, parse};

mod hostile;
mod reject;
mod samples;
mod types;
mod warn;

fn yaml(text: &str) -> Parsed {
    parse(&SourceFile { name: "f.yaml", text })
}

/// What is said beside that nothing acts on the kind yet.
fn lines(parsed: &Parsed) -> Vec<String> {
    let lines = parsed.findings.iter().map(ToString::to_string);
    lines.filter(|line| !line.contains("is not enforced yet")).collect()
}

/// A document of `kind` in namespace `book`.
fn document(kind: &str, spec: &str) -> String {
    let spec = spec.replace('\n', "\n  ");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: book}}\nspec:\n  {spec}\n"
    )
}

/// The one object of a document about which there is nothing to say.
fn object(kind: &str, spec: &str) -> Object {
    let text = document(kind, spec);
    let mut parsed = yaml(&text);
    assert_eq!(lines(&parsed), Vec::<String>::new(), "for:\n{text}");
    assert_eq!(parsed.objects.len(), 1, "for:\n{text}");
    parsed.objects.remove(0)
}

/// Every row: a spec is refused for exactly one reason, at this field, which says this.
fn assert_rejected(kind: &str, rows: &[(&str, &str, &str)]) {
    for (spec, field, reason) in rows {
        let text = document(kind, spec);
        let parsed = yaml(&text);
        let errors: Vec<_> = parsed.findings.iter().filter(|it| it.level == Level::Error).collect();
        let [error] = errors.as_slice() else { panic!("{:#?}\nfor:\n{text}", lines(&parsed)) };
        let shown = error.to_string();
        assert_eq!(error.field, *field, "{shown}\nfor:\n{text}");
        assert!(shown.contains(reason), "{shown}\nfor:\n{text}");
        assert!(parsed.objects.is_empty() && parsed.rejected.len() == 1, "for:\n{text}");
    }
}

/// Every row: a spec is accepted with exactly one warning, at this field, which says this.
fn assert_warned(kind: &str, rows: &[(&str, &str, &str)]) {
    for (spec, field, reason) in rows {
        let text = document(kind, spec);
        let parsed = yaml(&text);
        let lines = lines(&parsed);
        let [line] = lines.as_slice() else { panic!("{lines:#?}\nfor:\n{text}") };
        let start = format!("f.yaml:1 Warning {field}: ");
        assert!(line.starts_with(&start) && line.contains(reason), "{line}\nfor:\n{text}");
        assert_eq!(parsed.objects.len(), 1, "for:\n{text}");
    }
}
