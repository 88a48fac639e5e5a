//! RFC 4180, with a header; unknown values are empty.

use std::io::{self, Write};

use super::Rows;
use super::table::{Cell, Column};

pub(super) struct Csv<'a> {
    out: ::csv::Writer<&'a mut (dyn Write + Send)>,
    text: String,
}

impl<'a> Csv<'a> {
    pub(super) fn new(columns: &[Column], out: &'a mut (dyn Write + Send)) -> io::Result<Self> {
        let mut out = ::csv::WriterBuilder::new().buffer_capacity(1 << 16).from_writer(out);
        out.write_record(columns.iter().map(|column| column.name))?;
        Ok(Self { out, text: String::new() })
    }
}

impl Rows for Csv<'_> {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        use std::fmt::Write as _;
        for cell in cells {
            self.text.clear();
            match cell {
                Cell::None => {}
                Cell::Int(n) => {
                    let _ = write!(self.text, "{n}");
                }
                Cell::Float(n) => {
                    let _ = write!(self.text, "{n}");
                }
                Cell::Text(words) => self.text.push_str(words),
                Cell::Bool(is) => self.text.push_str(if *is { "true" } else { "false" }),
                Cell::Time(ns) => time(*ns, &mut self.text),
            }
            self.out.write_field(&self.text)?;
        }
        self.out.write_record(None::<&[u8]>)?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}

/// A moment as RFC 3339, to the nanosecond; nothing outside of the years that a calendar has.
pub(super) fn time(ns: i64, out: &mut String) {
    use std::fmt::Write as _;
    if let Ok(at) = jiff::Timestamp::from_nanosecond(i128::from(ns)) {
        let _ = write!(out, "{at:.9}");
    }
}
