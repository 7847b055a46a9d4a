//! From JSON Schema as it is generated to the structural schemas of Kubernetes, which know no references, no null, no
//! constants, and no defaults that we would want an API server to write into users' objects.

use serde_json::{Map, Value, json};

/// `schema` in the form that Kubernetes takes.
pub(super) fn rewrite(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        // `true` is what a type without a schema has.
        return json!({"x-kubernetes-preserve-unknown-fields": true});
    };
    for key in DROPPED {
        schema.remove(*key);
    }
    without_null(&mut schema);
    enumeration(&mut schema);
    number(&mut schema);
    if let Some(Value::Object(patterns)) = schema.remove("patternProperties") {
        // Keys that are numbers: Kubernetes looks at values only, rules at keys.
        schema.insert(
            "additionalProperties".into(),
            patterns.into_iter().map(|(_, value)| value).next().into(),
        );
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = plain(text);
    }
    for (key, value) in &mut schema {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(|property| *property = rewrite(property.take()));
            }
            ("items" | "additionalProperties", value) => *value = rewrite(value.take()),
            _ => {}
        }
    }
    Value::Object(schema)
}

/// An absent field is the only way to say nothing: `["string", "null"]` is `string`.
fn without_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [kind] = types.as_slice() {
            let kind = kind.clone();
            schema.insert("type".into(), kind);
        }
    }
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    let Some(Value::Array(choices)) = schema.remove("anyOf") else { return };
    for choice in choices.into_iter().filter(|choice| *choice != json!({"type": "null"})) {
        let Value::Object(mut choice) = choice else { continue };
        // The field's own words say more than its type's.
        if schema.contains_key("description") {
            choice.remove("description");
        }
        schema.append(&mut choice);
    }
}

/// Words, each with a description of its own, as one list of words.
fn enumeration(schema: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = schema.get("oneOf") else { return };
    let words: Option<Vec<_>> = choices.iter().map(|choice| choice.get("const").cloned()).collect();
    let Some(words) = words else { return };
    let about = choices.iter().filter_map(|choice| {
        let word = choice.get("const")?.as_str()?;
        Some(format!("{word}: {}", choice.get("description")?.as_str()?))
    });
    let about = about.collect::<Vec<_>>().join("\n");
    let own = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = format!("{own}\n\n{about}").trim().to_owned();
    schema.remove("oneOf");
    schema.insert("type".into(), json!("string"));
    schema.insert("enum".into(), Value::Array(words));
    schema.insert("description".into(), Value::String(description));
}

/// Kubernetes' formats have no unsigned numbers.
fn number(schema: &mut Map<String, Value>) {
    let Some(format) = schema.get("format").and_then(Value::as_str) else { return };
    let unsigned = match format {
        "uint8" => Some(255),
        "uint16" => Some(65_535),
        "uint32" => Some(u32::MAX),
        "uint64" => None,
        _ => return,
    };
    // Any maximum of a number of 64 bits is as far away as none.
    if let Some(most) = unsigned {
        schema.entry("maximum").or_insert_with(|| json!(most));
    }
    let most = schema.get("maximum").and_then(Value::as_u64);
    let format = if most.is_some_and(|most| i32::try_from(most).is_ok()) { "int32" } else { "int64" };
    schema.insert("format".into(), json!(format));
}

/// A doc comment for readers of `kubectl explain`: one paragraph is one line, links are their text.
fn plain(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`");
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let is_list =
            paragraph.lines().all(|line| line.split_once(": ").is_some_and(|(word, _)| is_word(word)));
        if is_list {
            return paragraph.lines().map(sentences).collect::<Vec<_>>().join("\n");
        }
        sentences(&paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" "))
    });
    paragraphs.filter(|paragraph| !paragraph.is_empty()).collect::<Vec<_>>().join("\n\n")
}

fn sentences(line: &str) -> String {
    line.split_inclusive(". ").filter_map(for_users).collect::<String>().trim().to_owned()
}

/// A sentence without what only concerns readers of the code: methods and constants.
fn for_users(sentence: &str) -> Option<String> {
    let about_code = sentence.starts_with("See `") || ABOUT_CODE.iter().any(|words| sentence.contains(words));
    if about_code {
        return None;
    }
    let mut text = match (sentence.split_once(", see `"), sentence.ends_with(". ")) {
        (Some((start, _)), true) => format!("{start}. "),
        (Some((start, _)), false) => format!("{start}."),
        (None, _) => sentence.to_owned(),
    };
    while let Some((before, after)) = text.split_once("::") {
        let (start, _) = before.rsplit_once('`')?;
        let (item, end) = after.split_once('`')?;
        text = format!("{start}`{}`{end}", field_or_word(item));
    }
    Some(text)
}

/// An item of Rust as users write it: a field in camel case, a variant as a word.
fn field_or_word(item: &str) -> String {
    let is_variant = item.starts_with(|c: char| c.is_ascii_uppercase());
    let mut text = String::new();
    let mut upper = false;
    for c in item.chars() {
        if is_variant && c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        if c == '_' {
            upper = true;
        } else {
            text.push(if upper || is_variant { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    text
}

/// Whether it is a word of an enumeration.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// What Kubernetes does not take, or would act on.
const DROPPED: &[&str] = &["$schema", "title", "default", "examples", "nullable"];
/// What sentences about methods say.
const ABOUT_CODE: &[&str] = &[" has this and", " has all ways"];
