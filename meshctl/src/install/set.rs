//! `--set PATH=VALUE`, as Helm and istioctl read it.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

/// A step of a path.
#[derive(Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Writes what `assignment` says into `values`.
///
/// A path is names with dots between them (`\.` is a dot in a name) and `[0]` for items of lists. Whole numbers, `true`,
/// `false` and `null` are what they look like, everything else is text.
pub(super) fn assign(values: &mut Value, assignment: &str) -> Result<()> {
    let (path, text) =
        assignment.split_once('=').with_context(|| format!("{assignment:?} is not PATH=VALUE"))?;
    let value = match text {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        text => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
    };
    let mut place = values;
    for step in steps(path)? {
        place = enter(place, step);
    }
    *place = value;
    Ok(())
}

/// The first name of an assignment's path.
pub(super) fn first(assignment: &str) -> &str {
    assignment.split(['.', '=', '[']).next().unwrap_or_default()
}

fn enter(place: &mut Value, step: Step) -> &mut Value {
    match step {
        Step::Key(key) => {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            &mut place[key]
        }
        Step::Index(index) => {
            if !place.is_array() {
                *place = Value::Array(Vec::new());
            }
            if let Value::Array(items) = &mut *place
                && items.len() <= index
            {
                items.resize(index + 1, Value::Null);
            }
            &mut place[index]
        }
    }
}

fn steps(path: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for name in names(path) {
        let (key, rest) = name.split_once('[').unwrap_or((&name, ""));
        if key.is_empty() {
            bail!("{path:?} is no path: a name between two dots is missing");
        }
        steps.push(Step::Key(key.to_owned()));
        for index in rest.split('[').filter(|it| !it.is_empty()) {
            let number = index.strip_suffix(']').and_then(|it| it.parse().ok());
            let number = number.filter(|number| *number <= MOST_ITEMS);
            steps.push(Step::Index(
                number.with_context(|| format!("{path:?}: [{index} is no item of a list"))?,
            ));
        }
    }
    Ok(steps)
}

fn names(path: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '.' => names.push(String::new()),
            '\\' => names.last_mut().expect("there is one").extend(letters.next()),
            letter => names.last_mut().expect("there is one").push(letter),
        }
    }
    names
}

/// An index is memory: nobody lists more by hand.
const MOST_ITEMS: usize = 1000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_into_maps_and_lists() {
        let mut values = json!({"a": {"b": 1, "kept": true}, "list": [{"x": 1}]});
        for assignment in [
            "a.b=text",
            "a.c.d=7",
            "list[0].y=false",
            "list[2].z=null",
            r"labels.app\.kubernetes\.io/name=x=y",
            "version=1.2",
        ] {
            assign(&mut values, assignment).unwrap();
        }
        let wanted = json!({
            "a": {"b": "text", "kept": true, "c": {"d": 7}},
            "list": [{"x": 1, "y": false}, null, {"z": null}],
            "labels": {"app.kubernetes.io/name": "x=y"},
            "version": "1.2",
        });
        assert_eq!(values, wanted);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for wrong in ["a", "a..b=1", ".a=1", "=1", "a[x]=1", "a[1=1", "a[99999999999]=1"] {
            let mut values = json!({});
            assert!(assign(&mut values, wrong).is_err(), "{wrong}");
            assert_eq!(values, json!({}));
        }
    }
}
