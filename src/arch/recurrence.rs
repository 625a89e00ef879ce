//! Mixers that keep a state of a fixed size instead of keys and values, as data.

mod gated_delta;
mod mamba2;

use serde::{Deserialize, Serialize};

use super::{Linear, Module, ModuleKind, Norm, PlainParameter};
pub use gated_delta::{DeltaProjections, GatedDelta};
pub use mamba2::{Gating, Mamba2, MambaScales};

/// A mixer whose layer passes a state from token to token.
#[derive(Debug, Clone)]
pub enum Recurrence {
    /// A convolution over the last few tokens, between two gates.
    ShortConvolution(Box<ShortConvolution>),
    /// Linear attention whose state is corrected by each token.
    GatedDelta(Box<GatedDelta>),
    /// A state space.
    Mamba2(Box<Mamba2>),
}

/// `B, C, x = in_proj(h)`, `out_proj(C * conv(B * x))`
#[derive(Debug, Clone)]
pub struct ShortConvolution {
    /// `[3 * hidden_size, hidden_size]`: the rows of B, those of C, those of x.
    pub in_proj: Linear,
    /// Over `hidden_size` channels, without an activation.
    pub convolution: Convolution,
    /// `[hidden_size, hidden_size]`
    pub out_proj: Linear,
}

/// A causal convolution of each channel over positions: `y_t = sum_j w_j x_(t - kernel + 1 + j) +
/// b`, where the inputs before the first token are zero.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// Module path, as adapters see it.
    pub path: String,
    /// Module path in the checkpoint, whose tensors it uses.
    pub source: String,
    /// Number of channels.
    pub channels: usize,
    /// Number of tokens that an output depends on.
    pub kernel: usize,
    /// Whether the checkpoint has a bias.
    pub bias: bool,
}

/// What a state holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// The last inputs of a convolution, `[kernel - 1, channels]`.
    Convolution,
    /// A matrix for each head, `[heads, key width, value width]`, in float32.
    Recurrent,
}

impl StateKind {
    /// Its name in the graph's inputs and outputs, as onnxruntime-genai has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Convolution => "conv_state",
            Self::Recurrent => "recurrent_state",
        }
    }
}

/// A state of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What it holds.
    pub kind: StateKind,
    /// Its shape for one sequence.
    pub shape: Vec<usize>,
}

impl Convolution {
    /// A convolution whose path in the checkpoint is the same.
    pub fn new(path: String, channels: usize, kernel: usize, bias: bool) -> Self {
        Self {
            source: path.clone(),
            path,
            channels,
            kernel,
            bias,
        }
    }

    /// The module that adapters see.
    pub fn module(&self) -> Module {
        Module {
            path: self.path.clone(),
            source: self.source.clone(),
            kind: ModuleKind::Convolution {
                channels: self.channels,
                kernel: self.kernel,
                bias: self.bias,
            },
        }
    }

    /// The inputs that it keeps for later tokens.
    pub fn state(&self) -> State {
        State {
            kind: StateKind::Convolution,
            shape: vec![self.kernel - 1, self.channels],
        }
    }
}

impl Recurrence {
    /// Its linear layers, in the order in which Transformers declares them.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::ShortConvolution(short) => vec![&short.in_proj, &short.out_proj],
            Self::GatedDelta(net) => net.linears(),
            Self::Mamba2(mixer) => vec![&mixer.in_proj, &mixer.out_proj],
        }
    }

    /// Its modules.
    pub(super) fn modules(&self) -> Vec<Module> {
        let mut all: Vec<Module> = self.linears().into_iter().map(Linear::module).collect();
        all.push(self.convolution().module());
        all.extend(self.parameters().into_iter().map(PlainParameter::module));
        all.extend(self.norm().map(Norm::module));
        all
    }

    /// Path and source of every module, mutable.
    pub(super) fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        let mut all = Vec::new();
        match self {
            Self::ShortConvolution(short) => {
                let ShortConvolution {
                    in_proj,
                    convolution,
                    out_proj,
                } = &mut **short;
                all.extend([in_proj, out_proj].map(Linear::names_mut));
                all.push(convolution.names_mut());
            }
            Self::GatedDelta(net) => all.extend(net.names_mut()),
            Self::Mamba2(mixer) => all.extend(mixer.names_mut()),
        }
        all
    }

    /// Its convolution.
    pub fn convolution(&self) -> &Convolution {
        match self {
            Self::ShortConvolution(short) => &short.convolution,
            Self::GatedDelta(net) => &net.convolution,
            Self::Mamba2(mixer) => &mixer.convolution,
        }
    }

    /// The parameters that it holds itself.
    fn parameters(&self) -> Vec<&PlainParameter> {
        match self {
            Self::ShortConvolution(_) => Vec::new(),
            Self::GatedDelta(net) => vec![&net.dt_bias, &net.a_log],
            Self::Mamba2(mixer) => vec![&mixer.dt_bias, &mixer.a_log, &mixer.d],
        }
    }

    /// Its norm, if it has one.
    fn norm(&self) -> Option<&Norm> {
        match self {
            Self::ShortConvolution(_) => None,
            Self::GatedDelta(net) => Some(&net.norm),
            Self::Mamba2(mixer) => mixer.gating.norm(),
        }
    }

    /// Its states.
    pub fn states(&self) -> Vec<State> {
        let convolution = self.convolution().state();
        match self {
            Self::ShortConvolution(_) => vec![convolution],
            Self::GatedDelta(net) => vec![convolution, net.state()],
            Self::Mamba2(mixer) => vec![convolution, mixer.state()],
        }
    }
}

impl Convolution {
    fn names_mut(&mut self) -> (&mut String, &mut String) {
        (&mut self.path, &mut self.source)
    }
}
