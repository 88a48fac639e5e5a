//! The result as Markdown.

use std::fmt::Write;

use super::{Bound, Figures, Row, Spread};

/// A table that can be quoted as it is.
pub fn markdown(figures: &Figures, command: &str) -> String {
    let mut out = String::new();
    let machine = &figures.machine;
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{}, {} cores, Linux {}; load average {} before and {} after; niceness {}{}.\nMade by `{command}`.\n",
        machine.model,
        machine.cores,
        machine.kernel,
        machine.load_before,
        machine.load_after,
        machine.nice,
        machine
            .others
            .map_or_else(String::new, |o| format!("; other programs took {:.0} % of the cores", o * 100.0)),
    );
    out.push_str(
        "| What | Target | Ours | Compared with | Ratio | |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in &figures.rows {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            row.what,
            target(row),
            with_unit(row.ours, row.unit),
            row.against.zip(row.theirs).map_or_else(String::new, |(name, theirs)| format!(
                "{name}: {}",
                with_unit(theirs, row.unit)
            )),
            row.ratio.map_or_else(String::new, spread),
            match row.met() {
                Some(true) => "met",
                Some(false) => "**missed**",
                None => "",
            },
        );
    }
    out.push_str(
        "\nEach figure is the median of its rounds, with the smallest and the largest in brackets.\n",
    );
    for note in &figures.notes {
        let _ = writeln!(out, "\n- {note}");
    }
    out
}

fn target(row: &Row) -> String {
    let unit = if row.ratio.is_some() { "x" } else { row.unit };
    let space = if unit == "x" || unit.is_empty() { "" } else { " " };
    match row.target {
        Some(Bound::AtLeast(bound)) => format!("at least {bound}{space}{unit}"),
        Some(Bound::AtMost(bound)) => format!("at most {bound}{space}{unit}"),
        None => String::new(),
    }
}

fn with_unit(value: Spread, unit: &str) -> String {
    let text = spread(value);
    if unit.is_empty() { text } else { format!("{text} {unit}") }
}

fn spread(s: Spread) -> String {
    if s.min == s.max {
        number(s.median)
    } else {
        format!("{} ({}–{})", number(s.median), number(s.min), number(s.max))
    }
}

/// Three figures that mean something.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 10_000.0 {
        format!("{:.0}k", value / 1000.0)
    } else if magnitude >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else if magnitude >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Machine;

    #[test]
    fn numbers_keep_three_figures() {
        let cases =
            [(612_345.0, "612k"), (1234.0, "1234"), (96.54, "96.5"), (2.346, "2.35"), (0.0123, "0.0123")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_miss_is_said_plainly() {
        let row = Row::pairs("echoes", "1/s", "other", &[(10.0, 10.0)], Some(Bound::AtLeast(3.0)));
        let figures = Figures {
            machine: Machine::look(),
            rows: row.into_iter().collect(),
            notes: vec!["A word.".to_owned()],
        };
        let text = markdown(&figures, "bench");
        assert!(
            text.contains("| echoes | at least 3x | 10.0 1/s | other: 10.0 1/s | 1.00 | **missed** |"),
            "{text}"
        );
        assert!(text.contains("- A word."));
    }
}
