//! Other people's JSON: objects whose keys are read one by one, and what messages say of them.

pub mod check;
pub mod object;

pub use object::{ConfigError, JsonObject};
