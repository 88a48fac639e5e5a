//! `export`: a recorded run for other programs.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::args::{ExportArgs, Format, What};
use super::exit::Exit;
use super::output::{Failure, say};
use crate::export::table::Table;
use crate::export::{ExportError, Form, export};
use crate::record::Recording;

pub(super) fn run(args: &ExportArgs) -> Result<Exit, Failure> {
    let recording = Recording::open(&args.file)?;
    let form = match args.format {
        Format::Csv => Form::Csv,
        Format::Jsonl => Form::Jsonl,
        Format::Parquet => Form::Parquet,
    };
    let table = match args.table {
        What::Probes => Table::Probes,
        What::Seconds => Table::Seconds,
        What::Observations => Table::Observations,
    };
    match &args.out {
        Some(path) => to_file(&recording, table, form, path, args.force)?,
        None => {
            let mut out = io::stdout();
            if form == Form::Parquet && out.is_terminal() {
                return Err(Failure::Binary);
            }
            match export(&recording, table, form, &mut out).and_then(|_| Ok(out.flush()?)) {
                // Whoever read it has seen enough.
                Err(ExportError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(ExportError::Output(error)) => return Err(error.into()),
                Err(ExportError::File(error)) => return Err(error.into()),
                Ok(()) => {}
            }
        }
    }
    Ok(Exit::Clean)
}

/// Under another name until it is whole, so that a half one is never taken for it.
fn to_file(recording: &Recording, table: Table, form: Form, path: &Path, force: bool) -> Result<(), Failure> {
    if !force && fs::symlink_metadata(path).is_ok() {
        return Err(Failure::Exists(path.to_owned()));
    }
    let failed = |error| Failure::Write { path: path.to_owned(), error };
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut out = File::create(&part).map_err(failed)?;
    let done = export(recording, table, form, &mut out).and_then(|rows| {
        out.sync_all()?;
        fs::rename(&part, path)?;
        Ok(rows)
    });
    if done.is_err() {
        let _ = fs::remove_file(&part);
    }
    match done {
        Ok(rows) => {
            say(&format!("{rows} rows written to {}", path.display()));
            Ok(())
        }
        Err(ExportError::Output(error)) => Err(failed(error)),
        Err(ExportError::File(error)) => Err(error.into()),
    }
}
