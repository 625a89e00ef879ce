//! Mamba-2's mixer, as data.

use super::{Convolution, State, StateKind};
use crate::arch::{Linear, Norm, PlainParameter};

/// A state space with one decay for each head:
///
/// ```text
/// z, x B C, dt = in_proj(input)                    x, B, C = silu(conv(x B C))
/// d = softplus(dt + dt_bias)
/// h_t = exp(-exp(A_log) d_t) h_(t-1) + (d_t x_t) B_t^T
/// y_t = h_t C_t + D x_t
/// out_proj(gated(y_t, z_t))
/// ```
#[derive(Debug, Clone)]
pub struct Mamba2 {
    /// The rows of z, x, B, C and dt.
    pub in_proj: Linear,
    /// Over x, B and C, in this order.
    pub convolution: Convolution,
    /// `[heads]`
    pub a_log: PlainParameter,
    /// `[heads]`
    pub d: PlainParameter,
    /// `[heads]`
    pub dt_bias: PlainParameter,
    /// How the output is gated by z.
    pub gating: Gating,
    /// `[hidden_size, heads * head_width]`
    pub out_proj: Linear,
    /// Heads of x.
    pub heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Heads of B and of C: as many consecutive heads of x share one.
    pub groups: usize,
    /// Width of a head of B or C.
    pub state_width: usize,
    /// In prompts, d is clamped to this range.
    pub step_limit: Option<[f64; 2]>,
    /// Factors, if there are any.
    pub scales: Option<MambaScales>,
}

/// How a mixer's output y is gated by z.
#[derive(Debug, Clone)]
pub enum Gating {
    /// `y * silu(z)`
    Plain,
    /// `norm(y * silu(z))`, over each group of heads.
    BeforeNorm(Norm),
    /// `norm(y) * silu(z)`, over each group of heads.
    AfterNorm(Norm),
}

/// Factors of Falcon-H1's mixer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MambaScales {
    /// Of the input.
    pub input: f64,
    /// Of z, x, B, C and dt.
    pub projected: [f64; 5],
    /// Of the output.
    pub output: f64,
}

impl Gating {
    /// Its norm, if it has one.
    pub fn norm(&self) -> Option<&Norm> {
        match self {
            Self::Plain => None,
            Self::BeforeNorm(norm) | Self::AfterNorm(norm) => Some(norm),
        }
    }

    fn norm_mut(&mut self) -> Option<&mut Norm> {
        match self {
            Self::Plain => None,
            Self::BeforeNorm(norm) | Self::AfterNorm(norm) => Some(norm),
        }
    }
}

impl Mamba2 {
    /// Its module path.
    pub fn path(&self) -> &str {
        &self.a_log.path
    }

    /// Path and source of every module, mutable.
    pub(super) fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        let mut all = vec![
            self.in_proj.names_mut(),
            self.out_proj.names_mut(),
            self.convolution.names_mut(),
            self.a_log.names_mut(),
            self.d.names_mut(),
            self.dt_bias.names_mut(),
        ];
        let norm = self.gating.norm_mut();
        all.extend(norm.map(|norm| (&mut norm.path, &mut norm.source)));
        all
    }

    /// The width of x, and that of z.
    pub fn inner(&self) -> usize {
        self.heads * self.head_width
    }

    /// The width of B, and that of C.
    pub fn projections(&self) -> usize {
        self.groups * self.state_width
    }

    /// The matrix of each head.
    pub fn state(&self) -> State {
        State {
            kind: StateKind::Recurrent,
            shape: vec![self.heads, self.state_width, self.head_width],
        }
    }
}
