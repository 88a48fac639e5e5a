//! Control messages (`cmsg(3)`) in the kernel's layout, written and read without `unsafe`.
//!
//! Each is a header of `size_t` length (header included), `int` level and `int` type, then its data; the next one
//! starts at the next multiple of the word size. This is the kernel's own layout, whatever the C library is.

use super::addr::array;

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 8;

const fn aligned(len: usize) -> usize {
    (len + WORD - 1) & !(WORD - 1)
}

/// Control messages being written into a buffer.
pub(super) struct Writer<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// Appends a message; one that does not fit is left out (the buffers hold all that this crate writes).
    pub(super) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let Some(space) = self.buffer.get_mut(self.len..self.len + aligned(HEADER + data.len())) else {
            debug_assert!(false, "the control buffer is too small for level {level} type {kind}");
            return;
        };
        space[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        space[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        space[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        space[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.len += space.len();
    }

    /// Bytes written.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// The control messages of a received datagram: `(level, type, data)`. Ends at the first one that is not whole.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(received: &'a [u8]) -> Self {
        Self(received)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from_ne_bytes(array(self.0, 0)?);
        let level = i32::from_ne_bytes(array(self.0, WORD)?);
        let kind = i32::from_ne_bytes(array(self.0, WORD + 4)?);
        let data = self.0.get(HEADER..len)?;
        // The last message may end without padding.
        self.0 = self.0.get(aligned(len)..).unwrap_or(&[]);
        Some((level, kind, data))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(messages in prop::collection::vec((any::<i32>(), any::<i32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6)) {
            let mut buffer = [0; 512];
            let mut writer = Writer::new(&mut buffer);
            for (level, kind, data) in &messages {
                writer.push(*level, *kind, data);
            }
            let len = writer.len();
            let read: Vec<_> = Reader::new(&buffer[..len]).map(|(l, k, d)| (l, k, d.to_vec())).collect();
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn any_bytes_end(bytes: Vec<u8>) {
            prop_assert!(Reader::new(&bytes).count() <= bytes.len() / HEADER + 1);
        }
    }

    #[test]
    fn a_length_that_lies_ends_the_reading() {
        for len in [0, 1, HEADER - 1, HEADER + 9, usize::MAX - 3, usize::MAX] {
            let mut bytes = [0; HEADER + 8];
            bytes[..WORD].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(Reader::new(&bytes).next(), None, "length {len}");
        }
    }
}
