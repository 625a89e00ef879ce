//! The gated delta net of Qwen3-Next and Qwen3.5, as data.

use super::{Convolution, State, StateKind};
use crate::arch::{Linear, Norm, PlainParameter};

/// Linear attention whose state is decayed and then corrected by each token's value:
///
/// ```text
/// q, k, v = silu(conv(in_proj(x)))                 q, k divided by the length of each head
/// g = -exp(A_log) * softplus(a + dt_bias)          b, a, z = further projections of x
/// S_t = exp(g_t) S_(t-1) + k_t (sigmoid(b_t) (v_t - exp(g_t) S_(t-1)^T k_t))^T
/// out_proj(norm(S_t^T q_t / sqrt(key_width)) * silu(z_t))
/// ```
#[derive(Debug, Clone)]
pub struct GatedDelta {
    /// The projections of its input.
    pub projections: DeltaProjections,
    /// Over queries, keys and values, in this order.
    pub convolution: Convolution,
    /// `[value_heads]`
    pub a_log: PlainParameter,
    /// `[value_heads]`
    pub dt_bias: PlainParameter,
    /// The norm of each value head's output.
    pub norm: Norm,
    /// `[hidden_size, value_heads * value_width]`
    pub out_proj: Linear,
    /// Query heads, and as many key heads.
    pub key_heads: usize,
    /// Value heads, a multiple of the key heads: consecutive ones share a key head.
    pub value_heads: usize,
    /// Width of a query or key head.
    pub key_width: usize,
    /// Width of a value head.
    pub value_width: usize,
}

/// The projections of a gated delta net's input. Queries, keys and values have the widths of their
/// heads together, like z, the gate of the output; b and a have one row for each value head.
#[expect(
    clippy::large_enum_variant,
    reason = "there's one for each layer, in a box"
)]
#[derive(Debug, Clone)]
pub enum DeltaProjections {
    /// Queries, keys and values in one projection, and one for each of the others.
    Separate {
        /// The rows of queries, those of keys, those of values.
        qkv: Linear,
        /// The gate of the output.
        z: Linear,
        /// How much a token corrects the state.
        b: Linear,
        /// How much the state decays.
        a: Linear,
    },
    /// Two projections whose rows are grouped by key head.
    Grouped {
        /// For each key head: its query, its key, the values that share it, their z.
        qkvz: Linear,
        /// For each key head: b and a of the value heads that share it.
        ba: Linear,
    },
}

impl GatedDelta {
    /// The width of all queries, and that of all keys.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_width
    }

    /// The width of all values.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_width
    }

    /// Its linear layers, in the order in which Transformers declares them.
    pub fn linears(&self) -> Vec<&Linear> {
        match &self.projections {
            DeltaProjections::Separate { qkv, z, b, a } => vec![&self.out_proj, qkv, z, b, a],
            DeltaProjections::Grouped { qkvz, ba } => vec![qkvz, ba, &self.out_proj],
        }
    }

    /// Path and source of every module, mutable.
    pub(super) fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        let mut linears = match &mut self.projections {
            DeltaProjections::Separate { qkv, z, b, a } => vec![qkv, z, b, a],
            DeltaProjections::Grouped { qkvz, ba } => vec![qkvz, ba],
        };
        linears.push(&mut self.out_proj);
        let mut all: Vec<_> = linears.into_iter().map(Linear::names_mut).collect();
        all.push(self.convolution.names_mut());
        all.extend([&mut self.a_log, &mut self.dt_bias].map(PlainParameter::names_mut));
        all.push((&mut self.norm.path, &mut self.norm.source));
        all
    }

    /// Its module path.
    pub fn path(&self) -> &str {
        &self.a_log.path
    }

    /// The matrix of each value head.
    pub fn state(&self) -> State {
        State {
            kind: StateKind::Recurrent,
            shape: vec![self.value_heads, self.key_width, self.value_width],
        }
    }
}
