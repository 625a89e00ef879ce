//! Mixers that keep a state of a fixed size instead of keys and values, as data.

use serde::{Deserialize, Serialize};

use super::{Linear, Module, ModuleKind};

/// A mixer whose layer passes a state from token to token.
#[derive(Debug, Clone)]
pub enum Recurrence {
    /// A convolution over the last few tokens, between two gates.
    ShortConvolution(ShortConvolution),
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
}

impl StateKind {
    /// Its name in the graph's inputs and outputs, as onnxruntime-genai has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Convolution => "conv_state",
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
        }
    }

    /// Its modules.
    pub(super) fn modules(&self) -> Vec<Module> {
        let mut all: Vec<Module> = self.linears().into_iter().map(Linear::module).collect();
        all.push(self.convolution().module());
        all
    }

    /// Path and source of every module, mutable.
    pub(super) fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        match self {
            Self::ShortConvolution(short) => {
                let conv = &mut short.convolution;
                vec![
                    (&mut short.in_proj.path, &mut short.in_proj.source),
                    (&mut short.out_proj.path, &mut short.out_proj.source),
                    (&mut conv.path, &mut conv.source),
                ]
            }
        }
    }

    /// Its convolution.
    pub fn convolution(&self) -> &Convolution {
        match self {
            Self::ShortConvolution(short) => &short.convolution,
        }
    }

    /// Its states.
    pub fn states(&self) -> Vec<State> {
        match self {
            Self::ShortConvolution(short) => vec![short.convolution.state()],
        }
    }
}
