//! Mixtures of experts: a router selects a few MLPs for each token.

use super::{Activation, DecoderSpec, Expert, Linear, Mlp};
use crate::json::{ConfigError, JsonObject};

/// The most experts per layer that are accepted: each one is described before the weights are
/// checked.
const MOST_EXPERTS: usize = 1 << 12;

/// The experts of a family's layers.
#[derive(Debug)]
pub struct Experts {
    /// Number of experts in a layer.
    pub count: usize,
    /// Number of experts that a token uses.
    pub per_token: usize,
    /// Intermediate size of an expert.
    pub size: usize,
    /// Whether the router's weights of a token's experts are divided by their sum.
    pub normalised: bool,
    /// Names of the gate, up and down projections.
    pub names: [&'static str; 3],
    /// The name that checkpoints use in a layer instead of `mlp`.
    pub source: &'static str,
}

impl Experts {
    /// Reads `num_experts_per_tok`, and the number of experts from the key `count`.
    ///
    /// # Errors
    /// If a number is missing or invalid.
    pub fn read(
        config: &JsonObject,
        count: &str,
        size: usize,
        normalised: bool,
    ) -> Result<Self, ConfigError> {
        let count = config.size_up_to(count, MOST_EXPERTS)?;
        let per_token = config.size("num_experts_per_tok")?;
        if per_token > count {
            let expected = format!("at most the number of experts ({count})");
            return Err(config.wrong("num_experts_per_tok", &expected));
        }
        Ok(Self {
            count,
            per_token,
            size,
            normalised,
            names: ["gate_proj", "up_proj", "down_proj"],
            source: "mlp",
        })
    }

    /// Replaces the MLP of every layer for which `meant` is true.
    pub fn replace(&self, spec: &mut DecoderSpec, meant: impl Fn(usize) -> bool) {
        let hidden_size = spec.hidden_size;
        for (index, layer) in spec.layers.iter_mut().enumerate() {
            if !meant(index) {
                continue;
            }
            let Mlp::Gated { activation, .. } = &layer.mlp else {
                continue;
            };
            layer.mlp = self.of_layer(&layer.path, hidden_size, *activation);
        }
    }

    fn of_layer(&self, layer: &str, hidden_size: usize, activation: Activation) -> Mlp {
        let linear = |name: &str, out, input| Linear {
            source: format!("{layer}.{}.{name}", self.source),
            ..Linear::new(format!("{layer}.mlp.{name}"), out, input, false)
        };
        let experts = (0..self.count).map(|index| {
            let [gate, up, down] = self.names;
            let at = |name: &str| format!("experts.{index}.{name}");
            Expert {
                gate_proj: linear(&at(gate), self.size, hidden_size),
                up_proj: linear(&at(up), self.size, hidden_size),
                down_proj: linear(&at(down), hidden_size, self.size),
            }
        });
        Mlp::Experts {
            router: linear("gate", self.count, hidden_size),
            experts: experts.collect(),
            per_token: self.per_token,
            normalised: self.normalised,
            activation,
        }
    }
}
