//! Mamba-2's mixers, as most families' `config.json` describe them.

use serde_json::Value;

use super::{Convolution, Gating, Linear, Mamba2, Norm, NormKind, PlainParameter, layer_kinds};
use crate::json::{ConfigError, JsonObject};

/// The keys of a family, with their defaults.
#[derive(Debug, Clone, Copy)]
pub struct MambaSizes {
    /// Number of heads.
    pub heads: (&'static str, usize),
    /// Width of a head; by default, and for `auto`, the inner width divided by the heads.
    pub head_width: (&'static str, Option<usize>),
    /// Number of heads of B and C.
    pub groups: (&'static str, usize),
    /// Width of a head of B and C.
    pub state: (&'static str, usize),
    /// Number of tokens that the convolution spans.
    pub kernel: (&'static str, usize),
    /// The inner width, which heads and their width must give; `None` if nothing else gives it.
    pub inner: Option<usize>,
    /// Whether the convolution has a bias.
    pub conv_bias: (&'static str, bool),
    /// Whether the projections before and after have one.
    pub bias: [(&'static str, bool); 2],
    /// The key of the activation.
    pub activation: &'static str,
    /// The order of norm and gate.
    pub gate: GateOrder,
    /// The norm's epsilon.
    pub epsilon: f64,
    /// The key of the limits of steps.
    pub limit: &'static str,
}

/// The order of a mixer's norm and gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateOrder {
    /// No norm.
    Alone,
    /// The gate, then the norm.
    First,
    /// The norm, then the gate.
    Last,
}

impl MambaSizes {
    /// Reads the mixer at `path`.
    ///
    /// # Errors
    /// If a size is missing or invalid, or sizes don't fit each other.
    pub fn read(
        &self,
        config: &JsonObject,
        path: &str,
        hidden_size: usize,
    ) -> Result<Mamba2, ConfigError> {
        let size = |(key, default): (&str, usize)| layer_kinds::size(config, key, default);
        let heads = size(self.heads)?;
        let head_width = self.head_width(config, heads)?;
        let inner = heads * head_width;
        if let Some(width) = self.inner.filter(|&width| width != inner) {
            let expected = format!("heads that are {width} wide together");
            return Err(config.wrong(self.heads.0, &expected));
        }
        let groups = size(self.groups)?;
        if !heads.is_multiple_of(groups) {
            let expected = format!("a divisor of `{}` ({heads})", self.heads.0);
            return Err(config.wrong(self.groups.0, &expected));
        }
        let state_width = size(self.state)?;
        let kernel = layer_kinds::kernel(config, self.kernel.0, self.kernel.1)?;
        let channels = inner + 2 * groups * state_width;
        let flag = |(key, default): (&'static str, bool)| config.flag(key, default);
        let linear = |name: &str, out, input, (key, default): (&'static str, bool)| {
            let bias = config.flag(key, default)?;
            let linear = Linear::new(format!("{path}.{name}"), out, input, bias);
            Ok::<_, ConfigError>(linear.with_bias_key(key))
        };
        layer_kinds::must_be_silu(config, self.activation)?;
        let conv_bias = flag(self.conv_bias)?;
        let parameter = |name| PlainParameter {
            path: path.to_owned(),
            source: path.to_owned(),
            name,
            shape: vec![heads],
        };
        let norm = Norm::new(format!("{path}.norm"), inner, NormKind::Rms, self.epsilon);
        Ok(Mamba2 {
            in_proj: linear(
                "in_proj",
                inner + channels + heads,
                hidden_size,
                self.bias[0],
            )?,
            convolution: Convolution::new(format!("{path}.conv1d"), channels, kernel, conv_bias),
            a_log: parameter("A_log"),
            d: parameter("D"),
            dt_bias: parameter("dt_bias"),
            gating: match self.gate {
                GateOrder::Alone => Gating::Plain,
                GateOrder::First => Gating::BeforeNorm(norm),
                GateOrder::Last => Gating::AfterNorm(norm),
            },
            out_proj: linear("out_proj", hidden_size, inner, self.bias[1])?,
            heads,
            head_width,
            groups,
            state_width,
            step_limit: step_limit(config, self.limit)?,
            scales: None,
        })
    }

    fn head_width(&self, config: &JsonObject, heads: usize) -> Result<usize, ConfigError> {
        let (key, default) = self.head_width;
        let named = config.get(key).filter(|width| *width != "auto");
        match (named, default, self.inner) {
            (None, None, Some(inner)) if inner.is_multiple_of(heads) => Ok(inner / heads),
            (None, None, Some(inner)) => {
                let expected = format!("a divisor of the inner width ({inner})");
                Err(config.wrong(self.heads.0, &expected))
            }
            (None, None, None) => Err(config.missing(key, "the width of a head")),
            (_, default, _) => layer_kinds::size(config, key, default.unwrap_or(0)),
        }
    }
}

/// Reads the range that steps of prompts are clamped to; `None` if that changes nothing.
fn step_limit(config: &JsonObject, key: &str) -> Result<Option<[f64; 2]>, ConfigError> {
    let Some(value) = config.get(key) else {
        return Ok(None);
    };
    let ends: Option<Vec<f64>> = value
        .as_array()
        .and_then(|ends| ends.iter().map(number).collect());
    match ends.as_deref() {
        Some(&[least, most]) if least <= most => {
            let changes = least > 0.0 || most.is_finite();
            Ok(changes.then_some([least, most]))
        }
        _ => Err(config.wrong(key, "two numbers, the smaller one first")),
    }
}

/// A number; Transformers writes infinity as `{"__float__": "Infinity"}`.
fn number(value: &Value) -> Option<f64> {
    let text = value.get("__float__").unwrap_or(value);
    match text.as_str() {
        Some("Infinity" | "inf") => Some(f64::INFINITY),
        _ => text.as_f64(),
    }
}
