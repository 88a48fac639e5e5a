//! Lines on a page: width, indents, tables, colours.

use std::fmt::Write as _;

/// How text may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Columns; text is broken to fit, commands are not.
    pub width: usize,
    /// Whether colours may be used.
    pub colour: bool,
}

/// Widest that text is set: longer lines are hard to read.
const MAX_WIDTH: usize = 100;
/// Narrowest that text is set.
const MIN_WIDTH: usize = 40;
/// Column at which the text of a [`Page::row`] begins.
const ROW_AT: usize = 17;

/// Text being laid out.
pub(super) struct Page {
    look: Look,
    text: String,
}

impl Page {
    pub(super) fn new(look: Look) -> Self {
        let width = look.width.clamp(MIN_WIDTH, MAX_WIDTH);
        Self { look: Look { width, ..look }, text: String::new() }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.look.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn good(&self, text: &str) -> String {
        self.painted("32", text)
    }

    pub(super) fn warn(&self, text: &str) -> String {
        self.painted("33", text)
    }

    pub(super) fn bad(&self, text: &str) -> String {
        self.painted("1;31", text)
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.painted("1", text)
    }

    pub(super) fn dim(&self, text: &str) -> String {
        self.painted("2", text)
    }

    pub(super) fn blank(&mut self) {
        self.text.push('\n');
    }

    pub(super) fn heading(&mut self, text: &str) {
        let text = self.bold(text);
        self.blank();
        self.line(0, &text);
    }

    /// One line, as it is.
    pub(super) fn line(&mut self, indent: usize, text: &str) {
        let _ = writeln!(self.text, "{:indent$}{text}", "");
    }

    /// Text broken into lines.
    pub(super) fn paragraph(&mut self, indent: usize, text: &str) {
        for line in wrap(text, self.look.width.saturating_sub(indent)) {
            self.line(indent, &line);
        }
    }

    /// A name, and text beside it.
    pub(super) fn row(&mut self, name: &str, text: &str) {
        let lines = wrap(text, self.look.width.saturating_sub(ROW_AT));
        for (at, line) in lines.iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            let indent = ROW_AT - 2;
            let _ = writeln!(self.text, "  {name:indent$}{line}");
        }
    }

    /// Pads to so many columns, whatever the colours.
    pub(super) fn padded(&self, text: &str, width: usize) -> String {
        format!("{text}{:1$}", "", width.saturating_sub(columns(text)))
    }

    /// Columns as wide as they must be: the first to the left, all others to the right. Columns that do not fit on the
    /// page are left out, the last ones first.
    pub(super) fn table(&mut self, rows: &[Vec<String>]) {
        let most = rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..most)
            .map(|column| {
                rows.iter().filter_map(|row| row.get(column)).map(|c| columns(c)).max().unwrap_or(0)
            })
            .collect();
        let mut total = 0;
        let fit = widths
            .iter()
            .take_while(|width| {
                total += *width + 2;
                total <= self.look.width
            })
            .count();
        for row in rows {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).take(fit).enumerate() {
                let pad = width.saturating_sub(columns(cell));
                let _ = if at == 0 {
                    write!(line, "{cell}{:pad$}", "")
                } else {
                    write!(line, "  {:pad$}{cell}", "")
                };
            }
            self.line(2, line.trim_end());
        }
    }
}

/// Columns that a text takes, without its colours.
fn columns(text: &str) -> usize {
    let mut count = 0;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            // Up to the letter that ends the sequence.
            let _ = chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            count += 1;
        }
    }
    count
}

/// Breaks a text at spaces; a word longer than a line has a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    // Two spaces in the text are meant.
    for word in text.split(' ') {
        if !line.is_empty() && columns(&line) + 1 + columns(word) > width {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_breaks_at_spaces_and_colours_take_no_room() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("unbreakable word", 4), ["unbreakable", "word"]);
        assert_eq!(wrap("\x1b[1;31mone\x1b[0m two", 7), ["\x1b[1;31mone\x1b[0m two"]);
        assert_eq!(wrap("", 10), [""]);
    }

    #[test]
    fn a_table_leaves_out_what_does_not_fit() {
        let mut page = Page::new(Look { width: 40, colour: false });
        page.table(&[vec!["a".repeat(20), "b".repeat(10), "c".repeat(20)]]);
        assert_eq!(page.into_text(), format!("  {}  {}\n", "a".repeat(20), "b".repeat(10)));
    }
}
