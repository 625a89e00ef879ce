//! Reading JSON that other programs wrote, key by key, and the helpers that word its errors.

pub mod check;
pub mod object;

pub use object::{ConfigError, JsonObject};
