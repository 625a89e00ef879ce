//! Options that several methods share.

use crate::adapter::targets::ValuePattern;
use crate::json::{ConfigError, JsonObject};

/// The largest rank. Fresh matrices are drawn with it.
pub const LARGEST_RANK: usize = 1 << 16;

/// A rank that may differ by module (`rank_pattern`).
#[derive(Debug)]
pub struct Rank {
    default: usize,
    pattern: ValuePattern,
}

impl Rank {
    /// Reads `r` and `rank_pattern`.
    ///
    /// # Errors
    /// If one isn't a positive integer up to [`LARGEST_RANK`].
    pub fn read(config: &JsonObject, default: usize) -> Result<Self, ConfigError> {
        let whole = |r: f64| is_count(r) && r <= LARGEST_RANK as f64;
        let expected = format!("a positive integer (at most {LARGEST_RANK})");
        Ok(Self {
            default: rank(config, "r", default)?,
            pattern: ValuePattern::read(config, "rank_pattern", &expected, whole)?,
        })
    }

    /// The rank of the module at `path`.
    ///
    /// # Errors
    /// If a regular expression can't be matched.
    pub fn of(&self, config: &JsonObject, path: &str) -> Result<usize, ConfigError> {
        let found = self.pattern.get(config, path)?;
        Ok(found.map_or(self.default, |r| r as usize))
    }
}

/// A factor that may differ by module (`alpha_pattern`).
#[derive(Debug)]
pub struct Factor {
    default: f64,
    pattern: ValuePattern,
}

impl Factor {
    /// Reads the number `key` and the object `pattern`.
    ///
    /// # Errors
    /// If a value isn't a finite number in float32.
    pub fn read(
        config: &JsonObject,
        key: &str,
        default: f64,
        pattern: &str,
    ) -> Result<Self, ConfigError> {
        let finite = |value: f64| (value as f32).is_finite();
        let expected = "a number that float32 holds";
        Ok(Self {
            default: factor(config, key, default)?,
            pattern: ValuePattern::read(config, pattern, expected, finite)?,
        })
    }

    /// The factor of the module at `path`.
    ///
    /// # Errors
    /// If a regular expression can't be matched.
    pub fn of(&self, config: &JsonObject, path: &str) -> Result<f64, ConfigError> {
        Ok(self.pattern.get(config, path)?.unwrap_or(self.default))
    }
}

/// Reads a rank that's the same for all modules.
///
/// # Errors
/// If it isn't a positive integer up to [`LARGEST_RANK`].
pub fn rank(config: &JsonObject, key: &str, default: usize) -> Result<usize, ConfigError> {
    let found = config.optional_size_up_to(key, LARGEST_RANK)?;
    Ok(found.unwrap_or(default))
}

/// Reads a number that must be finite in float32.
///
/// # Errors
/// If it isn't.
pub fn factor(config: &JsonObject, key: &str, default: f64) -> Result<f64, ConfigError> {
    let value = config.optional_number(key)?.unwrap_or(default);
    if !(value as f32).is_finite() {
        return Err(config.wrong(key, "a number that float32 holds"));
    }
    Ok(value)
}

/// Reads a seed of PyTorch's generator. A negative one counts from 2^64, as in PyTorch.
///
/// # Errors
/// If it isn't an integer.
pub fn seed(config: &JsonObject, key: &str, default: u64) -> Result<u64, ConfigError> {
    let Some(value) = config.get(key) else {
        return Ok(default);
    };
    let negative = value.as_i64().map(|seed| seed as u64);
    let found = value.as_u64().or(negative);
    found.ok_or_else(|| config.wrong(key, "a whole number"))
}

/// Whether `value` is a positive integer.
pub fn is_count(value: f64) -> bool {
    value > 0.0 && value.fract() == 0.0
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn factors_of_modules_may_be_any_number_and_ranks_only_whole_ones() {
        let config = |key: &str, value: f64| {
            JsonObject::of(Path::new("x"), json!({(key): {"q_proj": value}}))
        };
        for alpha in [0.0, -2.5, 3.0] {
            let config = config("alpha_pattern", alpha);
            let factor = Factor::read(&config, "lora_alpha", 8.0, "alpha_pattern").unwrap();
            assert_eq!(factor.of(&config, "layers.0.q_proj").unwrap(), alpha);
            assert_eq!(factor.of(&config, "layers.0.v_proj").unwrap(), 8.0);
        }
        for r in [0.0, -1.0, 0.5] {
            assert!(Rank::read(&config("rank_pattern", r), 8).is_err());
        }
    }
}
