//! A report is a model built once ([`model::Report`]) and rendered in several forms. Rendering never computes.
//!
//! To add a form, add a file beside [`json`] and [`text`]: it may format what the model holds, and nothing else.

mod build;
pub mod json;
pub mod model;
pub mod redact;
pub mod text;

pub use self::build::{Origin, build};
pub use self::model::Report;
