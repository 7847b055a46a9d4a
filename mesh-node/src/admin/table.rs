//! Tables of aligned columns, for people with a terminal.

use std::fmt::Write;

/// Renders a table; a row that has fewer cells than the head is filled up with nothing.
pub(super) fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|title| title.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    line(&mut out, &widths, head.iter().copied());
    for row in rows {
        line(&mut out, &widths, row.iter().map(String::as_str));
    }
    out
}

fn line<'a>(out: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let start = out.len();
    for (width, cell) in widths.iter().zip(cells) {
        write!(out, "{cell:width$}  ").expect("a String takes all");
    }
    out.truncate(start + out.get(start..).map_or(0, |line| line.trim_end().len()));
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows = [vec!["ä".to_owned(), "12345".to_owned()], vec!["long cell".to_owned()]];
        assert_eq!(render(&["A", "B"], &rows), "A          B\nä          12345\nlong cell\n");
    }
}
