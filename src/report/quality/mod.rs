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
mod interval;
mod peft_result;
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
    /// The value's 95 % interval, if it's a share of right answers.
    pub interval: Option<[f64; 2]>,
    /// What was matched, in words.
    pub matched: String,
}

/// What's published for the variants of a result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Qualities {
    /// Of the adapter, merged or not.
    pub adapter: Option<Quality>,
    /// Of the model that was trained as a whole, which costs what the base does.
    pub base: Option<Quality>,
}
