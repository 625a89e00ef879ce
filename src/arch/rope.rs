//! Rotary position embedding: the frequencies, with the scalings of Transformers'
//! `modeling_rope_utils.py`.
//!
//! The first `dim = head_dim * partial_rotary_factor` elements of a head are rotated: pair `j` by
//! the angle `position * inv_freq[j]`, with `inv_freq[j] = theta^(-2j / dim)`.
//!
//! - `linear`: every frequency is divided by `factor`.
//! - `dynamic`: beyond `max_position_embeddings` the base grows with the sequence. Up to there
//!   nothing changes, and no more positions are supported here.
//! - `llama3`: wavelengths (`2 pi / inv_freq`) longer than `original / low_freq_factor` are divided
//!   by `factor`, shorter than `original / high_freq_factor` stay, and those between are blended.
//! - `yarn`: the pairs go in a ramp from those that stay to those divided by `factor`; cosines and
//!   sines are multiplied by a factor too.
//! - `longrope`: frequencies are divided by `short_factor` or, in sequences longer than
//!   `original_max_position_embeddings`, by `long_factor`; cosines and sines are multiplied by a
//!   factor too. A cache that grows beyond that length would contain keys of both kinds. For some
//!   families, Transformers drops it once and recomputes all keys ([`LongFrequencies`]); for the
//!   others, positions end at that length here.

use serde_json::Value;

use super::read::positive;
use crate::json::{ConfigError, JsonObject};

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RotarySpec {
    /// One frequency per rotated pair.
    pub inv_freq: Vec<f32>,
    /// Cosines and sines are multiplied by this.
    pub factor: f32,
    /// Which elements form a pair.
    pub pairs: Pairs,
    /// Other frequencies, for longer sequences.
    pub long: Option<LongFrequencies>,
    /// The number of positions with these frequencies, and the reason for the limit.
    limit: Option<(usize, &'static str)>,
}

/// Frequencies for all positions of a sequence that's longer than a given length.
#[derive(Debug, Clone, PartialEq)]
pub struct LongFrequencies {
    /// One frequency per rotated pair.
    pub inv_freq: Vec<f32>,
    /// The length up to which the others are used.
    pub beyond: usize,
}

/// Which elements of a head form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// `j` and `j + dim / 2`
    Halves,
    /// `2j` and `2j + 1`
    Neighbours,
}

impl RotarySpec {
    /// Unscaled frequencies for the first `dim` elements of a head.
    pub fn plain(theta: f64, dim: usize, pairs: Pairs) -> Self {
        Self {
            inv_freq: frequencies(theta, dim).collect(),
            factor: 1.0,
            pairs,
            long: None,
            limit: None,
        }
    }

    /// How many of a model's `positions` can use these frequencies, and the reason if not all.
    pub fn most_positions(&self, positions: usize) -> (usize, Option<&'static str>) {
        match self.limit {
            Some((limit, reason)) if limit <= positions => (limit, Some(reason)),
            _ => (positions, None),
        }
    }

    /// These frequencies for at most `positions` positions: without other frequencies that no
    /// sequence would be long enough for.
    pub fn up_to(mut self, positions: usize) -> Self {
        self.long = self.long.filter(|long| long.beyond < positions);
        self
    }

    /// Number of rotated elements of a head.
    pub fn dim(&self) -> usize {
        2 * self.inv_freq.len()
    }
}

