use super::*;

fn found(trie: &Trie<String>, text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    trie.walk(text.as_bytes(), |value, is_whole| found.push((value.clone(), is_whole)));
    found
}

fn trie(folded: bool, keys: &[&str]) -> Trie<String> {
    let mut trie = if folded { Trie::folded() } else { Trie::default() };
    for key in keys {
        *trie.entry(key.as_bytes()) = (*key).to_owned();
    }
    trie
}

#[test]
fn all_prefixes_are_found_from_the_shortest_on() {
    let keys = ["", "/", "/api", "/api/v1/users", "/api/v1", "/apis", "/b", "/api/v2"];
    for rotation in 0..keys.len() {
        let mut keys = keys;
        keys.rotate_left(rotation);
        let trie = trie(false, &keys);
        for text in ["", "/", "/api", "/api/v1/users/7", "/apis", "/apiv", "/b/c", "x", "/ap", "/API"] {
            let mut expected: Vec<_> = keys.into_iter().filter(|key| text.starts_with(key)).collect();
            expected.sort_by_key(|key| key.len());
            let expected: Vec<_> = expected.into_iter().map(|key| (key.to_owned(), key == text)).collect();
            assert_eq!(found(&trie, text), expected, "{text}");
        }
    }
}

#[test]
fn case_is_ignored_where_asked_for() {
    let trie = trie(true, &["/a", "/ab", "/ac"]);
    assert_eq!(found(&trie, "/AC"), [("/a".to_owned(), false), ("/ac".to_owned(), true)]);
}
