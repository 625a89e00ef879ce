//! The form of a linear layer.

mod merge;
mod nodes;
mod rotation;
#[cfg(test)]
mod tests;

pub use merge::scale_rows;
pub use nodes::input;
pub use rotation::{inverse, rotate_columns, rotate_input};

use super::Part;

/// `y = output(gain ∘ (W input(x) + delta x) + b)`; a stage that's absent does nothing.
#[derive(Debug, Default)]
pub struct LinearForm<'a> {
    /// What happens to the input on its way to the weight, first to last.
    pub input: Vec<InputStage<'a>>,
    /// `W'`, `[out_features, in_features]`.
    pub weight: Option<Part<'a>>,
    /// What's added to the product; it takes the layer's own input.
    pub delta: Option<Delta<'a>>,
    /// `[out_features]`, on product and delta, not on the bias.
    pub gain: Option<Part<'a>>,
    /// `b'`, `[out_features]`.
    pub bias: Option<Part<'a>>,
    /// What happens to the output, bias included.
    pub output: Option<OutputStage<'a>>,
}

/// A change of the input.
#[derive(Debug)]
pub enum InputStage<'a> {
    /// `x ∘ v`, `v` `[in_features]`.
    Scale(Part<'a>),
    /// Row vectors times a block-diagonal matrix: `x_k ← x_k · R_k`.
    Rotation {
        /// `[n, b, b]`, `n b = in_features`.
        blocks: Part<'a>,
        /// Element `order[c]` of the input is the `c`-th of the blocks; the result goes back to where it
        /// came from.
        order: Option<Vec<usize>>,
    },
}

/// A change of the product.
#[derive(Debug)]
pub enum Delta<'a> {
    /// `B A x`
    LowRank {
        /// `[r, in_features]`
        a: Part<'a>,
        /// `[out_features, r]`
        b: Part<'a>,
    },
    /// `(outer ⊗ inner) x`
    Kronecker {
        /// `[p, q]`
        outer: Part<'a>,
        /// `[out_features / p, in_features / q]`
        inner: Part<'a>,
    },
    /// Inputs whose indices have the same remainder by `r` are summed; column `c` of the weight gains row
    /// `c mod r` of `block`.
    Folded {
        /// `[r, out_features / copies]`
        block: Part<'a>,
        /// How often the outputs are repeated.
        copies: usize,
        /// Columns of the weight.
        in_features: usize,
    },
}

/// A change of the output.
#[derive(Debug)]
pub enum OutputStage<'a> {
    /// `y ∘ l`, `l` `[out_features]`.
    Scale(Part<'a>),
    /// `y_k ← y_k · c_k + y_other(k) · t_k`, `c` and `t` `[out_features]`.
    Pairs {
        /// What each output keeps of itself.
        own: Part<'a>,
        /// What it takes of the other one of its pair.
        other: Part<'a>,
        /// Each output's pair.
        order: Vec<usize>,
    },
}

impl<'a> LinearForm<'a> {
    /// A low-rank pair and nothing else.
    pub fn low_rank(a: Part<'a>, b: Part<'a>) -> Self {
        Self {
            delta: Some(Delta::LowRank { a, b }),
            ..Self::default()
        }
    }

    /// A replaced weight and nothing else.
    pub fn replaced(weight: Part<'a>) -> Self {
        Self {
            weight: Some(weight),
            ..Self::default()
        }
    }

    /// The pair, or the weight where that is no larger: it costs no node.
    pub fn low_rank_or_weight(a: Part<'a>, b: Part<'a>, weight: Part<'a>) -> Self {
        if a.elements() + b.elements() < weight.elements() {
            Self::low_rank(a, b)
        } else {
            Self::replaced(weight)
        }
    }

    /// Its tensors.
    pub fn parts(&self) -> Vec<&Part<'a>> {
        let mut all = Vec::new();
        for stage in &self.input {
            match stage {
                InputStage::Scale(part) | InputStage::Rotation { blocks: part, .. } => {
                    all.push(part);
                }
            }
        }
        all.extend(&self.weight);
        match &self.delta {
            Some(Delta::LowRank { a, b }) => all.extend([a, b]),
            Some(Delta::Kronecker { outer, inner }) => all.extend([outer, inner]),
            Some(Delta::Folded { block, .. }) => all.push(block),
            None => {}
        }
        all.extend(&self.gain);
        all.extend(&self.bias);
        match &self.output {
            Some(OutputStage::Scale(part)) => all.push(part),
            Some(OutputStage::Pairs { own, other, .. }) => all.extend([own, other]),
            None => {}
        }
        all
    }
}
