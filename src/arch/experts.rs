//! Mixtures of experts, as data: a router selects a few MLPs for each token.
//!
//! `y = sum of w_e * expert_e(x) over the picked experts e, + shared(x)`. A [`Router`] says how the
//! picked experts and their weights `w_e` follow from the logits; [`describe`] makes all of a
//! layer's modules from a family's sizes and names.

pub mod describe;

use super::{Activation, Linear, Mlp, Module, ModuleKind, Norm, PlainParameter, Stored};

/// A mixture of experts in place of a layer's MLP.
#[derive(Debug, Clone)]
pub struct Mixture {
    /// Path of the module that holds all experts: `model.layers.0.mlp.experts`.
    pub path: String,
    /// Its path in the checkpoint.
    pub source: String,
    /// Names of the tensors that hold the weights of all experts, in checkpoints that stack them.
    pub stacks: StackNames,
    /// Picks the experts.
    pub router: Router,
    /// All experts of the layer.
    pub experts: Vec<Expert>,
    /// How gate and up are combined in each expert.
    pub glu: Glu,
    /// An MLP that every token uses.
    pub shared: Option<SharedExpert>,
    /// Whether Transformers' class of the experts says that their matrices are stored as
    /// `[in_features, out_features]`.
    pub says_transposed: bool,
    /// Inputs and norms of their own for experts, router and the shared MLP.
    pub apart: Option<Apart>,
    /// Projections around the experts, which have a width of their own: that of their input, and
    /// that of their sum.
    pub around: Option<[Linear; 2]>,
}

/// A mixture whose parts take other inputs than the layer's MLP, and have norms of their own. For
/// the residual stream `r`, and the MLP's input `x`:
///
/// ```text
/// y = dense_after(shared(x)) + experts_after(experts(experts_before(r)))
/// logits = router(router_norm(r) * router_scale / sqrt(hidden_size))
/// ```
#[derive(Debug, Clone)]
pub struct Apart {
    /// Applied to the shared MLP's output.
    pub dense_after: Norm,
    /// Applied to the residual stream, for the experts.
    pub experts_before: Norm,
    /// Applied to the experts' sum.
    pub experts_after: Norm,
    /// Applied to the residual stream, for the router.
    pub router_norm: Norm,
    /// `[hidden_size]`
    pub router_scale: PlainParameter,
}

/// Picks a few experts for each token, and gives each a weight.
#[derive(Debug, Clone)]
pub struct Router {
    /// `[experts, hidden_size]`: its outputs are the logits.
    pub linear: Linear,
    /// What Transformers has in its place.
    pub held_as: RouterModule,
    /// Number of experts that a token uses.
    pub per_token: usize,
    /// How logits become scores.
    pub scores: Scores,
    /// Added to the scores for the choice alone, one number for each expert, in float32.
    pub correction: Option<PlainParameter>,
    /// The choice is limited to the best groups of experts.
    pub groups: Option<Groups>,
    /// How the picked experts' scores become weights.
    pub normalised: Normalised,
    /// The weights are multiplied by this, after they're normalised.
    pub scale: Option<f64>,
    /// Each expert's weight is multiplied by its own number in this parameter.
    pub expert_scale: Option<PlainParameter>,
    /// What the weights are multiplied with.
    pub weighs: Weighs,
    /// Whether Transformers keeps its weight in float32 in a model of 16 bits, and computes the
    /// logits in float32.
    pub in_float32: bool,
}

/// What Transformers has in place of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterModule {
    /// A parameter of its own class, which adapters reach as `target_parameters` only.
    Parameter,
    /// A linear layer, as any other.
    Linear,
    /// A linear layer that returns more than its output: PEFT selects it, and fails on the result.
    LinearWithMore,
}

/// How a router's logits `z` become scores `s`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scores {
    /// `s = softmax(z)`. With [`Normalised::Sum`] the weights are a softmax over the picked logits.
    Softmax,
    /// `s = sigmoid(z)`
    Sigmoid,
    /// As [`Sigmoid`](Self::Sigmoid), but the highest logits are picked: a sigmoid of a large number
    /// is exactly 1.
    SigmoidOfPicked,
    /// Two experts. The first is the one with the highest logit `m`; its weight is the softmax over
    /// the logits with `(m - z_j) / max(|z_j|, m) <= 2 epsilon`. The second one is found in the same
    /// way among the others.
    SparseMixer {
        /// The tolerance.
        epsilon: f64,
    },
}

