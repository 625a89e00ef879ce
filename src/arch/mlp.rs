//! Multilayer perceptrons, as data.

use serde::{Deserialize, Serialize};

use super::{Linear, Module, ModuleKind};

/// A multilayer perceptron.
#[derive(Debug, Clone)]
pub enum Mlp {
    /// `down_proj(act(gate_proj(x)) * up_proj(x))`
    Gated {
        /// `[intermediate_size, hidden_size]`
        gate_proj: Linear,
        /// `[intermediate_size, hidden_size]`
        up_proj: Linear,
        /// `[hidden_size, intermediate_size]`
        down_proj: Linear,
        /// Applied to the gate.
        activation: Activation,
    },
    /// A gated MLP with gate and up in one projection.
    GatedFused {
        /// `[2 * intermediate_size, hidden_size]`: the rows of the gate, then those of up.
        gate_up_proj: Linear,
        /// `[hidden_size, intermediate_size]`
        down_proj: Linear,
        /// Applied to the gate.
        activation: Activation,
    },
    /// A mixture of experts: the sum of the selected experts' outputs, each multiplied by the
    /// router's weight.
    Experts {
        /// `[experts, hidden_size]`
        router: Linear,
        /// All experts of the layer.
        experts: Vec<Expert>,
        /// Number of experts that a token uses.
        per_token: usize,
        /// Whether the selected experts' weights, a softmax over all experts, are divided by their
        /// sum.
        normalised: bool,
        /// Applied to each expert's gate.
        activation: Activation,
    },
    /// `fc2(act(fc1(x)))`
    Plain {
        /// `[intermediate_size, hidden_size]`
        fc1: Linear,
        /// `[hidden_size, intermediate_size]`
        fc2: Linear,
        /// Applied between the two.
        activation: Activation,
    },
}

/// One of the MLPs that a router selects from: `down_proj(act(gate_proj(x)) * up_proj(x))`.
/// Transformers keeps all experts of a layer in one tensor, so they aren't modules that an adapter
/// could target.
#[derive(Debug, Clone)]
pub struct Expert {
    /// `[intermediate_size, hidden_size]`
    pub gate_proj: Linear,
    /// `[intermediate_size, hidden_size]`
    pub up_proj: Linear,
    /// `[hidden_size, intermediate_size]`
    pub down_proj: Linear,
}

/// An element-wise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `max(x, 0)`
    Relu,
    /// `x/2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`
    GeluTanh,
}

impl Activation {
    /// The activation that Transformers calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "relu" => Some(Self::Relu),
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            _ => None,
        }
    }

    /// The supported names, for error messages.
    pub const NAMES: &'static str =
        "one of silu, relu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh";
}

impl Mlp {
    /// The modules of its router and experts; empty without experts.
    pub(super) fn routed(&self) -> Vec<Module> {
        let Self::Experts {
            router,
            experts,
            per_token,
            ..
        } = self
        else {
            return Vec::new();
        };
        let module = |linear: &Linear, share: [usize; 2]| Module {
            path: linear.path.clone(),
            source: linear.source.clone(),
            kind: ModuleKind::Routed {
                in_features: linear.in_features,
                out_features: linear.out_features,
                share,
            },
        };
        let share = [*per_token, experts.len()];
        let inner = experts
            .iter()
            .flat_map(|expert| [&expert.gate_proj, &expert.up_proj, &expert.down_proj]);
        let all = inner.map(|linear| module(linear, share));
        [module(router, [1, 1])].into_iter().chain(all).collect()
    }

    /// The linear layers that adapters can target, in Transformers' order.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Experts { .. } => Vec::new(),
            Self::Gated {
                gate_proj,
                up_proj,
                down_proj,
                ..
            } => vec![gate_proj, up_proj, down_proj],
            Self::GatedFused {
                gate_up_proj,
                down_proj,
                ..
            } => vec![gate_up_proj, down_proj],
            Self::Plain { fc1, fc2, .. } => vec![fc1, fc2],
        }
    }

    /// All linear layers, mutable.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Experts {
                router, experts, ..
            } => experts
                .iter_mut()
                .flat_map(|expert| {
                    [
                        &mut expert.gate_proj,
                        &mut expert.up_proj,
                        &mut expert.down_proj,
                    ]
                })
                .chain([router])
                .collect(),
            Self::Gated {
                gate_proj,
                up_proj,
                down_proj,
                ..
            } => vec![gate_proj, up_proj, down_proj],
            Self::GatedFused {
                gate_up_proj,
                down_proj,
                ..
            } => vec![gate_up_proj, down_proj],
            Self::Plain { fc1, fc2, .. } => vec![fc1, fc2],
        }
    }
}
