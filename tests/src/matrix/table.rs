//! The matrix as text.

use std::fmt::Write;

use probe_protocol::cause::Cause;

use super::tally::{Row, Tally, Wrong};

/// The table: one line per cause, then what is missing and what was wrong.
pub fn render(tally: &Tally) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, tally);
    out
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{share:.3}"))
}

fn write(out: &mut String, tally: &Tally) -> std::fmt::Result {
    writeln!(
        out,
        "{} runs, {} right; {} clean or benign, {} of them accused; precision {}",
        tally.runs,
        tally.right,
        tally.clean_runs,
        tally.clean_accused,
        share(tally.precision()),
    )?;
    if tally.several_runs > 0 {
        writeln!(
            out,
            "{} runs with two causes or more, in {} each was found ({:.3})",
            tally.several_runs,
            tally.several_found,
            tally.several_found as f64 / tally.several_runs as f64
        )?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:26} {:>8} {:>6} {:>7} {:>9} {:>10} {:>8}  parameters off by, mean and most; said instead",
        "cause", "expected", "found", "recall", "precision", "abstained", "accused"
    )?;
    for (cause, row) in &tally.causes {
        write_row(out, *cause, row)?;
    }
    write_calibration(out, tally)?;
    write_list(out, "not yet named", &tally.not_yet_named())?;
    write_list(out, "no scenario played", &tally.not_played())?;
    if !tally.not_played.is_empty() {
        writeln!(out, "\nscenarios not played:")?;
        for (scenario, why) in &tally.not_played {
            writeln!(out, "  {scenario}: {why}")?;
        }
    }
    if !tally.wrong.is_empty() {
        writeln!(out, "\nwhat was wrong, by scenario:")?;
        for (scenario, wrong) in &tally.wrong {
            let (runs, right) = tally.scenarios.get(scenario).copied().unwrap_or_default();
            writeln!(out, "  {scenario} ({right} of {runs} right)")?;
            for (what, Wrong { runs, seeds }) in wrong {
                let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
                let more = if seeds.len() as u64 == *runs { "" } else { " ..." };
                writeln!(out, "    {runs}x {what} (seeds {}{more})", seeds.join(", "))?;
            }
        }
    }
    Ok(())
}

fn write_row(out: &mut String, cause: Cause, row: &Row) -> std::fmt::Result {
    write!(
        out,
        "{:26} {:>8} {:>6} {:>7} {:>9} {:>10} {:>8}  ",
        cause.id(),
        row.expected,
        row.found,
        share(row.recall()),
        share(row.precision()),
        row.abstained,
        row.accused,
    )?;
    for (name, errors) in &row.parameters {
        write!(out, "{name} {:.1} %, {:.1} %; ", errors.mean * 100.0, errors.largest * 100.0)?;
    }
    for (said, count) in &row.said_instead {
        write!(out, "{said} {count}x; ")?;
    }
    writeln!(out)
}

fn write_calibration(out: &mut String, tally: &Tally) -> std::fmt::Result {
    writeln!(out, "\ncalibration: of the findings of a probability, how many are right (95 % bounds)")?;
    for class in tally.calibration.iter().filter(|class| class.said > 0) {
        let (low, high) = class.bounds();
        writeln!(
            out,
            "  from {:<5} {:>6} said, {:>6} right: {:.3} ({low:.3} to {high:.3}), said to be {:.4}{}",
            class.from,
            class.said,
            class.right,
            class.share().unwrap_or_default(),
            class.mean,
            if class.is_overconfident() { ": OVERCONFIDENT" } else { "" }
        )?;
    }
    Ok(())
}

fn write_list(out: &mut String, what: &str, causes: &[Cause]) -> std::fmt::Result {
    let names: Vec<&str> = causes.iter().map(|cause| cause.id()).collect();
    writeln!(out, "\n{what} ({}): {}", names.len(), names.join(", "))
}