/// The choice of groups of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Number of groups, each of as many neighbouring experts.
    pub count: usize,
    /// Number of groups that a token may use.
    pub picked: usize,
    /// What a group is judged by.
    pub by: GroupScore,
}

/// What a group of experts is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScore {
    /// Its highest score. Scores of other groups become 0.
    Highest,
    /// The sum of its two highest scores. Those of other groups become minus infinity.
    TwoHighest,
}

/// How the picked experts' scores become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Normalised {
    /// They are the weights.
    No,
    /// They're divided by their sum.
    Sum,
    /// They're divided by their sum and this number.
    SumPlus(f64),
    /// They're divided by their sum, or by this number if that's greater.
    SumAtLeast(f64),
}

/// What a router's weights are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighs {
    /// The experts' outputs.
    Output,
    /// The experts' inputs.
    Input,
}

/// One of the MLPs that a router selects from. Transformers keeps all experts of a layer in one
/// tensor, so they aren't modules that an adapter could target.
#[derive(Debug, Clone)]
pub struct Expert {
    /// The projections of its input.
    pub inner: ExpertInner,
    /// `[hidden_size, intermediate_size]`
    pub down_proj: Linear,
}

/// The projections of an expert's input.
#[derive(Debug, Clone)]
pub enum ExpertInner {
    /// `down_proj(act(gate_proj(x)) * up_proj(x))`
    Gated {
        /// `[intermediate_size, hidden_size]`
        gate_proj: Linear,
        /// `[intermediate_size, hidden_size]`
        up_proj: Linear,
    },
    /// Gate and up in one matrix whose rows can't be taken apart without a copy.
    Fused {
        /// `[2 * intermediate_size, hidden_size]`
        gate_up_proj: Linear,
        /// The order of its rows.
        rows: GateUpRows,
    },
    /// `down_proj(act(up_proj(x)))`
    Plain {
        /// `[intermediate_size, hidden_size]`
        up_proj: Linear,
    },
}

/// The order of the rows of a matrix with gate and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateUpRows {
    /// All of the gate, all of up.
    Halves,
    /// One of the gate, one of up, and so on.
    Alternating,
}

/// How gate and up are combined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Glu {
    /// `act(gate) * up`, or `act(up)` without a gate.
    Plain(Activation),
    /// `g * sigmoid(alpha * g) * (u + 1)` with `g = min(gate, limit)`, `u = clip(up, ±limit)`.
    Clamped {
        /// In the sigmoid.
        alpha: f64,
        /// The bound.
        limit: f64,
    },
}

/// An MLP that every token uses, beside the picked experts.
#[derive(Debug, Clone)]
pub struct SharedExpert {
    /// The MLP.
    pub mlp: Box<Mlp>,
    /// `[1, hidden_size]`: the MLP's output is multiplied by the sigmoid of this layer's.
    pub gate: Option<Linear>,
}

/// Names of the tensors that hold the weights of all experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackNames {
    /// Transformers' own: `experts.gate_up_proj` and `experts.down_proj`.
    OfExperts,
    /// `input_linear.weight` and `output_linear.weight` beside the experts.
    Linears,
}

impl Expert {
    /// Its projections: those of the input, then `down_proj`.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = self.inner.linears();
        all.push(&self.down_proj);
        all
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = match &mut self.inner {
            ExpertInner::Gated { gate_proj, up_proj } => vec![gate_proj, up_proj],
            ExpertInner::Fused { gate_up_proj, .. } => vec![gate_up_proj],
            ExpertInner::Plain { up_proj } => vec![up_proj],
        };
        all.push(&mut self.down_proj);
        all
    }
}

impl ExpertInner {
    /// The projections, in the order in which a stacked tensor holds them.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Gated { gate_proj, up_proj } => vec![gate_proj, up_proj],
            Self::Fused { gate_up_proj, .. } => vec![gate_up_proj],
            Self::Plain { up_proj } => vec![up_proj],
        }
    }

    /// The name of the tensor that holds them for all experts.
    pub fn stack_name(&self) -> &'static str {
        match self {
            Self::Gated { .. } | Self::Fused { .. } => "gate_up_proj",
            Self::Plain { .. } => "up_proj",
        }
    }
}

