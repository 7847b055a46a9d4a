//! What the demonstration prints: steps, what was expected, what was seen, tables. Made for a terminal of 100 columns.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal, Write};

/// Where the demonstration prints to. A reader who goes away (`demo | head`) does not end it.
pub(super) struct Console {
    out: Box<dyn Write + Send>,
    colours: bool,
    /// The line that is shown until the next one replaces it.
    transient: Option<String>,
}

/// Colours as terminals number them.
#[derive(Clone, Copy)]
enum Style {
    Bold,
    Faint,
    Good,
    Bad,
}

impl Console {
    /// Standard output; in colours if it is a terminal and nobody has set `NO_COLOR`.
    pub(super) fn stdout() -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colours = io::stdout().is_terminal() && !unwanted && !dumb;
        Self { out: Box::new(io::stdout()), colours, transient: None }
    }

    /// A headline; `number` counts the steps.
    pub(super) fn headline(&mut self, number: usize, text: &str) {
        let line = self.styled(Style::Bold, &format!("{number}  {text}"));
        self.put(&format!("\n{line}\n\n"));
    }

    /// A headline without number.
    pub(super) fn title(&mut self, text: &str) {
        let text = wrap(text, "", "");
        let text = self.styled(Style::Bold, text.trim_end());
        self.put(&format!("\n{text}\n"));
    }

    /// Explains.
    pub(super) fn say(&mut self, text: &str) {
        self.put(&format!("{}\n", wrap(text, INDENT, INDENT)));
    }

    /// A command as the reader can type it; broken where its parts meet if it is too long for a line.
    pub(super) fn command(&mut self, parts: &[&str]) {
        let text = self.styled(Style::Faint, &command(parts));
        self.put(&format!("{text}\n"));
    }

    /// What is expected next.
    pub(super) fn expect(&mut self, text: &str) {
        let text = wrap(text, "    expect  ", LABELLED);
        self.put(&text);
    }

    /// What was seen of it, and whether it is what was expected.
    pub(super) fn saw(&mut self, holds: bool, text: &str) {
        let (label, style) = if holds { ("ok", Style::Good) } else { ("FAILED", Style::Bad) };
        let text = wrap(text, &format!("    {label:<6}  "), LABELLED);
        // The label is styled after wrapping: escape sequences have no width.
        let styled = self.styled(style, label);
        self.put(&text.replacen(label, &styled, 1));
    }

    /// More of what was seen, such as a line of a log.
    pub(super) fn quote(&mut self, text: &str) {
        self.put(&wrap(text, LABELLED, "              "));
    }

    /// A table of what was seen.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let lines = table(head, rows);
        if let Some((head, rows)) = lines.split_first() {
            let head = self.styled(Style::Faint, head);
            self.put(&format!("\n{INDENT}{head}\n"));
            for row in rows {
                self.put(&format!("{INDENT}{row}\n"));
            }
            self.space();
        }
    }

    /// An empty line.
    pub(super) fn space(&mut self) {
        self.put("\n");
    }

    /// Text as it is.
    pub(super) fn raw(&mut self, text: &str) {
        self.put(text);
    }

    /// A line that the next one replaces; shown on terminals only.
    pub(super) fn progress(&mut self, text: &str) {
        if self.colours && self.transient.as_deref() != Some(text) {
            self.put(&format!("{INDENT}{text}"));
            self.transient = Some(text.to_owned());
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match style {
            Style::Bold => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn put(&mut self, text: &str) {
        let clear = if self.transient.take().is_some() { "\r\x1b[K" } else { "" };
        // Nobody may be there to read it.
        let _ = write!(self.out, "{clear}{text}").and_then(|()| self.out.flush());
    }
}

/// Fills lines of at most [`WIDTH`] columns; a word that is too long for a line gets one of its own.
fn wrap(text: &str, first: &str, rest: &str) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            rest.clone_into(&mut line);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    out + line.trim_end() + "\n"
}

fn command(parts: &[&str]) -> String {
    let whole = format!("{INDENT}$ {}", parts.join(" "));
    if whole.chars().count() <= WIDTH { whole } else { format!("{INDENT}$ {}", parts.join(" \\\n        ")) }
}

/// Lines with columns as wide as their widest cell, two spaces between them.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &&Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

/// `1 packet`, `2 packets`.
pub(super) fn count<N: Copy + fmt::Display + PartialEq + From<bool>>(number: N, what: &str) -> String {
    if number == N::from(true) { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Columns that lines are kept within.
const WIDTH: usize = 100;

/// Before everything that belongs to a step.
const INDENT: &str = "    ";

/// Before the lines that follow one with a label.
const LABELLED: &str = "            ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_within_the_width() {
        let text = "word ".repeat(60);
        let wrapped = wrap(&text, "    expect  ", LABELLED);
        assert!(wrapped.lines().all(|line| line.len() <= WIDTH), "{wrapped}");
        assert_eq!(wrapped.split_whitespace().filter(|word| *word == "word").count(), 60);
        assert!(wrapped.lines().skip(1).all(|line| line.starts_with("            word")), "{wrapped}");
        let long = "x".repeat(200);
        assert_eq!(wrap(&format!("a {long} b"), "", ""), format!("a\n{long}\nb\n"));
    }

    #[test]
    fn commands_break_only_where_they_must() {
        assert_eq!(command(&["ls", "-l"]), "    $ ls -l");
        let long = "x".repeat(95);
        assert_eq!(command(&["ls", &long]), format!("    $ ls \\\n        {long}"));
    }

    #[test]
    fn columns_align() {
        let rows =
            [vec!["a".to_owned(), "★★".to_owned(), "x".to_owned()], vec!["bbb".to_owned(), String::new()]];
        assert_eq!(table(&["N", "STARS", "Z"], &rows), ["N    STARS  Z", "a    ★★     x", "bbb"]);
    }

    #[test]
    fn numbers_agree_with_their_nouns() {
        assert_eq!([count(0_usize, "packet"), count(1_u32, "packet")], ["0 packets", "1 packet"]);
    }
}
