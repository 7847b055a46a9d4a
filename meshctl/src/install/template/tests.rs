use serde_json::json;

use super::*;

fn rendered(text: &str) -> String {
    let root = json!({"Values": {
        "name": "n\"1", "on": true, "off": false, "count": 3, "large": 1_000_000, "none": {},
        "map": {"b": "2", "a": "1"}, "list": ["x", "y"], "deep": {"list": [{"k": 1}]},
    }});
    render(text, &root).unwrap_or_else(|error| format!("error: {error:#}"))
}

/// The chart itself, rendered by Go's text/template with Helm's functions, came to the same objects for every profile.
#[test]
fn it_comes_to_what_go_makes_of_it() {
    for (text, wanted) in [
        ("a{{ .Values.count }}b", "a3b"),
        ("a \n{{- .Values.count -}}\n  b", "a3b"),
        ("{{ .Values.name | quote }}", r#""n\"1""#),
        ("{{- if .Values.on }}\nyes\n{{- else }}\nno\n{{- end }}", "\nyes"),
        ("{{ if not .Values.on }}yes{{ else }}no{{ end }}", "no"),
        ("{{ if .Values.none }}yes{{ end }}.", "."),
        ("{{ with .Values.map }}{{ .a }}{{ $.Values.count }}{{ end }}", "13"),
        ("{{ with .Values.none }}x{{ end }}.", "."),
        ("{{ range $key, $value := .Values.map }}{{ $key }}={{ $value }};{{ end }}", "a=1;b=2;"),
        ("{{ range $item := .Values.list }}{{ print \"<\" $item \">\" }}{{ end }}", "<x><y>"),
        ("{{ range .Values.list }}{{ . }}{{ end }}", "xy"),
        ("a:\n  {{- toYaml .Values.deep | nindent 2 }}", "a:\n  list:\n  - k: 1"),
    ] {
        assert_eq!(rendered(text), wanted, "{text}");
    }
}

#[test]
fn what_go_might_print_otherwise_is_refused() {
    for text in [
        "{{ .Values.missing }}",
        "{{ .Values.large }}",
        "{{ .Values.map }}",
        "{{ print .Values.count 1 }}",
        "{{ include \"x\" . }}",
        "{{ if (not .Values.on) }}{{ end }}",
        "{{ if .Values.on }}",
        "{{ end }}",
        "{{ $gone }}",
        "{{ .Values.name",
        "{{ .Values.list | .Values.name }}",
        "{{/* a comment */}}",
    ] {
        assert!(rendered(text).starts_with("error: "), "{text}: {}", rendered(text));
    }
}
