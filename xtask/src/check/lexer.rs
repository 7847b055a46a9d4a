//! Enough of Rust's grammar to tell code from comments and literals, and tests from what they test.

/// The source with every character of comments and of string and character literals replaced by a space; lines stay
/// where they are. Quotes of literals go as well, so what is left is code.
pub(super) fn blank(source: &str) -> String {
    let characters: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut rest = characters.as_slice();
    let mut previous = ' ';
    while let Some(first) = rest.first().copied() {
        let literal = literal_length(rest, previous);
        let (now, later) = rest.split_at(literal.max(1));
        if literal == 0 {
            out.push(first);
        } else {
            out.extend(now.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        }
        previous = first;
        rest = later;
    }
    out
}

/// Lines (first, last; from 0) of the inline modules that only tests see, in the blanked source.
pub(super) fn test_modules(blanked: &str) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (at, _) in blanked.match_indices("#[cfg(") {
        let line = line_of(blanked, at);
        if found.last().is_some_and(|(_, last)| line <= *last) {
            continue;
        }
        if let Some(end) = test_module_end(blanked, at) {
            found.push((line, line_of(blanked, end)));
        }
    }
    found
}

/// Whether `word` stands in the text by itself, not as a part of a longer name.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|t| t.chars().next());
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

fn test_module_end(blanked: &str, attribute: usize) -> Option<usize> {
    let rest = blanked.get(attribute..)?;
    let condition_end = rest.find(']')?;
    if !has_word(rest.get(..condition_end)?, "test") {
        return None;
    }
    let mut item = condition_end + 1;
    // Other attributes may stand between.
    while let Some(attribute) = rest.get(item..).filter(|text| text.trim_start().starts_with("#[")) {
        item += attribute.find(']')? + 1;
    }
    let declaration = rest.get(item..)?;
    let open = declaration.find(['{', ';'])?;
    let head = declaration.get(..open)?;
    if !has_word(head, "mod") || declaration.get(open..)?.starts_with(';') {
        return None;
    }
    let mut depth = 0_usize;
    for (offset, c) in declaration.get(open..)?.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(attribute + item + open + offset),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn line_of(text: &str, at: usize) -> usize {
    text.get(..at).map_or(0, |before| before.matches('\n').count())
}

/// How many characters of a comment or literal stand at the front; none if it is code.
fn literal_length(text: &[char], previous: char) -> usize {
    match text {
        ['/', '/', ..] => text.iter().position(|c| *c == '\n').unwrap_or(text.len()),
        ['/', '*', ..] => block_comment_length(text),
        ['"', ..] => quoted_length(text, '"'),
        ['r', ..] if !is_name(previous) || matches!(previous, 'b' | 'c') => raw_length(text),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted_length(text, '\''),
        _ => 0,
    }
}

fn block_comment_length(text: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        match rest {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    text.len()
}

fn quoted_length(text: &[char], quote: char) -> usize {
    let mut at = 1;
    while let Some(c) = text.get(at) {
        match c {
            '\\' => at += 2,
            c if *c == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Length of `r"…"` or `r#"…"#`; none for a name that merely starts like one.
fn raw_length(text: &[char]) -> usize {
    let hashes = text.iter().skip(1).take_while(|c| **c == '#').count();
    if text.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let start = 2 + hashes;
    let closes = |at: &usize| {
        let end: Vec<&char> = text.iter().skip(*at).take(1 + hashes).collect();
        end.len() == 1 + hashes && *end[0] == '"' && end[1..].iter().all(|c| **c == '#')
    };
    (start..text.len()).find(closes).map_or(text.len(), |at| at + 1 + hashes)
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_go_and_lines_stay() {
        let source = "let a = \"unsafe { \\\" }\"; // unsafe\nlet b = '\"'; /* { /* } */\n { */ let c = r#\"un\"safe\"#;";
        let blanked = blank(source);
        assert_eq!(blanked.lines().count(), source.lines().count());
        assert_eq!(blanked.chars().count(), source.chars().count());
        let words: Vec<&str> = blanked.split_whitespace().collect();
        assert_eq!(words, ["let", "a", "=", ";", "let", "b", "=", ";", "let", "c", "=", ";"]);
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        let source = "fn f<'a>(r#type: &'a str) -> &'static str { for_r(b'x', '\\'', br\"{\") }";
        let words = blank(source);
        assert!(words.contains("'a>(r#type: &'a str) -> &'static str"), "{words}");
        assert!(!words.contains('x') && words.matches('{').count() == 1, "{words}");
    }

    #[test]
    fn inline_test_modules_are_found_with_their_extent() {
        let source =
            "fn a() {}\n#[cfg(test)]\n#[expect(lint)]\nmod tests {\n  fn b() { \"}\"; }\n}\nfn c() {}\n";
        assert_eq!(test_modules(&blank(source)), [(1, 5)]);
    }

    #[test]
    fn other_conditional_code_is_no_test_module() {
        for source in [
            "#[cfg(test)]\nmod tests;\n",
            "#[cfg(test)]\nfn helper() {}\n",
            "#[cfg(feature = \"x\")]\nmod x { }\n",
            "// #[cfg(test)] mod x {}\n",
        ] {
            assert_eq!(test_modules(&blank(source)), Vec::<(usize, usize)>::new(), "{source}");
        }
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe {", "unsafe") && has_word("#[unsafe(no_mangle)]", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe") && !has_word("an_unsafe", "unsafe"));
    }
}
