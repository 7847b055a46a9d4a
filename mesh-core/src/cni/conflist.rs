//! A node's network configuration with our plugin in its chain, and without it again. What others have written there keeps
//! its meaning.

use serde_json::{Map, Value};

use super::PLUGIN;

/// What comes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It is as it should be.
    Unchanged,
    /// This is to stand there instead.
    Changed(String),
}

/// Why a file is not touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflistError {
    /// It is no JSON.
    #[error("it is no JSON: {0}")]
    Json(String),
    /// It is JSON, but no network configuration.
    #[error("it is no network configuration: {0}")]
    Shape(&'static str),
}

/// What a file in a configuration directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A chain: `.conflist`.
    List,
    /// One plugin: `.conf` or `.json`.
    Single,
}

/// What the file is that a runtime would take this one for; `None` where it takes no notice.
pub fn kind(name: &str) -> Option<Kind> {
    match name.rsplit_once('.')? {
        (_, "conflist") => Some(Kind::List),
        (_, "conf" | "json") => Some(Kind::Single),
        _ => None,
    }
}

/// The file that a runtime would use: the first by name that holds a network, as containerd and CRI-O choose.
pub fn choose<'f>(files: &'f [(String, String)]) -> Option<&'f (String, String)> {
    let usable = |(name, text): &&'f (String, String)| {
        kind(name).is_some_and(|kind| insert(text, kind, &Value::Null).is_ok())
    };
    files.iter().filter(usable).min_by(|(a, _), (b, _)| a.cmp(b))
}

/// Puts `plugin` into the chain: in place of itself, else at the end. Of [`Kind::Single`] comes a chain.
pub fn insert(text: &str, kind: Kind, plugin: &Value) -> Result<Edit, ConflistError> {
    let before = parse(text)?;
    let mut after = match kind {
        Kind::List => before.clone(),
        Kind::Single => chain_of(&before)?,
    };
    let plugins = plugins(&mut after)?;
    if !plugins.iter().any(|it| !is_ours(it)) {
        return Err(ConflistError::Shape("it has no plugin that makes a network"));
    }
    let mut first = true;
    plugins.retain(|it| !is_ours(it) || std::mem::take(&mut first));
    match plugins.iter_mut().find(|it| is_ours(it)) {
        Some(ours) => *ours = plugin.clone(),
        None => plugins.push(plugin.clone()),
    }
    Ok(changed(&before, after))
}

/// Takes our plugin out of a chain.
pub fn remove(text: &str) -> Result<Edit, ConflistError> {
    let before = parse(text)?;
    let mut after = before.clone();
    plugins(&mut after)?.retain(|it| !is_ours(it));
    Ok(changed(&before, after))
}

fn changed(before: &Map<String, Value>, after: Map<String, Value>) -> Edit {
    if *before == after {
        return Edit::Unchanged;
    }
    let mut text = format!("{:#}", Value::Object(after));
    text.push('\n');
    Edit::Changed(text)
}

fn parse(text: &str) -> Result<Map<String, Value>, ConflistError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ConflistError::Shape("it is no object")),
        Err(error) => Err(ConflistError::Json(error.to_string())),
    }
}

fn chain_of(single: &Map<String, Value>) -> Result<Map<String, Value>, ConflistError> {
    if !single.get("type").is_some_and(Value::is_string) {
        return Err(ConflistError::Shape("it has no `type`"));
    }
    let mut plugin = single.clone();
    let of_list = ["cniVersion", "name", "disableCheck", "disableGC"];
    let mut list: Map<String, Value> =
        of_list.iter().filter_map(|key| Some(((*key).to_owned(), plugin.remove(*key)?))).collect();
    list.insert("plugins".to_owned(), Value::Array(vec![Value::Object(plugin)]));
    Ok(list)
}

fn plugins(list: &mut Map<String, Value>) -> Result<&mut Vec<Value>, ConflistError> {
    match list.get_mut("plugins") {
        Some(Value::Array(plugins)) => Ok(plugins),
        _ => Err(ConflistError::Shape("it has no list `plugins`")),
    }
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(PLUGIN)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CHAIN: &str = r#"{"cniVersion":"0.4.0","name":"net","extra":{"a":[1,2.5,null]},"plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;

    fn ours() -> Value {
        json!({"type": PLUGIN, "socket": "/run/s"})
    }

    fn edited(edit: Result<Edit, ConflistError>) -> Value {
        match edit {
            Ok(Edit::Changed(text)) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_chain_gets_one_more_and_loses_it_again() {
        let after = edited(insert(CHAIN, Kind::List, &ours()));
        let mut expected: Value = serde_json::from_str(CHAIN).expect("JSON");
        expected["plugins"].as_array_mut().expect("a list").push(ours());
        assert_eq!(after, expected);
        assert_eq!(insert(&after.to_string(), Kind::List, &ours()), Ok(Edit::Unchanged));
        assert_eq!(
            edited(remove(&after.to_string())).to_string(),
            serde_json::from_str::<Value>(CHAIN).expect("JSON").to_string()
        );
        assert_eq!(remove(CHAIN), Ok(Edit::Unchanged));
    }

    #[test]
    fn settings_are_renewed_in_place_and_doubles_go() {
        let old = json!({"type": PLUGIN, "socket": "/old"});
        let list = json!({"name": "n", "plugins": [{"type": "ptp"}, old, {"type": "tuning"}, old]});
        let after = edited(insert(&list.to_string(), Kind::List, &ours()));
        assert_eq!(after, json!({"name": "n", "plugins": [{"type": "ptp"}, ours(), {"type": "tuning"}]}));
    }

    #[test]
    fn a_single_plugin_becomes_a_chain() {
        let single = r#"{"cniVersion":"0.3.1","name":"n","type":"bridge","mtu":1400}"#;
        let after = edited(insert(single, Kind::Single, &ours()));
        let expected =
            json!({"cniVersion": "0.3.1", "name": "n", "plugins": [{"type": "bridge", "mtu": 1400}, ours()]});
        assert_eq!(after, expected);
    }

    #[test]
    fn what_is_no_network_is_left_alone() {
        for (text, kind) in [
            ("", Kind::List),
            ("[]", Kind::List),
            ("{\"plugins\": {}}", Kind::List),
            ("{\"plugins\": []}", Kind::List),
            ("{\"plugins\": [{\"type\": \"mesh-cni\"}]}", Kind::List),
            ("{\"name\": \"n\"}", Kind::Single),
            ("{\"plugins\": [{\"type\": \"bridge\"}", Kind::List),
        ] {
            assert!(insert(text, kind, &ours()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_that_is_one_is_chosen() {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let files = [
            file("20-b.conflist", CHAIN),
            file("10-a.conflist", CHAIN),
            file("05-broken.conflist", "{"),
            file("00-note.txt", CHAIN),
            file("01-a.conflist.bak", CHAIN),
        ];
        assert_eq!(choose(&files).map(|(name, _)| name.as_str()), Some("10-a.conflist"));
        assert_eq!(choose(&files[2..]), None);
        let single = [file("99-a.conf", r#"{"name":"n","type":"bridge"}"#)];
        assert_eq!(choose(&single).map(|(name, _)| name.as_str()), Some("99-a.conf"));
    }
}