impl StackNames {
    /// The tensor that holds the experts' projections `name`, one of `gate_up_proj`, `up_proj` and
    /// `down_proj`, for experts that are at `source` in the checkpoint.
    pub fn tensor(self, source: &str, name: &str) -> String {
        match self {
            Self::OfExperts => format!("{source}.{name}"),
            Self::Linears => {
                let around = source.rsplit_once('.').map_or(source, |(around, _)| around);
                let name = match name {
                    "down_proj" => "output_linear",
                    _ => "input_linear",
                };
                format!("{around}.{name}.weight")
            }
        }
    }
}

impl Apart {
    fn modules(&self) -> Vec<Module> {
        let Self {
            dense_after,
            experts_before,
            experts_after,
            router_norm,
            router_scale,
        } = self;
        let norms = [dense_after, experts_before, experts_after, router_norm];
        let norms = norms.into_iter().map(Norm::module);
        norms.chain([router_scale.module()]).collect()
    }

    fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        let Self {
            dense_after,
            experts_before,
            experts_after,
            router_norm,
            router_scale,
        } = self;
        let norms = [dense_after, experts_before, experts_after, router_norm];
        let norms = norms.into_iter();
        let mut all: Vec<_> = norms
            .map(|norm| (&mut norm.path, &mut norm.source))
            .collect();
        all.push((&mut router_scale.path, &mut router_scale.source));
        all
    }
}

impl Mixture {
    /// The linear layers that adapters can target, in Transformers' order.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = Vec::new();
        if self.router.held_as == RouterModule::Linear {
            all.push(&self.router.linear);
        }
        if let Some(shared) = &self.shared {
            all.extend(shared.mlp.linears());
            all.extend(&shared.gate);
        }
        all.extend(self.around.iter().flatten());
        all
    }

    /// Whether the experts' matrices are stored as `[in_features, out_features]` without their class
    /// saying so.
    pub fn hides_transposition(&self) -> bool {
        let first = self.experts.first();
        let stored = first.map(|expert| expert.down_proj.stored);
        stored == Some(Stored::InOut) && !self.says_transposed
    }

    /// All projections of its experts.
    pub fn experts_linears(&self) -> Vec<&Linear> {
        self.experts.iter().flat_map(Expert::linears).collect()
    }

    /// Its router, unless that's a linear layer like others, its experts, and the router's
    /// parameters.
    pub(super) fn routed(&self) -> Vec<Module> {
        let module = |linear: &Linear, is_linear, share: [usize; 2]| Module {
            path: linear.path.clone(),
            source: linear.source.clone(),
            kind: ModuleKind::Routed {
                in_features: linear.in_features,
                out_features: linear.out_features,
                bias: linear.bias,
                stored: linear.stored,
                is_linear,
                share,
            },
        };
        let router = &self.router;
        let share = [router.per_token, self.experts.len()];
        let mut all = Vec::new();
        if router.held_as != RouterModule::Linear {
            let is_linear = router.held_as == RouterModule::LinearWithMore;
            all.push(module(&router.linear, is_linear, [1, 1]));
        }
        let parameters = [&router.correction, &router.expert_scale];
        all.extend(parameters.into_iter().flatten().map(PlainParameter::module));
        all.extend(self.apart.iter().flat_map(Apart::modules));
        let experts = self.experts_linears().into_iter();
        all.extend(experts.map(|linear| module(linear, false, share)));
        all
    }

    /// All linear layers, mutable: router, experts and shared expert.
    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = self
            .experts
            .iter_mut()
            .flat_map(Expert::linears_mut)
            .collect();
        all.push(&mut self.router.linear);
        if let Some(shared) = &mut self.shared {
            all.extend(shared.mlp.linears_mut());
            all.extend(&mut shared.gate);
        }
        all.extend(self.around.iter_mut().flatten());
        all
    }

    /// Path and source of everything in it, mutable.
    pub(super) fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        let experts = self.experts.iter_mut().flat_map(Expert::linears_mut);
        let router = &mut self.router;
        let mut all: Vec<_> = experts
            .chain([&mut router.linear])
            .map(Linear::names_mut)
            .collect();
        let parameters = [&mut router.correction, &mut router.expert_scale];
        let parameters = parameters.into_iter().flatten();
        all.extend(parameters.map(PlainParameter::names_mut));
        if let Some(shared) = &mut self.shared {
            all.extend(shared.mlp.names_mut());
            all.extend(shared.gate.as_mut().map(Linear::names_mut));
        }
        let around = self.around.iter_mut().flatten();
        all.extend(around.map(Linear::names_mut));
        all.extend(self.apart.iter_mut().flat_map(Apart::names_mut));
        all.push((&mut self.path, &mut self.source));
        all
    }
}
