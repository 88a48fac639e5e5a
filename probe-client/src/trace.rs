//! Reads somebody else's packet trace: CSV with a header, `t_send_us,bytes,t_recv_us[,flow,direction,transport]`, columns
//! in any order, rows in sending order.
//!
//! It reads row by row and keeps none, but for the names of the first [`MAX_FLOWS`] flows.

use std::collections::HashMap;
use std::io::Read;

use probe_analysis::rate::trace::{Analyser, MAX_FLOWS, Row, Transport};
use probe_protocol::finding::Direction;
use thiserror::Error;

use crate::lines::{LineError, Lines};

/// A row may be sent so much earlier than the one before it: captures of several queues are not quite in order.
const BACK_US: f64 = 1e6;
/// Longest packet: the most that segmentation offload puts together, with room to spare.
const MAX_BYTES: u32 = 1 << 20;

/// Why a trace cannot be read. Each names the line, counted from 1.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file is empty.
    #[error("the file is empty: the first line must name the columns t_send_us,bytes,t_recv_us")]
    Empty,
    /// A column is missing.
    #[error("line 1 has no column {column} (it has {has}): needed are t_send_us,bytes,t_recv_us")]
    NoColumn {
        /// Which one.
        column: &'static str,
        /// Those that stand there.
        has: String,
    },
    /// A column stands there twice.
    #[error("line 1 names the column {0} twice")]
    TwiceNamed(&'static str),
    /// There is a header and nothing else.
    #[error("the trace has a header and no rows")]
    NoRows,
    /// A row has another number of fields than the header.
    #[error("line {line} has {has} fields, and the header has {needs}")]
    Fields {
        /// Line.
        line: u64,
        /// Fields of the row.
        has: usize,
        /// Fields of the header.
        needs: usize,
    },
    /// A field cannot be read.
    #[error("line {line}, column {column}: {value:?} is not {is}")]
    Field {
        /// Line.
        line: u64,
        /// Column.
        column: &'static str,
        /// What stands there, shortened.
        value: String,
        /// What should.
        is: &'static str,
    },
    /// Rows are out of order.
    #[error("line {line} was sent {back_s:.3} s before the row before it: rows must be in sending order")]
    Order {
        /// Line.
        line: u64,
        /// How far back, seconds.
        back_s: f64,
    },
    /// A line cannot be read.
    #[error(transparent)]
    Line(#[from] LineError),
}

const COLUMNS: [&str; 6] = ["t_send_us", "bytes", "t_recv_us", "flow", "direction", "transport"];

/// Where each column stands.
struct Header {
    at: [Option<usize>; 6],
    fields: usize,
}

impl Header {
    fn read(record: &Lines<impl Read>) -> Result<Self, TraceError> {
        let mut at = [None; 6];
        let mut has = Vec::new();
        for (n, field) in record.fields().enumerate() {
            let name = String::from_utf8_lossy(field).to_lowercase();
            if let Some(which) = COLUMNS.iter().position(|c| *c == name) {
                if at[which].is_some() {
                    return Err(TraceError::TwiceNamed(COLUMNS[which]));
                }
                at[which] = Some(n);
            }
            has.push(short(&name));
        }
        for (n, column) in COLUMNS.into_iter().enumerate().take(3) {
            if at[n].is_none() {
                has.truncate(8);
                return Err(TraceError::NoColumn { column, has: has.join(",") });
            }
        }
        Ok(Self { at, fields: record.len() })
    }

    fn field<'r>(&self, record: &'r Lines<impl Read>, column: usize) -> Option<&'r [u8]> {
        record.field(self.at[column]?)
    }

    /// A field as text, or why it is not what it should be.
    fn text<'r>(&self, record: &'r Lines<impl Read>, column: usize) -> Result<&'r str, String> {
        let bytes = self.field(record, column).unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| short(&String::from_utf8_lossy(bytes)))
    }
}

/// At most twenty characters, none of them for terminals to act on.
fn short(text: &str) -> String {
    text.chars().take(20).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The names of flows, by number.
#[derive(Debug, Default)]
pub struct FlowNames {
    numbers: HashMap<Vec<u8>, u32>,
    names: Vec<String>,
}

impl FlowNames {
    /// The name of a flow.
    pub fn of(&self, flow: u32) -> String {
        match self.names.get(flow as usize) {
            Some(name) if !name.is_empty() => name.clone(),
            Some(_) => "trace".to_owned(),
            None => "others".to_owned(),
        }
    }

    fn number(&mut self, name: &[u8], analyser: &mut Analyser) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        if self.names.len() >= MAX_FLOWS {
            return MAX_FLOWS as u32;
        }
        let text: String =
            String::from_utf8_lossy(name).chars().take(120).filter(|c| !c.is_control()).collect();
        let text = if text.is_empty() { "trace".to_owned() } else { text };
        analyser.name(number, &text);
        self.numbers.insert(name.to_vec(), number);
        self.names.push(text);
        number
    }
}

