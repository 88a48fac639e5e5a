//! A recorded run as tables for other programs: CSV, JSON lines and Parquet.
//!
//! [`table`] says which columns there are and fills them row by row; each form writes rows and knows nothing of probes.

mod csv;
mod jsonl;
mod parquet;
pub mod table;

use std::io::Write;

use thiserror::Error;

use self::table::{Cell, Column, Table};
use crate::record::{FileError, Recording};

/// A form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RFC 4180, with a header; empty is unknown.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// Why an export ended early.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The file that is read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The place that is written to.
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

/// Writes rows in one form.
trait Rows {
    fn row(&mut self, cells: &[Cell<'_>]) -> std::io::Result<()>;
    fn finish(self: Box<Self>) -> std::io::Result<()>;
}

/// Writes a table of a recorded run; answers how many rows. Memory does not grow with the run.
///
/// # Errors
/// [`ExportError`]: what was written so far is of no use then.
pub fn export(
    recording: &Recording,
    table: Table,
    form: Form,
    out: &mut (dyn Write + Send),
) -> Result<u64, ExportError> {
    let columns = table.columns();
    let mut rows = start(form, columns, out)?;
    let mut count = 0;
    table::fill(recording, table, &mut |cells| {
        count += 1;
        rows.row(cells)
    })?;
    rows.finish()?;
    Ok(count)
}

fn start<'a>(
    form: Form,
    columns: &'static [Column],
    out: &'a mut (dyn Write + Send),
) -> std::io::Result<Box<dyn Rows + 'a>> {
    Ok(match form {
        Form::Csv => Box::new(csv::Csv::new(columns, out)?),
        Form::Jsonl => Box::new(jsonl::Jsonl::new(columns, out)),
        Form::Parquet => Box::new(parquet::Parquet::new(columns, out)?),
    })
}

#[cfg(test)]
mod tests;
