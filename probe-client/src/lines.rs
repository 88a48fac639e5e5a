//! Lines of comma-separated fields (RFC 4180, one record a line), read one by one, with their true numbers.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

/// Longest line, bytes: no trace has one, and memory stays bounded whatever is read.
pub const MAX_LINE: usize = 1 << 16;

/// Why a line cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// It is too long.
    #[error("line {0} is longer than {MAX_LINE} bytes: this is no packet trace")]
    Long(u64),
    /// A quotation does not end.
    #[error("line {0}: a quotation does not end")]
    Quotation(u64),
    /// The system does not read on.
    #[error("it cannot be read on: {0}")]
    Io(#[from] io::Error),
}

/// Reads lines; those that hold nothing but white space are passed over, and counted.
pub struct Lines<R> {
    from: BufReader<R>,
    number: u64,
    line: Vec<u8>,
    fields: Vec<Range<usize>>,
    plain: Vec<u8>,
}

impl<R> std::fmt::Debug for Lines<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines(at {})", self.number)
    }
}

impl<R: Read> Lines<R> {
    /// Of this source.
    pub fn new(from: R) -> Self {
        Self {
            from: BufReader::with_capacity(1 << 17, from),
            number: 0,
            line: Vec::new(),
            fields: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// The number of the line read last, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many fields it has.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether no line has been read.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// A field without the white space around it; none where the line has no so many.
    pub fn field(&self, at: usize) -> Option<&[u8]> {
        self.line.get(self.fields.get(at)?.clone()).map(<[u8]>::trim_ascii)
    }

    /// All fields.
    pub fn fields(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|at| self.field(at))
    }

    /// Reads the next line that holds something; false at the end.
    ///
    /// # Errors
    /// A [`LineError`].
    pub fn advance(&mut self) -> Result<bool, LineError> {
        loop {
            self.fields.clear();
            if !self.read_line()? {
                return Ok(false);
            }
            self.number += 1;
            if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                // A byte order mark.
                self.line.drain(..3);
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            if self.line.contains(&b'"') {
                self.unquote()?;
            } else {
                self.split();
            }
            return Ok(true);
        }
    }

    /// One line without its end; false where nothing is left.
    fn read_line(&mut self) -> Result<bool, LineError> {
        self.line.clear();
        loop {
            let available = match self.from.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if available.is_empty() {
                return Ok(!self.line.is_empty());
            }
            let end = available.iter().position(|b| *b == b'\n');
            let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
            if self.line.len() + part.len() > MAX_LINE {
                return Err(LineError::Long(self.number + 1));
            }
            self.line.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.from.consume(used);
            if end.is_some() {
                // An empty line is a line, too: its end was read.
                if self.line.last() == Some(&b'\r') {
                    self.line.pop();
                }
                return Ok(true);
            }
        }
    }

    fn split(&mut self) {
        let mut from = 0;
        for (at, byte) in self.line.iter().enumerate() {
            if *byte == b',' {
                self.fields.push(from..at);
                from = at + 1;
            }
        }
        self.fields.push(from..self.line.len());
    }

    /// Splits a line with quotations, in which commas are text and two marks are one.
    fn unquote(&mut self) -> Result<(), LineError> {
        self.plain.clear();
        let (mut from, mut quoted) = (0, false);
        let mut bytes = self.line.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' if quoted && bytes.peek() == Some(&b'"') => {
                    bytes.next();
                    self.plain.push(b'"');
                }
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    self.fields.push(from..self.plain.len());
                    from = self.plain.len();
                }
                other => self.plain.push(other),
            }
        }
        if quoted {
            return Err(LineError::Quotation(self.number));
        }
        self.fields.push(from..self.plain.len());
        std::mem::swap(&mut self.line, &mut self.plain);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<(u64, Vec<String>)>, LineError> {
        let mut lines = Lines::new(text);
        let mut out = Vec::new();
        while lines.advance()? {
            let fields = lines.fields().map(|f| String::from_utf8_lossy(f).into_owned()).collect();
            out.push((lines.number(), fields));
        }
        Ok(out)
    }

    #[test]
    fn lines_keep_their_numbers_whatever_ends_them() {
        let is = |n: u64, fields: &[&str]| (n, fields.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
        for (text, expected) in [
            (&b"a,b\n\n \t\n1, 2 \n"[..], vec![is(1, &["a", "b"]), is(4, &["1", "2"])]),
            (b"\xef\xbb\xbfa,b\r\n\r\n1,2\r\n", vec![is(1, &["a", "b"]), is(3, &["1", "2"])]),
            (b"a,,", vec![is(1, &["a", "", ""])]),
            (b"\"a,\"\"x\"\"\",\" b \"\n\"\",c", vec![is(1, &["a,\"x\"", "b"]), is(2, &["", "c"])]),
            (b"", vec![]),
        ] {
            assert_eq!(read(text).unwrap(), expected, "{:?}", String::from_utf8_lossy(text));
        }
        assert!(matches!(read(b"a\n\"b\nc\n"), Err(LineError::Quotation(2))));
    }

    #[test]
    fn a_line_without_an_end_is_refused_at_its_bound() {
        assert!(read(&vec![b'x'; MAX_LINE]).is_ok());
        let long = [b"a\n".as_slice(), &vec![b'x'; MAX_LINE + 1]].concat();
        assert!(matches!(read(&long), Err(LineError::Long(2))));
    }
}