/// What a trace's columns allow to be said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Rows.
    pub rows: u64,
    /// Rows without bytes, which are left out.
    pub without_bytes: u64,
    /// Some row says that it is TCP.
    pub tcp: bool,
    /// Some row says that it is UDP.
    pub udp: bool,
    /// Rows say their direction.
    pub direction: bool,
}

/// Reads a trace into the analyser.
///
/// # Errors
/// A [`TraceError`] at the first line that cannot be understood.
pub fn read(from: impl Read, analyser: &mut Analyser) -> Result<(FlowNames, Seen), TraceError> {
    let mut record = Lines::new(from);
    if !record.advance()? {
        return Err(TraceError::Empty);
    }
    let header = Header::read(&record)?;
    let (mut names, mut seen, mut before) = (FlowNames::default(), Seen::default(), f64::NEG_INFINITY);
    while record.advance()? {
        let line = record.number();
        if record.len() != header.fields {
            return Err(TraceError::Fields { line, has: record.len(), needs: header.fields });
        }
        let wrong =
            |column: usize, value: String, is| TraceError::Field { line, column: COLUMNS[column], value, is };
        let sent_us = time(&header, &record, 0)
            .map_err(|v| wrong(0, v, "a time in microseconds"))?
            .ok_or_else(|| wrong(0, String::new(), "a time in microseconds"))?;
        let arrived_us =
            time(&header, &record, 2).map_err(|v| wrong(2, v, "a time in microseconds (or empty: lost)"))?;
        let bytes = header
            .text(&record, 1)
            .and_then(|t| length(t).ok_or_else(|| short(t)))
            .map_err(|v| wrong(1, v, "a length in bytes"))?;
        if sent_us < before - BACK_US {
            return Err(TraceError::Order { line, back_s: (before - sent_us) / 1e6 });
        }
        before = before.max(sent_us);
        let direction = direction(&header, &record).map_err(|v| wrong(4, v, "a direction: up or down"))?;
        let transport = transport(&header, &record).map_err(|v| wrong(5, v, "a transport: tcp or udp"))?;
        let flow = names.number(header.field(&record, 3).unwrap_or_default(), analyser);
        seen.rows += 1;
        seen.tcp |= transport == Some(Transport::Tcp);
        seen.udp |= transport == Some(Transport::Udp);
        seen.direction |= direction.is_some();
        if bytes == 0 {
            seen.without_bytes += 1;
        } else {
            analyser.push(&Row { sent_us, bytes, arrived_us, flow, direction, transport });
        }
    }
    if seen.rows == 0 {
        return Err(TraceError::NoRows);
    }
    Ok((names, seen))
}

/// A whole number of bytes; tools that keep all columns as fractions write `1500.0`.
fn length(text: &str) -> Option<u32> {
    let whole =
        text.split_once('.').filter(|(_, rest)| rest.bytes().all(|b| b == b'0')).map_or(text, |(w, _)| w);
    whole.parse::<u32>().ok().filter(|bytes| *bytes <= MAX_BYTES)
}

/// A time; none where the field is empty.
fn time(header: &Header, record: &Lines<impl Read>, column: usize) -> Result<Option<f64>, String> {
    let text = header.text(record, column)?;
    if text.is_empty() {
        return Ok(None);
    }
    // Digits, a sign and a fraction: no exponents, no names of numbers.
    let plain =
        text.bytes().enumerate().all(|(n, b)| b.is_ascii_digit() || b == b'.' || (n == 0 && b == b'-'));
    match text.parse::<f64>() {
        Ok(value) if plain && value.abs() < 9e15 => Ok(Some(value)),
        Ok(_) | Err(_) => Err(short(text)),
    }
}

