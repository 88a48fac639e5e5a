//! One JSON object a line.

use std::io::{self, BufWriter, Write};

use serde_json::Value;

use super::table::{Cell, Column};
use super::{Rows, csv};

pub(super) struct Jsonl<'a> {
    columns: &'static [Column],
    out: BufWriter<&'a mut (dyn Write + Send)>,
}

impl<'a> Jsonl<'a> {
    pub(super) fn new(columns: &'static [Column], out: &'a mut (dyn Write + Send)) -> Self {
        Self { columns, out: BufWriter::with_capacity(1 << 16, out) }
    }
}

impl Rows for Jsonl<'_> {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for (at, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            let value = match cell {
                Cell::None => Value::Null,
                Cell::Int(n) => Value::from(*n),
                Cell::Float(n) => Value::from(*n),
                // An observation's content is JSON already.
                Cell::Text(words) if column.name == "content" => {
                    write!(self.out, ",\"{}\":{words}", column.name)?;
                    continue;
                }
                Cell::Text(words) => Value::from(*words),
                Cell::Bool(is) => Value::from(*is),
                Cell::Time(ns) => {
                    let mut text = String::new();
                    csv::time(*ns, &mut text);
                    Value::from(text)
                }
            };
            write!(self.out, "{}\"{}\":{value}", if at == 0 { '{' } else { ',' }, column.name)?;
        }
        self.out.write_all(b"}\n")
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}
