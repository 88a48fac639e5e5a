//! Columns of whole numbers, compressed: the one place that knows the codec.
//!
//! [pco](https://docs.rs/pco) sorts the values of a column into bins and codes the bins with tANS, so a column costs
//! about its entropy. Differences are taken by the caller, who knows what predicts what.

use pco::data_types::Number;
use pco::standalone::{simple_compress, simple_decompress_into};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

use super::chunk::ChunkError;

/// Appends a column: its length in bytes, then its bytes. Columns without values take one byte.
pub(super) fn write<T: Number>(values: &[T], out: &mut Vec<u8>) -> Result<(), ChunkError> {
    if values.is_empty() {
        out.push(0);
        return Ok(());
    }
    let config = ChunkConfig::default().with_mode_spec(ModeSpec::Classic).with_delta_spec(DeltaSpec::NoOp);
    let bytes = simple_compress(values, &config).map_err(|error| ChunkError::Codec(error.to_string()))?;
    unsigned(bytes.len() as u64, out);
    out.extend_from_slice(&bytes);
    Ok(())
}

/// Takes a column of exactly `count` values off the front of `bytes`.
pub(super) fn read<T: Number + Default>(bytes: &mut &[u8], count: usize) -> Result<Vec<T>, ChunkError> {
    let length = take_length(bytes)?;
    let (column, rest) = bytes.split_at_checked(length).ok_or(ChunkError::Short)?;
    *bytes = rest;
    // The room is the caller's count: what the bytes claim decides nothing about memory.
    let mut values = vec![T::default(); count];
    if count == 0 {
        return if column.is_empty() { Ok(values) } else { Err(ChunkError::Count) };
    }
    let progress =
        simple_decompress_into(column, &mut values).map_err(|error| ChunkError::Codec(error.to_string()))?;
    if progress.n_processed != count {
        return Err(ChunkError::Count);
    }
    Ok(values)
}

/// Appends an unsigned number, seven bits a byte, the lowest first (LEB128).
pub(super) fn unsigned(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number, with its sign in the lowest bit.
pub(super) fn signed(value: i64, out: &mut Vec<u8>) {
    unsigned(((value << 1) ^ (value >> 63)).cast_unsigned(), out);
}

/// Takes an unsigned number off the front.
pub(super) fn take_unsigned(bytes: &mut &[u8]) -> Result<u64, ChunkError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(ChunkError::Short)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ChunkError::Count)
}

/// Takes a signed number off the front.
pub(super) fn take_signed(bytes: &mut &[u8]) -> Result<i64, ChunkError> {
    let coded = take_unsigned(bytes)?;
    Ok((coded >> 1).cast_signed() ^ -(coded & 1).cast_signed())
}

/// Takes a number that counts things in memory off the front.
pub(super) fn take_length(bytes: &mut &[u8]) -> Result<usize, ChunkError> {
    usize::try_from(take_unsigned(bytes)?).map_err(|_| ChunkError::Count)
}