fn direction(header: &Header, record: &Lines<impl Read>) -> Result<Option<Direction>, String> {
    let text = header.text(record, 4)?;
    match text.to_ascii_lowercase().as_str() {
        "" => Ok(None),
        "up" | "upload" | "out" | "tx" | "c2s" | "forward" => Ok(Some(Direction::Up)),
        "down" | "download" | "in" | "rx" | "s2c" | "reverse" => Ok(Some(Direction::Down)),
        _ => Err(short(text)),
    }
}

fn transport(header: &Header, record: &Lines<impl Read>) -> Result<Option<Transport>, String> {
    let text = header.text(record, 5)?;
    match text.to_ascii_lowercase().as_str() {
        "" => Ok(None),
        "tcp" | "tls" | "6" => Ok(Some(Transport::Tcp)),
        "udp" | "quic" | "17" => Ok(Some(Transport::Udp)),
        _ => Err(short(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        match read(text.as_bytes(), &mut Analyser::default()) {
            Ok((_, seen)) => format!("{} rows", seen.rows),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn columns_stand_in_any_order_and_in_any_form_of_csv() {
        for text in [
            "t_send_us,bytes,t_recv_us\n1,100,2\n",
            "t_recv_us,t_send_us,bytes\n,1,100\n",
            "\u{feff}t_send_us,bytes,t_recv_us\r\n1.25,100,2.5\r\n",
            "\"t_send_us\",\"bytes\",\"t_recv_us\",\"note\"\n\"1\",\"100\",\"2\",\"a, \"\"b\"\"\"\n",
            " T_Send_us , bytes , t_recv_us , flow , direction , transport \n 1 , 100 , 2 , a , Up , UDP \n",
            "t_send_us,bytes,t_recv_us,direction\n-5,1,,\n\n",
            "t_send_us,bytes,t_recv_us\n1753000000123456,1500,1753000000143456",
            "t_send_us,bytes,t_recv_us\n1.0,1500.0,2.0\n",
        ] {
            assert!(["1 rows", "2 rows"].contains(&said(text).as_str()), "{text:?}: {}", said(text));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_column() {
        for (text, says) in [
            ("", "the file is empty"),
            ("t_send_us,bytes\n1,2\n", "no column t_recv_us (it has t_send_us,bytes)"),
            ("a;b;c\n", "no column t_send_us (it has a;b;c)"),
            ("t_send_us,bytes,t_recv_us,bytes\n", "names the column bytes twice"),
            ("t_send_us,bytes,t_recv_us\n", "a header and no rows"),
            ("t_send_us,bytes,t_recv_us\n1,2,3\n4,5\n", "line 3 has 2 fields, and the header has 3"),
            ("t_send_us,bytes,t_recv_us\r\n\r\n1,2,3\r\n \r\n4,5\r\n", "line 5 has 2 fields"),
            ("t_send_us,bytes,t_recv_us\n1,15.5,3\n", "line 2, column bytes: \"15.5\""),
            ("t_send_us,bytes,t_recv_us\n1,\"15,3\n", "line 2: a quotation does not end"),
            (
                "t_send_us,bytes,t_recv_us\n1,100,2\nx,100,2\n",
                "line 3, column t_send_us: \"x\" is not a time",
            ),
            ("t_send_us,bytes,t_recv_us\n,100,2\n", "line 2, column t_send_us"),
            ("t_send_us,bytes,t_recv_us\n1,-100,2\n", "line 2, column bytes: \"-100\" is not a length"),
            ("t_send_us,bytes,t_recv_us\n1,100,NaN\n", "line 2, column t_recv_us: \"NaN\""),
            ("t_send_us,bytes,t_recv_us\n1,100,1e9\n", "line 2, column t_recv_us: \"1e9\""),
            ("t_send_us,bytes,t_recv_us\n9000000,1,2\n1,1,2\n", "line 3 was sent 9.000 s before"),
            ("t_send_us,bytes,t_recv_us,direction\n1,1,2,left\n", "line 2, column direction: \"left\""),
            ("t_send_us,bytes,t_recv_us,transport\n1,1,2,sctp\n", "line 2, column transport: \"sctp\""),
        ] {
            assert!(said(text).contains(says), "{text:?}: {}", said(text));
        }
    }

    #[test]
    fn any_bytes_are_refused_without_harm() {
        let mut state = 7u32;
        for length in 0..400 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            assert!(read(bytes.as_slice(), &mut Analyser::default()).is_err());
            let text = [b"t_send_us,bytes,t_recv_us\n".as_slice(), &bytes].concat();
            let _ = read(text.as_slice(), &mut Analyser::default());
        }
    }
}
