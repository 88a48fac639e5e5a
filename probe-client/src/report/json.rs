//! The report as one JSON document, and the JSON Schema that it follows.

use super::Report;

/// The document, indented, with a line break at its end.
///
/// # Errors
/// None that a report can cause; the type is serde's.
pub fn render(report: &Report) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(report).map(|text| text + "\n")
}

/// The document in one line, for machines.
///
/// # Errors
/// None that a report can cause; the type is serde's.
pub fn compact(report: &Report) -> Result<String, serde_json::Error> {
    serde_json::to_string(report)
}

/// The JSON Schema (draft 2020-12) of [`render`]'s document, with a line break at its end.
///
/// # Errors
/// None in practice; the type is serde's.
pub fn schema() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&schemars::schema_for!(Report)).map(|text| text + "\n")
}
