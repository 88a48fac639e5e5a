//! Observations other than single probes, as JSON.

use probe_analysis::observation::Observation;
use serde_json::Value;

use super::chunk::ChunkError;

/// One such observation, as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) position: u64,
    pub(super) kind: String,
    pub(super) flow: Option<u32>,
    pub(super) body: String,
}

/// Kinds that come so often that they are packed: once a second and more.
pub(super) const OFTEN: [&str; 3] = ["Watch", "Missed", "Load"];

/// Compression of packed rows: the middle of zlib's scale.
const COMPRESSION: u8 = 6;
/// Unpacked, at most.
const MAX_UNPACKED: usize = 64 << 20;

impl Row {
    /// Writes an observation down.
    pub(super) fn of(position: u64, observation: &Observation) -> Result<Self, serde_json::Error> {
        let (kind, body) = match serde_json::to_value(observation)? {
            Value::Object(fields) => fields.into_iter().next().unwrap_or_default(),
            Value::String(kind) => (kind, Value::Null),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => Default::default(),
        };
        let flow = body.get("flow").and_then(Value::as_u64).and_then(|flow| u32::try_from(flow).ok());
        Ok(Self { position, kind, flow, body: body.to_string() })
    }

    /// The observation.
    pub(super) fn read(&self) -> Result<Observation, serde_json::Error> {
        serde_json::from_str(&format!("{{\"{}\":{}}}", self.kind, self.body))
    }
}

/// Packs rows into few bytes.
pub(super) fn pack(rows: &[Row]) -> Vec<u8> {
    let mut lines = String::new();
    for row in rows {
        lines.push_str(&format!("{}\t{}\t{}\n", row.position, row.kind, row.body));
    }
    miniz_oxide::deflate::compress_to_vec_zlib(lines.as_bytes(), COMPRESSION)
}

/// Takes packed rows apart.
pub(super) fn unpack(bytes: &[u8]) -> Result<Vec<Row>, ChunkError> {
    let lines = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(bytes, MAX_UNPACKED)
        .map_err(|_| ChunkError::Checksum)?;
    let lines = String::from_utf8(lines).map_err(|_| ChunkError::Checksum)?;
    let row = |line: &str| {
        let mut parts = line.splitn(3, '\t');
        let position = parts.next()?.parse().ok()?;
        let (kind, body) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Row { position, kind, flow: None, body })
    };
    lines.lines().map(|line| row(line).ok_or(ChunkError::Count)).collect()
}
