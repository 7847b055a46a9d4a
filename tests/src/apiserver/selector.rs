//! Label and field selectors.

use serde_json::Value;

use super::kinds::Resource;
use super::status::Refusal;

/// Which objects of a resource are meant.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Debug, Clone)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Selector {
    /// Reads the query parameters of a list or a watch.
    pub(super) fn parse(labels: &str, fields: &str, resource: &Resource) -> Result<Self, Refusal> {
        let labels = split(labels).into_iter().map(label).collect::<Result<_, _>>()?;
        let fields = split(fields).into_iter().map(|part| field(part, resource)).collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    /// The selector of a webhook's or a role's `labelSelector` object.
    pub(super) fn of_object(selector: &Value) -> Self {
        let mut labels = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            labels.push(Requirement { key: key.clone(), test: Test::In(vec![value]) });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            let test = match expression["operator"].as_str() {
                Some("In") => Test::In(values),
                Some("NotIn") => Test::NotIn(values),
                Some("DoesNotExist") => Test::Absent,
                _ => Test::Exists,
            };
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            labels.push(Requirement { key, test });
        }
        Self { labels, fields: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let has_label = |it: &Requirement| it.test.holds(labels[&it.key].as_str());
        // A field that is not there counts as empty.
        let has_field = |it: &Requirement| it.test.holds(Some(&text_at(object, &it.key)));
        self.labels.iter().all(has_label) && self.fields.iter().all(has_field)
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let among = |values: &[String]| value.is_some_and(|value| values.iter().any(|it| it == value));
        match self {
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::In(values) => among(values),
            Self::NotIn(values) => !among(values),
        }
    }
}

fn text_at(object: &Value, path: &str) -> String {
    let value = object.pointer(&format!("/{}", path.replace('.', "/")));
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Parts at commas, but for those in parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let parts = text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn label(part: &str) -> Result<Requirement, Refusal> {
    let made = |key: &str, test| Ok(Requirement { key: key.trim().to_owned(), test });
    let one = |value: &str| vec![value.trim().to_owned()];
    let many = |list: &str| {
        let list = list.trim().strip_prefix('(').and_then(|list| list.strip_suffix(')'));
        let values = list.map(|list| list.split(',').map(|value| value.trim().to_owned()).collect());
        values.ok_or_else(|| Refusal::bad_request(format!("unable to parse requirement: {part}")))
    };
    if let Some((key, value)) = part.split_once("!=") {
        return made(key, Test::NotIn(one(value)));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return made(key, Test::In(one(value)));
    }
    if let Some((key, list)) = part.split_once(" notin ") {
        return made(key, Test::NotIn(many(list)?));
    }
    if let Some((key, list)) = part.split_once(" in ") {
        return made(key, Test::In(many(list)?));
    }
    match part.strip_prefix('!') {
        Some(key) => made(key, Test::Absent),
        None if part.contains([' ', '(', ')']) => {
            Err(Refusal::bad_request(format!("unable to parse requirement: {part}")))
        }
        None => made(part, Test::Exists),
    }
}

fn field(part: &str, resource: &Resource) -> Result<Requirement, Refusal> {
    let differs = part.split_once("!=");
    let pair = differs.or_else(|| part.split_once("==")).or_else(|| part.split_once('='));
    let (key, value) = pair.ok_or_else(|| Refusal::bad_request(format!("invalid selector: '{part}'")))?;
    let known = ["metadata.name", "metadata.namespace"].contains(&key)
        || resource.fields.iter().any(|field| field == key);
    if !known {
        return Err(Refusal::bad_request(format!(
            "Unable to find \"{}\" that match label selector \"\", field selector \"{part}\": field label not \
             supported: {key}",
            resource.full_name()
        )));
    }
    let values = vec![value.to_owned()];
    Ok(Requirement {
        key: key.to_owned(),
        test: if differs.is_none() { Test::In(values) } else { Test::NotIn(values) },
    })
}