/// A family's defaults for rotary embeddings, and its own keys.
#[derive(Debug, Clone, Copy)]
pub struct RopeDefaults {
    /// The default base, and its key outside `rope_parameters`.
    pub theta: (f64, &'static str),
    /// The default fraction of a head that's rotated, and its key outside `rope_parameters`; `None`
    /// for families that rotate whole heads.
    pub partial: Option<(f64, &'static str)>,
    /// Which elements form a pair.
    pub pairs: Pairs,
    /// Default of `original_max_position_embeddings`; `None` means `max_position_embeddings`.
    pub original: Option<usize>,
    /// Whether generation recomputes all keys where `longrope` changes its frequencies.
    pub recomputes: bool,
}

impl Default for RopeDefaults {
    fn default() -> Self {
        Self {
            theta: (10_000.0, "rope_theta"),
            partial: None,
            pairs: Pairs::Halves,
            original: None,
            recomputes: false,
        }
    }
}

/// Reasons why positions end.
const DYNAMIC: &str = "beyond them a `dynamic` rotary embedding changes with every token";
const LONGROPE: &str = "beyond them `longrope` uses `long_factor`, and Transformers keeps the cached keys of this family as they are";

const TYPES: &str = "one of default, linear, dynamic, llama3, yarn, longrope";

/// Reads the `rope_parameters` of Transformers 5, or the older `rope_scaling` and `rope_theta`.
pub fn rotary(
    config: &JsonObject,
    head_dim: usize,
    defaults: &RopeDefaults,
) -> Result<RotarySpec, ConfigError> {
    let parameters = match config.optional_object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => config.optional_object("rope_scaling")?,
    };
    with_parameters(config, parameters, head_dim, defaults)
}

/// The rotation that Transformers calls `proportional`: of a head's pairs, the part
/// `partial_rotary_factor` turns, with frequencies over the whole head. The others stay.
pub fn proportional(
    parameters: &JsonObject,
    theta: f64,
    head_dim: usize,
) -> Result<RotarySpec, ConfigError> {
    const PARTIAL: &str = "partial_rotary_factor";
    let factor = positive(parameters, "factor")?.unwrap_or(1.0) as f32;
    let partial = positive(parameters, PARTIAL)?.unwrap_or(1.0);
    if partial > 1.0 {
        return Err(parameters.wrong(PARTIAL, "a number of at most 1"));
    }
    let turning = (partial * head_dim as f64 / 2.0).floor() as usize;
    let mut spec = RotarySpec::plain(theta, head_dim, Pairs::Halves);
    for (pair, frequency) in spec.inv_freq.iter_mut().enumerate() {
        *frequency = if pair < turning {
            *frequency / factor
        } else {
            0.0
        };
    }
    if !spec.inv_freq.iter().all(|frequency| frequency.is_finite()) {
        let expected = "a number that gives finite frequencies in float32";
        return Err(parameters.wrong("rope_theta", expected));
    }
    Ok(spec)
}

/// Like [`rotary`], with the parameters given as an object.
pub fn with_parameters(
    config: &JsonObject,
    parameters: Option<JsonObject>,
    head_dim: usize,
    defaults: &RopeDefaults,
) -> Result<RotarySpec, ConfigError> {
    // A family with its own key ignores the usual one.
    let number = |key: &str, (default, own): (f64, &str)| {
        let nested = match &parameters {
            Some(parameters) => positive(parameters, key)?,
            None => None,
        };
        Ok(match nested {
            Some(number) => number,
            None => positive(config, own)?.unwrap_or(default),
        })
    };
    let theta = number("rope_theta", defaults.theta)?;
    let (default, partial_key) = defaults.partial.unwrap_or((1.0, "partial_rotary_factor"));
    let partial = number("partial_rotary_factor", (default, partial_key))?;
    let wrong_partial = |expected: &str| match &parameters {
        Some(nested) if nested.get("partial_rotary_factor").is_some() => {
            nested.wrong("partial_rotary_factor", expected)
        }
        _ => config.wrong(partial_key, expected),
    };
    if defaults.partial.is_none() && partial != 1.0 {
        return Err(wrong_partial("1: this family rotates whole heads"));
    }
    let dim = (head_dim as f64 * partial) as usize;
    if dim == 0 || !dim.is_multiple_of(2) || dim > head_dim {
        let expected = format!("an even part of a head's width ({head_dim}), for rotary positions");
        return Err(match partial == 1.0 {
            true => config.wrong("head_dim", "an even number, for rotary positions"),
            false => wrong_partial(&expected),
        });
    }
    let mut spec = RotarySpec::plain(theta, dim, defaults.pairs);
    if let Some(parameters) = &parameters {
        let reading = Scaling {
            config,
            parameters,
            defaults,
            theta,
            dim,
        };
        reading.apply(&mut spec)?;
    }
    let long = spec.long.iter().flat_map(|long| &long.inv_freq);
    if !spec.inv_freq.iter().chain(long).all(|f| f.is_finite()) || !spec.factor.is_finite() {
        let key = match parameters.is_some() {
            true if config.get("rope_parameters").is_some() => "rope_parameters",
            _ => "rope_theta",
        };
        return Err(config.wrong(key, "numbers that give finite frequencies in float32"));
    }
    Ok(spec)
}

/// Computed in float32, in Transformers' order of operations: positions are multiplied by these, so
/// a difference in the last bit grows with the length of the prompt.
fn frequencies(theta: f64, dim: usize) -> impl Iterator<Item = f32> {
    powers(theta, dim).map(|power| 1.0 / power)
}

/// `theta^(2j / dim)`
fn powers(theta: f64, dim: usize) -> impl Iterator<Item = f32> {
    (0..dim / 2).map(move |j| (theta as f32).powf((2 * j) as f32 / dim as f32))
}

/// The parameters of a scaling, with the sizes that it depends on.
struct Scaling<'a> {
    config: &'a JsonObject,
    parameters: &'a JsonObject,
    defaults: &'a RopeDefaults,
    theta: f64,
    dim: usize,
}

