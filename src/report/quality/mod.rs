//! Published quality beside measured cost.
//!
//! ```text
//! PEFT's results, or a CSV ─ Published::read ─▶ Published ─ of(a result) ─▶ Quality ─▶ columns
//! ```
//!
//! A published result is taken for a measured one only if method, all hyper-parameters and the base
//! model are equal. The nearest other is named with what differs, and its value stands in words alone,
//! so that no plot or filter takes it.

mod configuration;
mod plain;
mod published;

pub use plain::PlainError;
pub use published::{Published, QualityError};

/// What's published of a result's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    /// The metric, as it was published.
    pub metric: String,
    /// Its value; `None` if only something near was found.
    pub value: Option<f64>,
    /// What was matched, in words.
    pub matched: String,
}
