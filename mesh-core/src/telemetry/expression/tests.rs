use super::*;

struct Some_;

impl Attributes for Some_ {
    fn get(&self, path: &[Box<str>]) -> Option<Value<'_>> {
        let path: Vec<&str> = path.iter().map(|part| &**part).collect();
        Some(match path[..] {
            ["response", "code"] => Value::Number(503),
            ["request", "host"] => Value::Text("web.example".into()),
            ["request", "headers", "x-a"] => Value::Text("b c".into()),
            ["connection", "mtls"] => Value::Bool(true),
            _ => return None,
        })
    }
}

fn of(text: &str) -> Option<String> {
    Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).text(&Some_)
}

#[test]
fn expressions_come_to_values() {
    for (text, expected) in [
        ("response.code >= 400", Some("true")),
        ("response.code >= 400 && response.code < 500", Some("false")),
        ("response.code != 503 || request.host == 'web.example'", Some("true")),
        ("request.headers['x-a']", Some("b c")),
        ("has(request.headers['x-b']) ? request.headers['x-b'] : \"none\"", Some("none")),
        ("has(request.host) && !has(request.nothing)", Some("true")),
        ("request.host.startsWith('web') && request.host.endsWith('.example')", Some("true")),
        ("request.host.contains('.ex') && !request.host.matches('^b')", Some("true")),
        ("response.code in [500, 503]", Some("true")),
        ("!(response.code in [500, 503])", Some("false")),
        ("request.host + ':' + string(response.code - 3)", Some("web.example:500")),
        ("size(request.host) == 11 && request.host.size() == 11", Some("true")),
        ("int('-7') + 7", Some("0")),
        ("-response.code < 0 == true", Some("true")),
        ("connection.mtls", Some("true")),
        ("'it''s'", None),
        ("1 + 2 * 3", None),
    ] {
        let value = Expression::parse(text).ok().and_then(|it| it.text(&Some_));
        assert_eq!(value.as_deref(), expected, "{text}");
    }
}

#[test]
fn what_has_no_value_does_not_hold_but_need_not_be_asked() {
    for (text, expected) in [
        ("request.nothing == 'a'", None),
        ("request.nothing == 'a' || response.code == 503", Some("true")),
        ("request.nothing == 'a' && response.code == 503", None),
        ("request.nothing == 'a' && response.code == 500", Some("false")),
        ("request.host < 5", None),
        ("request.host == 5", Some("false")),
        ("9223372036854775807 + 1", None),
        ("!request.host", None),
    ] {
        assert_eq!(of(text).as_deref(), expected, "{text}");
        assert_eq!(Expression::parse(text).unwrap().holds(&Some_), expected == Some("true"), "{text}");
    }
}

#[test]
fn what_is_no_expression_is_said() {
    let deep = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let chained = format!("1{}", " + 1".repeat(1_000));
    for (text, reason) in [
        ("", "something is missing, at character 0"),
        ("a ==", "something is missing, at character 4"),
        ("a b", "this is one word too many, at character 2"),
        ("'a", "a text does not end, at character 0"),
        ("a.matches('(')", "this is no regular expression, at character 13"),
        ("f(1)", "there is no function f, at character 4"),
        ("a.b(1)", "there is no function b, at character 5"),
        ("a # b", "'#' begins nothing, at character 2"),
        ("'a'.b", "this has no parts, at character 5"),
        ("99999999999999999999", "99999999999999999999 is too large, at character 0"),
        ("(1", "there should be a ), at character 2"),
        (&deep, "it is longer than 4096 bytes, at character 0"),
        (&deep[9_900..10_100], "it is too deep, at character 24"),
        (&chained[..4_000], "it is too long, at character 260"),
    ] {
        let error = Expression::parse(text).unwrap_err();
        assert_eq!(error.to_string(), reason, "{}", crate::trace::cut(text, 80));
    }
}