impl Scaling<'_> {
    fn apply(&self, spec: &mut RotarySpec) -> Result<(), ConfigError> {
        let key = match self.parameters.get("rope_type") {
            Some(_) => "rope_type",
            None => "type",
        };
        match self.parameters.optional_text(key)? {
            // `mrope` has three axes of positions, which are equal for text.
            None | Some("default" | "mrope") => Ok(()),
            Some("linear") => {
                let factor = self.positive("factor")? as f32;
                spec.inv_freq.iter_mut().for_each(|f| *f /= factor);
                Ok(())
            }
            Some("dynamic") => {
                self.positive("factor")?;
                let positions = self.config.size("max_position_embeddings")?;
                spec.limit = Some((positions, DYNAMIC));
                Ok(())
            }
            Some("llama3") => self.llama3(&mut spec.inv_freq),
            // Phi-3's first checkpoints use these names for `longrope`.
            Some("longrope" | "su") => self.longrope(spec),
            Some("yarn") if self.parameters.get("short_factor").is_some() => self.longrope(spec),
            Some("yarn") => self.yarn(spec),
            Some(_) => Err(self.parameters.wrong(key, TYPES)),
        }
    }

    fn llama3(&self, inv_freq: &mut [f32]) -> Result<(), ConfigError> {
        let factor = self.positive("factor")?;
        let low = self.positive("low_freq_factor")?;
        let high = self.positive("high_freq_factor")?;
        if high <= low {
            let expected = "a number above `low_freq_factor`";
            return Err(self.parameters.wrong("high_freq_factor", expected));
        }
        let original = self.original()? as f64;
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

    fn yarn(&self, spec: &mut RotarySpec) -> Result<(), ConfigError> {
        let original = self.original()? as f64;
        let factor = match positive(self.parameters, "factor")? {
            Some(factor) => factor,
            None => self.config.size("max_position_embeddings")? as f64 / original,
        };
        let number = |key| self.parameters.optional_number(key);
        let scale = |by: f64| match factor <= 1.0 {
            true => 1.0,
            false => 0.1 * by * factor.ln() + 1.0,
        };
        let used = |value: Option<f64>| value.filter(|value| *value != 0.0);
        spec.factor = match number("attention_factor")? {
            Some(factor) => factor as f32,
            None => match (used(number("mscale")?), used(number("mscale_all_dim")?)) {
                (Some(one), Some(all)) => (scale(one) / scale(all)) as f32,
                _ => scale(1.0) as f32,
            },
        };
        let dim = self.dim as f64;
        // The index of the pair that makes `turns` full turns over the original length.
        let pair = |turns: f64| {
            let ratio = original / (turns * 2.0 * std::f64::consts::PI);
            dim * ratio.ln() / (2.0 * self.theta.ln())
        };
        let fast = pair(used(number("beta_fast")?).unwrap_or(32.0));
        let slow = pair(used(number("beta_slow")?).unwrap_or(1.0));
        let [fast, slow] = match self.parameters.flag("truncate", true)? {
            true => [fast.floor(), slow.ceil()],
            false => [fast, slow],
        };
        let low = fast.max(0.0) as f32;
        let mut high = slow.min(dim - 1.0) as f32;
        if low == high {
            high += 0.001;
        }
        spec.inv_freq = powers(self.theta, self.dim)
            .enumerate()
            .map(|(j, power)| {
                let ramp = ((j as f32 - low) / (high - low)).clamp(0.0, 1.0);
                let kept = 1.0 - ramp;
                1.0 / (factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
            })
            .collect();
        Ok(())
    }

    fn longrope(&self, spec: &mut RotarySpec) -> Result<(), ConfigError> {
        let short = self.factors("short_factor")?;
        let long = self.factors("long_factor")?;
        let original = self.original()?;
        let factor = match positive(self.parameters, "factor")? {
            Some(factor) => factor,
            None => self.config.size("max_position_embeddings")? as f64 / original as f64,
        };
        spec.factor = match self.parameters.optional_number("attention_factor")? {
            Some(factor) => factor as f32,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original as f64).ln()).sqrt() as f32,
        };
        let divided = |factors: Vec<f32>| {
            let powers = powers(self.theta, self.dim).zip(factors);
            powers
                .map(|(power, factor)| 1.0 / (factor * power))
                .collect()
        };
        spec.inv_freq = divided(short);
        match self.defaults.recomputes {
            true => {
                spec.long = Some(LongFrequencies {
                    inv_freq: divided(long),
                    beyond: original,
                });
            }
            false => spec.limit = Some((original, LONGROPE)),
        }
        Ok(())
    }

    /// Reads a list with one factor per pair.
    fn factors(&self, key: &str) -> Result<Vec<f32>, ConfigError> {
        let pairs = self.dim / 2;
        let expected = format!("a list of {pairs} positive numbers, one for each pair of a head");
        let list = match self.parameters.get(key) {
            None => return Err(self.parameters.missing(key, &expected)),
            Some(Value::Array(list)) => list.iter().map(Value::as_f64).collect::<Option<Vec<_>>>(),
            Some(_) => None,
        };
        list.filter(|list| list.len() == pairs && list.iter().all(|&factor| factor > 0.0))
            .map(|list| list.into_iter().map(|factor| factor as f32).collect())
            .ok_or_else(|| self.parameters.wrong(key, &expected))
    }

    /// The length that the model was originally trained for.
    fn original(&self) -> Result<usize, ConfigError> {
        let key = "original_max_position_embeddings";
        if let Some(original) = self.config.optional_size(key)?.or(self.defaults.original) {
            return Ok(original);
        }
        match self.parameters.optional_size(key)? {
            Some(original) => Ok(original),
            None => self.config.size("max_position_embeddings"),
        }
    }

    fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        positive(self.parameters, key)?
            .ok_or_else(|| self.parameters.missing(key, "a positive number"))
    }
}
