//! Makes the modules of a family's mixtures from sizes, options and names.

use super::{
    Expert, ExpertInner, GateUpRows, Glu, GroupScore, Groups, Mixture, Normalised, Router,
    RouterModule, Scores, SharedExpert, StackNames, Weighs,
};
use crate::arch::{Activation, DecoderSpec, Linear, Mlp, PlainParameter, Stored};
use crate::json::{ConfigError, JsonObject};

/// The most experts per layer that are accepted: each one is described before the weights are
/// checked.
const MOST_EXPERTS: usize = 1 << 12;

/// The experts of a family's layers.
#[derive(Debug, Clone)]
pub struct Experts {
    /// Number of experts in a layer.
    pub count: usize,
    /// Number of experts that a token uses.
    pub per_token: usize,
    /// Intermediate size of an expert.
    pub size: usize,
    /// How the router picks and weighs them.
    pub routing: Routing,
    /// Names of the gate, up and down projections in checkpoints with a tensor for each expert.
    pub names: [&'static str; 3],
    /// The name of the block in a layer, and the one that checkpoints use.
    pub block: [&'static str; 2],
    /// The router's name in the block, and the one that checkpoints use.
    pub router: [&'static str; 2],
    /// The form of an expert.
    pub form: ExpertForm,
    /// Names of the tensors that hold all experts.
    pub stacks: StackNames,
    /// Whether the router and every expert have biases.
    pub bias: bool,
    /// How gate and up are combined; `None` means with the layer's activation.
    pub glu: Option<Glu>,
    /// The MLP that every token uses.
    pub shared: Option<Shared>,
    /// A width of their own, and the names of the projections from and to that of the layer.
    pub around: Option<(usize, [&'static str; 2])>,
}

/// The options of a [`Router`], but for its sizes.
#[derive(Debug, Clone, Copy)]
pub struct Routing {
    /// What Transformers has in its place.
    pub held_as: RouterModule,
    /// How logits become scores.
    pub scores: Scores,
    /// The parameter that's added for the choice alone.
    pub correction: Option<Correction>,
    /// The choice is limited to the best groups.
    pub groups: Option<Groups>,
    /// How scores become weights.
    pub normalised: Normalised,
    /// The weights are multiplied by this.
    pub scale: Option<f64>,
    /// What the weights are multiplied with.
    pub weighs: Weighs,
    /// Whether it stays float32 in a model of 16 bits.
    pub in_float32: bool,
}

/// The name and shape of a router's correction.
#[derive(Debug, Clone, Copy)]
pub struct Correction {
    /// The module that holds it, in the block; empty for the block itself. And the one in
    /// checkpoints.
    pub module: [&'static str; 2],
    /// Its name.
    pub name: &'static str,
    /// Whether it's a matrix with a single row.
    pub is_row: bool,
}

impl Correction {
    /// `gate.e_score_correction_bias`
    pub const OF_GATE: Self = Self {
        module: ["gate", "gate"],
        name: "e_score_correction_bias",
        is_row: false,
    };
}

/// A family's defaults for DeepSeek-V3's router.
#[derive(Debug, Clone, Copy)]
pub struct CorrectedDefaults {
    /// Of `n_group` and `topk_group`.
    pub groups: [usize; 2],
    /// Of `norm_topk_prob`.
    pub normalised: bool,
    /// Of `routed_scaling_factor`.
    pub scale: f64,
}

/// The form of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertForm {
    /// A matrix for the gate, and one for up.
    Gated,
    /// One matrix for gate and up.
    Fused {
        /// The order of its rows.
        rows: GateUpRows,
        /// How the checkpoint stores all matrices.
        stored: Stored,
        /// Whether Transformers' class says so, if that's as `[in_features, out_features]`.
        declared: bool,
    },
    /// No gate.
    Plain,
}

/// The MLP that every token uses.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// Its name.
    pub name: &'static str,
    /// Whether it's in the layer, beside the block.
    pub beside_block: bool,
    /// Its intermediate size.
    pub size: usize,
    /// Names of its projections: gate, up and down; or both in one, and down.
    pub projections: SharedProjections,
    /// The name of the layer whose sigmoid its output is multiplied by.
    pub gate: Option<&'static str>,
    /// Whether its projections have biases.
    pub bias: bool,
}

/// The projections of a shared expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedProjections {
    /// `gate_proj`, `up_proj`, `down_proj`
    Gated,
    /// `input_linear`, gate and up in one, and `output_linear`
    Fused,
    /// `up_proj`, `down_proj`
    Plain,
}

impl Shared {
    /// A gated MLP called `name` in the block.
    pub fn gated(name: &'static str, size: usize) -> Self {
        Self {
            name,
            beside_block: false,
            size,
            projections: SharedProjections::Gated,
            gate: None,
            bias: false,
        }
    }
}

impl Routing {
    /// A softmax, whose picked scores are the weights.
    pub const SOFTMAX: Self = Self {
        held_as: RouterModule::Parameter,
        scores: Scores::Softmax,
        correction: None,
        groups: None,
        normalised: Normalised::No,
        scale: None,
        weighs: Weighs::Output,
        in_float32: false,
    };

    /// A softmax over all experts; with `normalised`, the picked scores are divided by their sum.
    pub fn softmax(normalised: bool) -> Self {
        Self {
            normalised: match normalised {
                true => Normalised::Sum,
                false => Normalised::No,
            },
            ..Self::SOFTMAX
        }
    }

    /// DeepSeek-V3's router, with the keys that its relatives share: `n_group`, `topk_group`,
    /// `norm_topk_prob` and `routed_scaling_factor`.
    ///
    /// # Errors
    /// If a key has a wrong type, or the groups don't fit the number of experts.
    pub fn sigmoid_with_correction(
        config: &JsonObject,
        [count, per_token]: [usize; 2],
        defaults: CorrectedDefaults,
    ) -> Result<Self, ConfigError> {
        let scale = config.optional_number("routed_scaling_factor")?;
        let scale = scale.unwrap_or(defaults.scale);
        let by = GroupScore::TwoHighest;
        Ok(Self {
            scores: Scores::Sigmoid,
            correction: Some(Correction::OF_GATE),
            groups: Groups::read(config, [count, per_token], defaults.groups, by)?,
            normalised: match config.flag("norm_topk_prob", defaults.normalised)? {
                true => Normalised::SumPlus(1e-20),
                false => Normalised::No,
            },
            scale: Some(scale).filter(|&scale| scale != 1.0),
            in_float32: true,
            ..Self::SOFTMAX
        })
    }
}

impl Groups {
    /// Reads `n_group` and `topk_group`, which have these defaults; `None` if they don't limit the
    /// choice.
    ///
    /// # Errors
    /// If they don't fit the number of experts.
    pub fn read(
        config: &JsonObject,
        [experts, per_token]: [usize; 2],
        [count, picked]: [usize; 2],
        by: GroupScore,
    ) -> Result<Option<Self>, ConfigError> {
        let count = config.optional_size("n_group")?.unwrap_or(count);
        let picked = config.optional_size("topk_group")?.unwrap_or(picked);
        if !experts.is_multiple_of(count) {
            let expected = format!("a divisor of the number of experts ({experts})");
            return Err(config.wrong("n_group", &expected));
        }
        let size = experts / count;
        if picked > count || picked * size < per_token {
            let expected = format!(
                "at most `n_group` ({count}), and groups with at least {per_token} experts in all"
            );
            return Err(config.wrong("topk_group", &expected));
        }
        if by == GroupScore::TwoHighest && size < 2 {
            return Err(config.wrong("n_group", "groups of at least 2 experts"));
        }
        Ok((picked < count).then_some(Self { count, picked, by }))
    }
}

/// Reads the number of experts, and how many a token uses. Each has a key and a default.
///
/// # Errors
/// If a number is missing without a default, or invalid.
pub fn sizes(
    config: &JsonObject,
    [count, per_token]: [(&str, Option<usize>); 2],
) -> Result<[usize; 2], ConfigError> {
    let size = |(key, default): (&str, Option<usize>), most| match config
        .optional_size_up_to(key, most)?
        .or(default)
    {
        Some(size) => Ok(size),
        None => config.size_up_to(key, most),
    };
    let number = size(count, MOST_EXPERTS)?;
    let picked = size(per_token, MOST_EXPERTS)?;
    check_sizes(config, per_token.0, [number, picked])?;
    Ok([number, picked])
}

/// Refuses more picked experts, the value of the key `per_token`, than there are.
///
/// # Errors
/// If there are more.
pub fn check_sizes(
    config: &JsonObject,
    per_token: &str,
    [count, picked]: [usize; 2],
) -> Result<(), ConfigError> {
    match picked <= count {
        true => Ok(()),
        false => {
            let expected = format!("at most the number of experts ({count})");
            Err(config.wrong(per_token, &expected))
        }
    }
}

impl Experts {
    /// `count` experts, of which a token uses `per_token`; see [`sizes`].
    pub fn new([count, per_token]: [usize; 2], size: usize, routing: Routing) -> Self {
        Self {
            count,
            per_token,
            size,
            routing,
            names: ["gate_proj", "up_proj", "down_proj"],
            block: ["mlp", "mlp"],
            router: ["gate", "gate"],
            form: ExpertForm::Gated,
            stacks: StackNames::OfExperts,
            bias: false,
            glu: None,
            shared: None,
            around: None,
        }
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

    /// The experts of the layer at the path `layer`.
    pub fn of_layer(&self, layer: &str, hidden_size: usize, activation: Activation) -> Mlp {
        Mlp::Experts(Box::new(self.mixture(layer, hidden_size, activation)))
    }

    /// The mixture of the layer at the path `layer`.
    pub fn mixture(&self, layer: &str, hidden_size: usize, activation: Activation) -> Mixture {
        let [block, stored_block] = self.block.map(|block| format!("{layer}.{block}"));
        let stored = match self.form {
            ExpertForm::Fused { stored, .. } => stored,
            ExpertForm::Gated | ExpertForm::Plain => Stored::OutIn,
        };
        let width = self.around.map_or(hidden_size, |(width, _)| width);
        let expert = |index: usize| {
            let linear = |name: &str, out, input| Linear {
                source: format!("{stored_block}.experts.{index}.{name}"),
                stored,
                ..Linear::new(
                    format!("{block}.experts.{index}.{name}"),
                    out,
                    input,
                    self.bias,
                )
            };
            let [gate, up, down] = self.names;
            Expert {
                inner: match self.form {
                    ExpertForm::Gated => ExpertInner::Gated {
                        gate_proj: linear(gate, self.size, width),
                        up_proj: linear(up, self.size, width),
                    },
                    ExpertForm::Fused { rows, .. } => ExpertInner::Fused {
                        gate_up_proj: linear("gate_up_proj", 2 * self.size, width),
                        rows,
                    },
                    ExpertForm::Plain => ExpertInner::Plain {
                        up_proj: linear(up, self.size, width),
                    },
                },
                down_proj: linear(down, width, self.size),
            }
        };
        Mixture {
            path: format!("{block}.experts"),
            source: format!("{stored_block}.experts"),
            stacks: self.stacks,
            router: self.router([&block, &stored_block], hidden_size),
            experts: (0..self.count).map(expert).collect(),
            glu: self.glu.unwrap_or(Glu::Plain(activation)),
            says_transposed: matches!(self.form, ExpertForm::Fused { declared: true, .. }),
            shared: self.shared.map(|shared| {
                let at = match shared.beside_block {
                    true => [layer, layer],
                    false => [block.as_str(), stored_block.as_str()],
                };
                shared.expert(at, hidden_size, activation)
            }),
            apart: None,
            around: self.around.map(|(width, names)| {
                let linear = |name: &str, out, input| Linear {
                    source: format!("{stored_block}.{name}"),
                    ..Linear::new(format!("{block}.{name}"), out, input, false)
                };
                let [before, after] = names;
                [
                    linear(before, width, hidden_size),
                    linear(after, hidden_size, width),
                ]
            }),
        }
    }

    fn router(&self, [block, stored_block]: [&str; 2], hidden_size: usize) -> Router {
        let [name, stored_name] = self.router;
        let routing = self.routing;
        let within = |block: &str, module: &str| match module {
            "" => block.to_owned(),
            _ => format!("{block}.{module}"),
        };
        Router {
            linear: Linear {
                source: format!("{stored_block}.{stored_name}"),
                ..Linear::new(
                    format!("{block}.{name}"),
                    self.count,
                    hidden_size,
                    self.bias,
                )
            },
            held_as: routing.held_as,
            per_token: self.per_token,
            scores: routing.scores,
            correction: routing.correction.map(|correction| PlainParameter {
                path: within(block, correction.module[0]),
                source: within(stored_block, correction.module[1]),
                name: correction.name,
                shape: match correction.is_row {
                    true => vec![1, self.count],
                    false => vec![self.count],
                },
            }),
            groups: routing.groups,
            normalised: routing.normalised,
            scale: routing.scale,
            expert_scale: None,
            weighs: routing.weighs,
            in_float32: routing.in_float32,
        }
    }
}

impl Shared {
    /// The MLP; `at` are path and source of what holds it.
    fn expert(
        &self,
        [path, source]: [&str; 2],
        hidden_size: usize,
        activation: Activation,
    ) -> SharedExpert {
        let linear = |name: &str, out, input, bias| Linear {
            source: format!("{source}.{name}"),
            ..Linear::new(format!("{path}.{name}"), out, input, bias)
        };
        let own = |name: &str, out, input| {
            linear(&format!("{}.{name}", self.name), out, input, self.bias)
        };
        let mlp = match self.projections {
            SharedProjections::Gated => Mlp::Gated {
                gate_proj: own("gate_proj", self.size, hidden_size),
                up_proj: own("up_proj", self.size, hidden_size),
                down_proj: own("down_proj", hidden_size, self.size),
                activation,
            },
            SharedProjections::Fused => Mlp::GatedFused {
                gate_up_proj: own("input_linear", 2 * self.size, hidden_size),
                down_proj: own("output_linear", hidden_size, self.size),
                activation,
            },
            SharedProjections::Plain => Mlp::Plain {
                fc1: own("up_proj", self.size, hidden_size),
                fc2: own("down_proj", hidden_size, self.size),
                activation,
            },
        };
        SharedExpert {
            mlp: Box::new(mlp),
            gate: self.gate.map(|name| linear(name, 1, hidden_size, false)),
        }
    }
}
