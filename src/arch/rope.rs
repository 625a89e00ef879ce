//! Rotary position embedding: the frequencies, with the scalings of Transformers'
//! `modeling_rope_utils.py`.
//!
//! Pair `j` of a head is turned by `position * inv_freq[j]`, `inv_freq[j] = theta^(-2j / head_dim)`.
//!
//! - `linear`: every frequency is divided by `factor`.
//! - `llama3`: wavelengths (`2 pi / inv_freq`) longer than `original / low_freq_factor` are divided by
//!   `factor`, those shorter than `original / high_freq_factor` stay, those between are blended.

use crate::json_object::{ConfigError, JsonObject};

/// Frequencies of a rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RotarySpec {
    /// One for each pair of a head, `head_dim / 2` in all.
    pub inv_freq: Vec<f32>,
}

const TYPES: &str = "one of default, linear, llama3";

/// Reads `rope_theta` and `rope_scaling`, or the `rope_parameters` of Transformers 5.
pub fn rotary(config: &JsonObject, head_dim: usize) -> Result<RotarySpec, ConfigError> {
    let nested = config.optional_object("rope_parameters")?;
    let scaling = match &nested {
        Some(parameters) => Some(parameters.clone()),
        None => config.optional_object("rope_scaling")?,
    };
    let theta = match nested.as_ref().map(|n| n.optional_number("rope_theta")) {
        Some(theta) => theta?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => theta,
        None => config.optional_number("rope_theta")?.unwrap_or(10_000.0),
    };
    if theta <= 0.0 {
        return Err(config.wrong("rope_theta", "a positive number"));
    }
    if let Some(partial) = config.optional_number("partial_rotary_factor")?
        && partial != 1.0
    {
        return Err(config.wrong("partial_rotary_factor", "1 (others are not supported)"));
    }

    // In float32, in Transformers' order of operations: positions are multiplied by these, so a
    // difference in the last place grows with the length of the prompt.
    let mut inv_freq: Vec<f32> = (0..head_dim / 2)
        .map(|j| 1.0 / (theta as f32).powf((2 * j) as f32 / head_dim as f32))
        .collect();

    if let Some(scaling) = scaling {
        let key = if scaling.get("rope_type").is_some() {
            "rope_type"
        } else {
            "type"
        };
        match scaling.optional_text(key)? {
            None | Some("default") => {}
            Some("linear") => {
                let factor = positive(&scaling, "factor")? as f32;
                inv_freq.iter_mut().for_each(|f| *f /= factor);
            }
            Some("llama3") => llama3(&mut inv_freq, config, &scaling)?,
            Some(_) => return Err(scaling.wrong(key, TYPES)),
        }
    }
    if !inv_freq.iter().all(|frequency| frequency.is_finite()) {
        let key = if nested.is_some() {
            "rope_parameters"
        } else {
            "rope_theta"
        };
        return Err(config.wrong(key, "numbers that give finite frequencies in float32"));
    }
    Ok(RotarySpec { inv_freq })
}

fn llama3(
    inv_freq: &mut [f32],
    config: &JsonObject,
    scaling: &JsonObject,
) -> Result<(), ConfigError> {
    let factor = positive(scaling, "factor")?;
    let low = positive(scaling, "low_freq_factor")?;
    let high = positive(scaling, "high_freq_factor")?;
    if high <= low {
        return Err(scaling.wrong("high_freq_factor", "a number above `low_freq_factor`"));
    }
    let original = match scaling.optional_size("original_max_position_embeddings")? {
        Some(original) => original,
        None => config.size("max_position_embeddings")?,
    } as f64;
    for value in inv_freq {
        let f = f64::from(*value);
        let wavelength = 2.0 * std::f64::consts::PI / f;
        let scaled = if wavelength > original / low {
            f / factor
        } else if wavelength < original / high {
            f
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * f / factor + smooth * f
        };
        *value = scaled as f32;
    }
    Ok(())
}

fn positive(config: &JsonObject, key: &str) -> Result<f64, ConfigError> {
    let value = config.number(key)?;
    if value > 0.0 {
        Ok(value)
    } else {
        Err(config.wrong(key, "a positive number"))
    }
}
