//! Multilayer perceptrons, as data.

use serde::{Deserialize, Serialize};

use super::{Linear, Mixture, Module, ModuleKind};

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
    /// A mixture of experts.
    Experts(Box<Mixture>),
    /// `fc2(act(fc1(x)))`
    Plain {
        /// `[intermediate_size, hidden_size]`
        fc1: Linear,
        /// `[hidden_size, intermediate_size]`
        fc2: Linear,
        /// Applied between the two.
        activation: Activation,
    },
    /// None: the layer is its mixer alone.
    Absent,
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
    /// `max(x, 0)^2`
    Relu2,
    /// `a x^2 + beta x` above 0, `b (exp(min(x, eps)) - 1 - x) + beta x` elsewhere, where `a` is
    /// `softplus(alpha_p)` and `b` is `beta + softplus(alpha_n)`. The four are parameters of the
    /// module `act_fn` in the MLP.
    Xielu,
}

impl Activation {
    /// The activation that Transformers calls `name`, without parameters of its own.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "relu" => Some(Self::Relu),
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu2" => Some(Self::Relu2),
            _ => None,
        }
    }

    /// The value that Transformers gives a parameter of [`Xielu`](Self::Xielu) in a fresh model.
    pub fn fresh_xielu(parameter: &str) -> f32 {
        match parameter {
            "alpha_p" => 0.8_f32.exp_m1().ln(),
            "alpha_n" => 0.3_f32.exp_m1().ln(),
            "beta" => 0.5,
            _ => -1e-6,
        }
    }

    /// The supported names, for error messages.
    pub const NAMES: &'static str =
        "one of silu, relu, relu2, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh";
}

impl Mlp {
    /// The mixture of experts, if it's one.
    pub fn mixture(&self) -> Option<&Mixture> {
        match self {
            Self::Experts(mixture) => Some(mixture),
            _ => None,
        }
    }

    /// The modules of its router and experts; empty without experts.
    pub(super) fn routed(&self) -> Vec<Module> {
        self.mixture().map(Mixture::routed).unwrap_or_default()
    }

    /// The module of an activation that has parameters.
    pub(super) fn act_fn(&self) -> Option<Module> {
        let Self::Plain {
            fc1,
            activation: Activation::Xielu,
            ..
        } = self
        else {
            return None;
        };
        let beside = |linear: &str| {
            let parent = linear.rsplit_once('.').map_or(linear, |(parent, _)| parent);
            format!("{parent}.act_fn")
        };
        Some(Module {
            path: beside(&fc1.path),
            source: beside(&fc1.source),
            kind: ModuleKind::Xielu,
        })
    }

    /// The linear layers that adapters can target, in Transformers' order.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Experts(mixture) => mixture.linears(),
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
            Self::Absent => Vec::new(),
        }
    }

    /// All linear layers, mutable.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Experts(mixture) => mixture.linears_mut(),
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
            Self::Absent => Vec::new(),
        }
    }

    /// Path and source of everything in it, mutable.
    pub fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        if let Self::Experts(mixture) = self {
            return mixture.names_mut();
        }
        let linears = self.linears_mut().into_iter();
        linears.map(Linear::names_mut).collect()
    }
}
